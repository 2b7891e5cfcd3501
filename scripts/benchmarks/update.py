"""The update: useful tokens per second beside peers, or FLOP/s of one accelerator.

`--shape qwen3_31m` (the default) trains on stored rollouts, beside peers, in float32.
`--shape qwen3_1_7b` and larger ones are for one accelerator: whole rows in bfloat16,
model FLOP/s against the data sheet, and the memory plan against what was allocated.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, peer_trl, peer_tunix, shapes, workloads
from benchmarks.workloads import Rollout
from models import sharding
from models.config import DecoderConfig
from models.errors import UserError
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.update import Updater
from rl.records import Datum
from scope_jax.run import memory

PEERS = {"tunix": peer_tunix.__file__, "trl": peer_trl.__file__}
# Mean over rows of each row's token mean: tunix's default and TRL's `grpo`, and the
# one that does not depend on how a peer cuts its rows into micro-batches.
LOSS = LossConfig(aggregation="row_mean", kl_coefficient=0.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-5)
DRIFT = 0.15  # of old log-probs, so that some ratios are clipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--shape", choices=tuple(shapes.SHAPES), default="qwen3_31m")
    parser.add_argument("--groups", type=int, default=2, help="of 8 rollouts")
    parser.add_argument("--length", type=int, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=1, help="rows of a micro-batch")
    parser.add_argument("--micro", type=int, default=2, help="micro-batches per step")
    parser.add_argument("--logit-chunk", type=int)
    parser.add_argument("--remat", choices=("block", "attention", "dots", "none"))
    parser.add_argument("--attention", default="auto", help="backend")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of our passes beside peers, whose own is float32",
    )
    parser.add_argument(
        "--peer-micro",
        default="tunix=4,trl=4",
        help="micro-batches per step of each peer; fewer take more memory",
    )


def run(args: argparse.Namespace) -> harness.Result:
    """Useful tokens per second; on an accelerator, FLOP/s in the notes."""
    config = shapes.SHAPES[args.shape]
    if args.shape == "qwen3_31m":
        return beside_peers(config, args)
    return on_an_accelerator(config, args)


def shape_of(args: argparse.Namespace, **defaults: Any) -> UpdateConfig:
    """The update's shapes: what the command line gives, else ``defaults``."""
    names = ("length", "logit_chunk", "remat")
    given = {name: vars(args)[name] for name in names if vars(args)[name] is not None}
    fixed = {"rows": args.rows, "attention": args.attention}
    return UpdateConfig(**(defaults | given | fixed))


class Steps:
    """Our side: optimizer steps, each from the weights that the one before left."""

    def __init__(self, updater: Updater, params: Any):
        self.updater, self.state = updater, updater.states.init(params)
        self.found: dict[str, float] = {}

    def step(self, batch: Any, **options: Any) -> Any:
        """One step; ``found`` are its metrics."""
        update = self.updater.update_mini_batch
        self.state, self.found = update(self.state, {}, batch, **options)
        return self.state


def beside_peers(config: DecoderConfig, args: argparse.Namespace) -> harness.Result:
    """Gradient steps with AdamW on the same stored tokens, everybody's own way."""
    params = shapes.random_params(config, jnp.float32)
    shape = shape_of(
        args,
        length=1664,
        capacity=1,
        logit_chunk=256,
        remat="dots",
        compute_dtype=args.dtype,
    )
    updater = Updater(config, LOSS, OPTIMIZER, shape, sharding.make_mesh())
    work = workloads.rollouts(config.vocab_size, groups=args.groups)
    work = with_logprobs(updater, params, work)
    datums = [datum_of(index, row) for index, row in enumerate(work)]
    before = np.asarray(params["final_norm"])
    steps = Steps(updater, params)

    def step() -> Any:
        batch = updater.pack(datums)
        old = jnp.asarray(batch.arrays["sampler_logprobs"])
        return steps.step(batch, old_logprobs=old)

    step()
    first = {"ours": _first(steps.found["loss/total"], steps.found["loss/grad_norm"])}
    fill = steps.found["perf/update_fill"]
    micro = (one.partition("=") for one in args.peer_micro.split(","))
    told = {
        "task": "update",
        "vocab": config.vocab_size,
        "clip": LOSS.clip_low,
        "micro": {peer: int(count) for peer, _, count in micro},
        "optimizer": asdict(OPTIMIZER),
    }
    stored = [asdict(row) for row in work]
    with (
        harness.handed_over(config, params, stored) as files,
        harness.peers(args.peer, PEERS, files | told) as peers,
    ):
        seconds = harness.take_turns(
            lambda: harness.timed(step)[0], peers, args.repeats
        )
        ready = {peer.name: dict(peer.ready) for peer in peers}
    for peer, said in ready.items():
        first[peer] = _first(said.pop("loss"), said.pop("norm", None))
    moved = np.abs(np.asarray(steps.state.params["final_norm"]) - before).max()
    tokens = sum(len(row.ids) for row in work)
    return harness.Result(
        what=f"update: {len(work)} rollouts of {tokens:,} tokens, "
        f"{sum(sum(row.loss_mask) for row in work):,} of them in the loss, 31 M "
        f"parameters, {args.dtype}, padding not counted",
        unit="tokens",
        amount=tokens,
        seconds=seconds,
        notes={f"versions and shapes, {peer}": said for peer, said in ready.items()}
        | {
            "share of positions that hold a token, ours": round(fill, 3),
            "loss and gradient norm of the first step": first,
            "most that a weight moved": float(moved),
        },
    )


