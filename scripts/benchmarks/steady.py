"""Decoding on one accelerator: rows of equal length, all slots busy.

Bytes read per second by decoding, against a measured copy and against the data sheet;
prefill's share of the FLOP/s; the share of the time in which the device waits for the
host.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import gaps, generation, harness, shapes, workloads
from models.config import DecoderConfig
from rl.engine.programs import describe
from scope_jax.report import charts

NEW = 128
"""Tokens sampled in each row."""


def run(config: DecoderConfig, args: argparse.Namespace) -> harness.Result:
    """Tokens per second at the last number of slots and length; the others in notes."""
    slots = [int(x) for x in args.slots.split(",")]
    lengths = [int(x) for x in args.lengths.split(",")]
    on_cpu = jax.default_backend() == "cpu"  # where 16 bits are emulated
    dtype = jnp.dtype(jnp.float32 if on_cpu else jnp.bfloat16)
    params = shapes.random_params(config, dtype)
    copied = copy_speed()
    notes: dict[str, Any] = {"measured copy, bytes/s": copied}
    found: dict[str, list[tuple[float, float]]] = {}
    for count in slots:
        for length in lengths:
            seconds, said = measure(params, config, count, length, copied, args)
            notes[f"{count} slots, length {length}"] = said
            found.setdefault(f"length {length}", []).append((count, said["tokens/s"]))
    if args.chart is not None:
        args.chart.write_text(charts.lines(found) + "\n")
    return harness.Result(
        what=f"sampler: decoding, {slots[-1]} slots of length {lengths[-1]}, "
        f"{args.shape}, {dtype}",
        unit="tokens",
        amount=slots[-1] * NEW,
        seconds={"ours": seconds},
        notes=notes,
    )


def measure(
    params: Any,
    config: DecoderConfig,
    slots: int,
    length: int,
    copied: float,
    args: argparse.Namespace,
) -> tuple[list[float], dict[str, Any]]:
    """Seconds of decoding in each turn, and what the best turn comes to."""
    work = workloads.steady(config.vocab_size, rows=slots, length=length, new=NEW)
    engine = generation.make_engine(params, config, work, slots, args)
    generation.play(engine, work)
    turns = generation.replay(engine, params, work, args.repeats)
    best = min(turns, key=lambda turn: turn["perf/decode_seconds"])
    read = best["perf/decode_steps"] * bytes_per_step(params, config, slots * length)
    speed = read / best["perf/decode_seconds"]
    prefilled = best["perf/prefill_tokens"] / best["perf/prefill_seconds"]
    flops = prefilled * flops_per_token(params, config, length)
    sheet = harness.DATA_SHEETS.get(jax.devices()[0].device_kind)
    return [turn["perf/decode_seconds"] for turn in turns], {
        "tokens/s": slots * NEW / best["perf/decode_seconds"],
        "bytes/s": speed,
        "of measured copy": speed / copied,
        "of data sheet": speed / sheet[0] if sheet else None,
        "prefill FLOP/s": flops,
        "prefill MFU": flops / sheet[1] if sheet else None,
        # Only decoding: the prompts are in the cache already.
        "host gaps": gaps.host_gaps(lambda: generation.play(engine, work)),
        "attention": f"XLA, page by page, {args.page_size} tokens each",
        "memory": describe(engine.compile()),
    }


def bytes_per_step(params: Any, config: DecoderConfig, cached: int) -> int:
    """What a decode step reads: ``cached`` tokens, and the weights.

    Of these, all but the table that tokens are looked up in.
    """
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    if not config.tie_embeddings:
        weights -= params["embed"].nbytes
    heads = config.num_layers * config.num_kv_heads * config.head_dim
    return weights + cached * 2 * heads * params["embed"].dtype.itemsize


def flops_per_token(params: Any, config: DecoderConfig, length: int) -> int:
    """FLOPs of one token of a prompt, which sees half of the others on average."""
    blocks = sum(x.size for x in jax.tree.leaves(params["blocks"]))
    seen = config.num_layers * config.num_heads * config.head_dim * length
    return 2 * (blocks + seen)


def copy_speed() -> float:
    """Bytes read and written per second by copying 2 GiB; the best of ten."""
    size = 2**31
    x = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    turns = [harness.timed(lambda: copy(x))[0] for _ in range(11)]
    return 2 * size / min(turns[1:])
