"""The update on turns that are trained by themselves: shared histories against whole.

The stored rollouts are trained as Qwen3's are: an example for each turn, which repeats
all that came before it. ``update.share_history`` computes that once.
"""

import argparse
import itertools
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from benchmarks import harness, shapes, workloads
from benchmarks.update import LOSS, OPTIMIZER, Steps, datum_of
from models import sharding
from rl.learner.config import UpdateConfig
from rl.learner.update import Updater
from rl.records import Datum


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rollouts", type=int, default=8, help="conversations")
    parser.add_argument("--length", type=int, default=1664, help="tokens of a row")


def run(args: argparse.Namespace) -> harness.Result:
    """Seconds of an update with shared histories (ours), and with whole ones."""
    config = shapes.SHAPES["qwen3_31m"]
    params = shapes.random_params(config, jnp.float32)
    work = workloads.rollouts(config.vocab_size, groups=-(-args.rollouts // 8))
    rows = enumerate(work[: args.rollouts])
    datums = [turn for index, row in rows for turn in turns_of(datum_of(index, row))]
    shape = UpdateConfig(
        length=args.length,
        rows=1,
        capacity=1,
        logit_chunk=256,
        remat="dots",
        compute_dtype="float32",
    )
    sides: dict[str, tuple[Steps, Any]] = {}
    for name, share in (("ours", True), ("whole histories", False)):
        own = replace(shape, share_history=share)
        updater = Updater(config, LOSS, OPTIMIZER, own, sharding.make_mesh())
        sides[name] = Steps(updater, params), updater.pack(datums)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.repeats + 1):
        for name, (steps, batch) in sides.items():
            taken, _ = harness.timed(lambda s=steps, b=batch: s.step(b))
            if turn:  # the first one compiles
                seconds[name].append(taken)
    positions = {
        name: int((batch.arrays["segment_ids"] > 0).sum())
        for name, (_, batch) in sides.items()
    }
    return harness.Result(
        what=f"update: {args.rollouts} rollouts as {len(datums)} turns, 31 M "
        "parameters, float32",
        unit="turns",
        amount=len(datums),
        seconds=seconds,
        notes={
            "positions that are computed": positions,
            "gradient norm": {
                n: s.found["loss/grad_norm"] for n, (s, _) in sides.items()
            },
        },
    )


def turns_of(datum: Datum) -> list[Datum]:
    """An example for each stretch of sampled tokens, with all that comes before it."""
    found: list[Datum] = []
    start = 0
    for sampled, stretch in itertools.groupby(datum.loss_mask):
        stop = start + len(list(stretch))
        if sampled:
            mask = (0,) * start + (1,) * (stop - start)
            own = {"ids": datum.ids[:stop], "logprobs": (0.0,) * stop}
            own |= {"loss_mask": mask, "sampled_mask": mask, "turn": len(found)}
            found.append(replace(datum, **own))
        start = stop
    return found
