"""Generation: useful tokens a second, and bytes a second of one accelerator.

`--work multiturn` and `--work plain` are played beside peers. `--work steady` (what
larger shapes play) is for one accelerator: rows of equal length; bytes read a
second by decoding, against a measured copy and against the data sheet; prefill's share
of the FLOP/s; the share of the time in which the device waits for the host.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from models.config import DecoderConfig
from rl.programs import describe
from scope_jax import charts
from scope_jax.benchmarks import generation, harness, shapes, trace, workloads

# Bytes a second that the data sheets promise.
DATA_SHEETS = {"NVIDIA H100 80GB HBM3": 3.35e12, "NVIDIA H200": 4.8e12}
# And FLOP/s in 16 bits, without sparsity: the same chip in both.
FLOPS = 989e12
NEW = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--shape", choices=tuple(shapes.SHAPES), default="qwen3_31m")
    parser.add_argument("--work", choices=("multiturn", "plain", "steady"))
    parser.add_argument(
        "--slots", default="8", help="several with commas: ours at each of them"
    )
    parser.add_argument("--groups", type=int, default=4, help="of 8 conversations")
    parser.add_argument("--lengths", default="1024,2048", help="of steady rows")
    parser.add_argument(
        "--chart", type=Path, help="draw steady tokens/s over slots into this SVG file"
    )
    generation.add_arguments(parser)


def run(args: argparse.Namespace) -> harness.Result:
    """Useful tokens a second at the first number of slots; the others in notes."""
    config = shapes.SHAPES[args.shape]
    slots = [int(x) for x in args.slots.split(",")]
    if args.work == "steady" or (args.work is None and args.shape != "qwen3_31m"):
        return bus(config, slots, [int(x) for x in args.lengths.split(",")], args)
    params = shapes.random_params(config, jnp.float32)
    if args.work == "plain":
        work = workloads.plain(config.vocab_size)
    else:
        work = workloads.multiturn(config.vocab_size, groups=args.groups)
    tokens = workloads.useful_tokens(work)
    engine = generation.make_engine(params, config, work, slots[0], args)
    seconds, notes = generation.take_turns(engine, params, work, args)
    for count in slots[1:]:
        engine = generation.make_engine(params, config, work, count, args)
        rates = []
        for _ in range(args.repeats):
            engine.set_params(params)
            rates.append(round(tokens / generation.play(engine, work)["seconds"], 1))
        spread = f"{statistics.median(rates)} ({min(rates)} to {max(rates)})"
        notes[f"tokens/s with {count} slots"] = spread
    return harness.Result(
        what=f"sampler: {args.work or 'multiturn'}, {len(work)} conversations, "
        f"{slots[0]} slots, 31 M parameters, float32, useful tokens",
        unit="tokens",
        amount=tokens,
        seconds=seconds,
        notes=notes,
    )


def bus(
    config: DecoderConfig,
    slots: list[int],
    lengths: list[int],
    args: argparse.Namespace,
) -> harness.Result:
    """Tokens a second at the last number of slots and length; bytes a second of all."""
    on_cpu = jax.default_backend() == "cpu"  # where 16 bits are emulated
    dtype = jnp.dtype(jnp.float32 if on_cpu else jnp.bfloat16)
    params = shapes.random_params(config, dtype)
    sheet = DATA_SHEETS.get(jax.devices()[0].device_kind)
    copied = copy_speed()
    # Each step reads all weights but the table that tokens are looked up in.
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    if not config.tie_embeddings:
        weights -= params["embed"].nbytes
    blocks = sum(x.size for x in jax.tree.leaves(params["blocks"]))
    heads = config.num_layers * config.num_kv_heads * config.head_dim
    token = 2 * heads * dtype.itemsize
    notes: dict[str, Any] = {"measured copy, bytes/s": copied}
    found: dict[str, list[tuple[float, float]]] = {}
    for count in slots:
        for length in lengths:
            work = workloads.steady(
                config.vocab_size, rows=count, length=length, new=NEW
            )
            engine = generation.make_engine(params, config, work, count, args)
            generation.play(engine, work)
            turns = []
            for _ in range(args.repeats):
                engine.set_params(params)
                turns.append(generation.play(engine, work))
            seconds = {"ours": [turn["perf/decode_seconds"] for turn in turns]}
            best = min(turns, key=lambda turn: turn["perf/decode_seconds"])
            read = best["perf/decode_steps"] * (weights + count * length * token)
            speed = read / best["perf/decode_seconds"]
            prefilled = best["perf/prefill_tokens"] / best["perf/prefill_seconds"]
            # A token sees half of its prompt on average.
            seen = 2 * config.num_layers * config.num_heads * config.head_dim * length
            flops = prefilled * (2 * blocks + seen)
            # Only decoding: the prompts are in the cache already.
            gaps = trace.host_gaps(lambda e=engine, w=work: generation.play(e, w))
            rate = count * NEW / best["perf/decode_seconds"]
            found.setdefault(f"length {length}", []).append((count, rate))
            notes[f"{count} slots, length {length}"] = {
                "tokens/s": rate,
                "bytes/s": speed,
                "of measured copy": speed / copied,
                "of data sheet": speed / sheet if sheet else None,
                "prefill FLOP/s": flops,
                "prefill MFU": flops / FLOPS if sheet else None,
                "host gaps": gaps,
                "attention": f"XLA, page by page, {args.page_size} tokens each",
                "memory": describe(engine.compile()),
            }
            del engine
    if args.chart is not None:
        args.chart.write_text(charts.lines(found) + "\n")
    return harness.Result(
        what=f"sampler: decoding, {slots[-1]} slots of length {lengths[-1]}, "
        f"{args.shape}, {dtype}",
        unit="tokens",
        amount=slots[-1] * NEW,
        seconds=seconds,
        notes=notes,
    )


def copy_speed(size: int = 2**31) -> float:
    """Bytes read and written a second by a copy of ``size`` bytes; the best of ten."""
    x = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(x).block_until_ready()
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        copy(x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size / best
