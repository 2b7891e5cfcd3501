"""Decoding on one accelerator: rows of equal length, all slots busy.

Bytes read per second by decoding, against a measured copy and against the data sheet;
prefill's share of the FLOP/s; the share of the time in which the device waits for the
host.
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import gaps, generation, harness, shapes, workloads
from models.config import DecoderConfig
from rl.engine.engine import Engine
from rl.engine.programs import describe
from scope_jax.report import charts

NEW = 128
"""Tokens sampled in each row."""


def run(config: DecoderConfig, args: argparse.Namespace) -> harness.Result:
    """Tokens per second at the last number of slots and length; the others in notes."""
    slots = [int(x) for x in args.slots.split(",")]
    lengths = [int(x) for x in args.lengths.split(",")]
    dtype = shapes.usual_dtype(args.dtype)
    params = shapes.random_params(config, dtype)
    copied = copy_speed()
    notes: dict[str, Any] = {"measured copy, bytes/s": copied}
    read = read_speed() if jax.default_backend() == "cpu" else None
    if read:
        notes["measured read, all cores, bytes/s"] = read
    found: dict[str, list[tuple[float, float]]] = {}
    for count in slots:
        engine = engine_of(params, config, count, lengths, args)
        for length in lengths:
            seconds, said = measure(engine, params, length, copied, args.repeats)
            if read:
                said["of measured read"] = said["bytes/s"] / read
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


def engine_of(
    params: Any,
    config: DecoderConfig,
    slots: int,
    lengths: Sequence[int],
    args: argparse.Namespace,
    *,
    new: int = NEW,
) -> Engine:
    """An engine for rows of all ``lengths``, compiled."""
    work = workloads.steady(config.vocab_size, rows=1, length=max(lengths), new=new)
    return generation.make_engine(params, config, work, slots, args)


def measure(
    engine: Engine,
    params: Any,
    length: int,
    copied: float,
    repeats: int,
    *,
    new: int = NEW,
) -> tuple[list[float], dict[str, Any]]:
    """Seconds of decoding in each turn, and what the best turn comes to."""
    config, slots = engine.sampler.config, engine.config.slots
    work = workloads.steady(config.vocab_size, rows=slots, length=length, new=new)
    generation.play(engine, work)
    turns = generation.replay(engine, params, work, repeats)
    best = min(turns, key=lambda turn: turn["perf/decode_seconds"])
    read = best["perf/decode_steps"] * bytes_per_step(params, config, slots * length)
    speed = read / best["perf/decode_seconds"]
    prefilled = best["perf/prefill_tokens"] / best["perf/prefill_seconds"]
    flops = prefilled * flops_per_token(params, config, length)
    sheet = harness.DATA_SHEETS.get(jax.devices()[0].device_kind)
    return [turn["perf/decode_seconds"] for turn in turns], {
        "tokens/s": slots * new / best["perf/decode_seconds"],
        "bytes/s": speed,
        "of measured copy": speed / copied,
        "of data sheet": speed / sheet[0] if sheet else None,
        "prefill FLOP/s": flops,
        "prefill MFU": flops / sheet[1] if sheet else None,
        # Only decoding: the prompts are in the cache already.
        "host gaps": gaps.host_gaps(lambda: generation.play(engine, work)),
        "attention": engine.sampler.attention,
        "page": engine.config.page_size,
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


def read_speed(size: int = 2**30) -> float:
    """Bytes read per second by summing ``size`` bytes on all cores; the best of ten.

    By NumPy, which lets the other threads go on meanwhile: XLA sums on one core.
    """
    parts = np.array_split(np.ones(size // 4, np.float32), os.cpu_count())
    with ThreadPoolExecutor(len(parts)) as threads:
        turns = [
            harness.timed(lambda: list(threads.map(np.sum, parts)))[0]
            for _ in range(11)
        ]
    return size / min(turns[1:])


def copy_speed(size: int = 2**31) -> float:
    """Bytes read and written per second by copying ``size`` bytes; the best of ten."""
    x = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    turns = [harness.timed(lambda: copy(x))[0] for _ in range(11)]
    return 2 * size / min(turns[1:])