def _first(loss: float, norm: float | None) -> dict[str, float]:
    return {"loss": loss} if norm is None else {"loss": loss, "norm": norm}


def with_logprobs(
    updater: Updater, params: Any, work: Sequence[Rollout]
) -> list[Rollout]:
    """The rollouts as if sampled from weights a little different from ``params``."""
    drift = np.random.default_rng(0)
    done = []
    for index, row in enumerate(work):
        zeros = replace(row, logprobs=(0.0,) * len(row.ids))
        batch = updater.pack([datum_of(index, zeros)])
        own = np.asarray(updater.logprobs(params, batch))[0, 0, : len(row.ids) - 1]
        mask = np.array(row.loss_mask[1:])
        noisy = mask * (own + drift.normal(0, DRIFT, own.shape))
        done.append(replace(row, logprobs=(0.0, *map(float, np.float32(noisy)))))
    return done


def datum_of(index: int, row: Rollout) -> Datum:
    """The rollout as an update takes it; every token in the loss was sampled."""
    return Datum(
        uid=f"1/benchmark/1/{row.group}/{index}",
        turn=0,
        ids=row.ids,
        loss_mask=row.loss_mask,
        sampled_mask=row.loss_mask,
        logprobs=row.logprobs,
        advantage=row.advantage,
    )


def on_an_accelerator(
    config: DecoderConfig, args: argparse.Namespace
) -> harness.Result:
    """Steps on full rows, every token in the loss: FLOP/s, and memory beside the plan.

    Raises:
      UserError: if by the plan the step does not fit the device.
    """
    shape = shape_of(
        args,
        length=4096,
        capacity=args.micro,
        logit_chunk=512,
        remat="block",
        compute_dtype="bfloat16",
    )
    planned = check_memory(config, shape, args.shape)
    updater = Updater(config, LOSS, OPTIMIZER, shape, sharding.make_mesh())
    # On the host, so that the masters are the only copy on the device.
    with jax.default_device(jax.devices("cpu")[0]):
        params = jax.device_get(shapes.random_params(config, jnp.float32))
    steps = Steps(updater, params)
    del params
    rows = args.rows * args.micro
    batch = updater.pack(full_rows(config.vocab_size, rows, shape.length))
    seconds = harness.take_turns(
        lambda: harness.timed(lambda: steps.step(batch))[0], (), args.repeats
    )
    flops = args.micro * memory.update_flops(config, shape, reference=False)["update"]
    speed = flops / float(np.median(seconds["ours"]))
    sheet = harness.DATA_SHEETS.get(jax.devices()[0].device_kind)
    stats = jax.devices()[0].memory_stats() or {}
    analysis = updater.programs["update", args.micro].memory_analysis()
    taken = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    return harness.Result(
        what=f"update: {args.micro} micro-batches of {args.rows} x {shape.length} "
        f"tokens, all in the loss, {args.shape}, bfloat16, recomputation not counted",
        unit="tokens",
        amount=rows * shape.length,
        seconds=seconds,
        notes={
            "attention": updater.attention,
            "remat": shape.remat,
            "FLOP/s": speed,
            "MFU": speed / sheet[1] if sheet else None,
            "memory by the plan, bytes": planned,
            "memory of the compiled program, bytes": taken,
            "plan over program": planned / taken,
            "peak bytes in use": stats.get("peak_bytes_in_use"),
            "within 10%": abs(planned / taken - 1) <= 0.1,
            "gradient norm": steps.found["loss/grad_norm"],
        },
    )


def check_memory(config: DecoderConfig, shape: UpdateConfig, name: str) -> int:
    """Bytes that a step takes by the plan.

    Raises:
      UserError: if the device has fewer.
    """
    kinds = memory.update(config, shape, memory.mesh_of(1, 1, 1), compute_bytes=2)
    kinds.pop("reference")  # there is none: no KL penalty
    planned = memory.total(kinds)
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit and planned > limit:
        raise UserError(
            f"--shape {name}: needs {planned / 1e9:.1f} GB by the plan, and the device "
            f"gives {limit / 1e9:.1f} GB: lower --rows, or take a smaller shape"
        )
    return planned


def full_rows(vocab: int, rows: int, length: int) -> list[Datum]:
    """Datums that each fill a row of ``length`` positions, in the loss but for one."""
    ids = np.random.default_rng(0).integers(0, vocab, (rows, length + 1)).tolist()
    mask = (0, *(1,) * length)
    return [
        Datum(
            uid=f"1/benchmark/1/0/{index}",
            turn=0,
            ids=tuple(row),
            loss_mask=mask,
            sampled_mask=mask,
            logprobs=(0.0,) * (length + 1),
            advantage=1.0 if index % 2 else -1.0,
        )
        for index, row in enumerate(ids)
    ]
