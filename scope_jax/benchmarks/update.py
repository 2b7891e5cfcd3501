"""The update: useful tokens a second beside peers, or FLOP/s of one accelerator.

`--shape qwen3_31m` (the default) trains on stored rollouts, beside peers, in float32.
`--shape qwen3_1_7b` and larger ones are for one accelerator: whole rows in bfloat16,
model FLOP/s against the data sheet, and the memory plan against what was allocated.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import hf, sharding
from models.config import DecoderConfig
from models.errors import UserError
from rl import memory
from rl.losses import LossConfig
from rl.optimizer import OptimizerConfig
from rl.records import Datum
from rl.update import Updater
from rl.update_config import UpdateConfig
from scope_jax.benchmarks import harness, shapes, update_trl, update_tunix, workloads
from scope_jax.benchmarks.workloads import Rollout

PEERS = {"tunix": update_tunix.__file__, "trl": update_trl.__file__}
# Dense bfloat16 FLOP/s that the data sheets promise.
DATA_SHEETS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
# Mean over rows of each row's token mean: tunix's default and TRL's `grpo`, and the
# one that doesn't depend on how a peer cuts its rows into micro-batches.
LOSS = LossConfig(aggregation="row_mean", kl_coefficient=0.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-5)
DRIFT = 0.15  # of old log-probs, so that some ratios are clipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--shape", choices=tuple(shapes.SHAPES), default="qwen3_31m")
    parser.add_argument("--groups", type=int, default=2, help="of 8 rollouts")
    parser.add_argument("--length", type=int, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=1, help="rows of a micro-batch")
    parser.add_argument("--micro", type=int, default=2, help="micro-batches a step")
    parser.add_argument("--logit-chunk", type=int)
    parser.add_argument("--remat", choices=("block", "attention", "dots", "none"))
    parser.add_argument("--attention", default="auto", help="backend")
    parser.add_argument(
        "--peer-micro",
        default="tunix=4,trl=4",
        help="micro-batches that each peer makes; fewer take more memory",
    )


def run(args: argparse.Namespace) -> harness.Result:
    """Useful tokens a second; on an accelerator, FLOP/s in the notes."""
    config = shapes.SHAPES[args.shape]
    if args.shape == "qwen3_31m":
        return beside_peers(config, args)
    return on_an_accelerator(config, args)


def beside_peers(config: DecoderConfig, args: argparse.Namespace) -> harness.Result:
    """Gradient steps with AdamW on the same stored tokens, everybody's own way."""
    params = shapes.random_params(config, jnp.float32)
    shape = UpdateConfig(
        length=args.length or 1664,
        rows=args.rows,
        capacity=1,
        logit_chunk=args.logit_chunk or 256,
        remat=args.remat or "dots",
        attention=args.attention,
        compute_dtype="float32",
    )
    updater = Updater(config, LOSS, OPTIMIZER, shape, sharding.make_mesh())
    work = workloads.rollouts(config.vocab_size, groups=args.groups)
    work = with_logprobs(updater, params, work)
    datums = [datum_of(index, row) for index, row in enumerate(work)]
    state = updater.states.init(params)
    before = np.asarray(params["final_norm"])
    found: dict[str, float] = {}

    def ours() -> float:
        nonlocal state, found
        start = time.perf_counter()
        batch = updater.pack(datums)
        old = jnp.asarray(batch.arrays["sampler_logprobs"])
        state, found = updater.step(state, {}, batch, old_logprobs=old)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    ours()
    first = {"ours": _first(found["loss/total"], found["loss/grad_norm"])}
    fill = found["perf/update_fill"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hf.save(folder / "model", config, params)
        (folder / "work.json").write_text(json.dumps([asdict(row) for row in work]))
        settings = {
            "model": str(folder / "model"),
            "work": str(folder / "work.json"),
            "vocab": config.vocab_size,
            "clip": LOSS.clip_low,
            "micro": {
                peer: int(count)
                for peer, _, count in (
                    one.partition("=") for one in args.peer_micro.split(",")
                )
            },
            "optimizer": asdict(OPTIMIZER),
        }
        with harness.peers(args.peer, PEERS, settings) as peers:
            seconds = harness.take_turns(ours, peers, args.repeats)
            ready = {peer.name: dict(peer.ready) for peer in peers}
    for peer, said in ready.items():
        first[peer] = _first(said.pop("loss"), said.pop("norm", None))
    moved = np.abs(np.asarray(state.params["final_norm"]) - before).max()
    tokens = sum(len(row.ids) for row in work)
    return harness.Result(
        what=f"update: {len(work)} rollouts of {tokens:,} tokens, "
        f"{sum(sum(row.loss_mask) for row in work):,} of them in the loss, 31 M "
        "parameters, float32, padding not counted",
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
      UserError: if by the plan the step doesn't fit the device.
    """
    length = args.length or 4096
    shape = UpdateConfig(
        length=length,
        rows=args.rows,
        capacity=args.micro,
        logit_chunk=args.logit_chunk or 512,
        remat=args.remat or "block",
        attention=args.attention,
        compute_dtype="bfloat16",
    )
    device = jax.devices()[0]
    kinds = memory.update(config, shape, memory.mesh_of(1, 1, 1), compute_bytes=2)
    kinds.pop("reference")  # nobody asks it: no KL penalty
    planned = memory.total(kinds)
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit and planned > limit:
        raise UserError(
            f"--shape {args.shape}: needs {planned / 1e9:.1f} GB by the plan, and the "
            f"device gives {limit / 1e9:.1f} GB: lower --rows, or take a smaller shape"
        )
    updater = Updater(config, LOSS, OPTIMIZER, shape, sharding.make_mesh())
    # On the host, so that the masters are the only copy on the device.
    with jax.default_device(jax.devices("cpu")[0]):
        params = jax.device_get(shapes.random_params(config, jnp.float32))
    state = updater.states.init(params)
    del params
    batch = updater.pack(full_rows(config.vocab_size, args.rows * args.micro, length))
    found: dict[str, float] = {}

    def ours() -> float:
        nonlocal state, found
        start = time.perf_counter()
        state, found = updater.step(state, {}, batch)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    seconds = harness.take_turns(ours, (), args.repeats)
    flops = args.micro * memory.update_flops(config, shape, reference=False)["update"]
    speed = flops / float(np.median(seconds["ours"]))
    sheet = DATA_SHEETS.get(device.device_kind)
    analysis = updater.programs["step", args.micro].memory_analysis()
    taken = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    tokens = args.micro * args.rows * length
    return harness.Result(
        what=f"update: {args.micro} micro-batches of {args.rows} x {length} tokens, "
        f"all in the loss, {args.shape}, bfloat16, recomputation not counted",
        unit="tokens",
        amount=tokens,
        seconds=seconds,
        notes={
            "attention": updater.attention,
            "remat": shape.remat,
            "FLOP/s": speed,
            "MFU": speed / sheet if sheet else None,
            "memory by the plan, bytes": planned,
            "memory of the compiled program, bytes": taken,
            "plan over program": planned / taken,
            "within 10%": abs(planned / taken - 1) <= 0.1,
            "gradient norm": found["loss/grad_norm"],
        },
    )


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
