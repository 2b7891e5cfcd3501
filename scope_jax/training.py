"""One training stage: rollouts, rewards, advantages, one update, step after step.

The same loop trains Challenger and Solver; a stage differs in the ``collect`` that
plays and rewards a step's rollouts. Everything random is a function of the step, so a
stage that was killed goes on from its last checkpoint as if nothing had happened.
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError
from rl import agreement, checkpoint
from rl.advantages import group_advantages
from rl.packing import uid_order
from rl.records import Datum, Trajectory
from rl.train_state import TrainState
from rl.update import NonFiniteGradientError
from scope_jax import engines, hosts
from scope_jax.compilation import return_memory
from scope_jax.run_folder import write_json_lines
from scope_jax.session import Session

log = logging.getLogger("scope_jax")

Progress = Callable[[int, int], None]
"""Called with (rollouts finished and rewarded, all rollouts of the step)."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A rollout with its reward.

    Attributes:
      trajectory: the rollout.
      reward: what GRPO sees.
      metrics: numbers of this rollout, averaged over the step; NaN is left out.
      sampled_tokens: over all turns, for the throughput.
      errors: classes of errors in what model and judge wrote, counted over the step.
    """

    trajectory: Trajectory
    reward: float
    metrics: dict[str, float] = field(default_factory=dict)
    sampled_tokens: int = 0
    errors: tuple[str, ...] = ()


Collect = Callable[[int, Progress], Awaitable[Sequence[Scored]]]
"""Plays and rewards this process's share of the rollouts of a step; steps count from 1
over all iterations."""


def train(session: Session, iteration: int, role: str, collect: Collect) -> None:
    """Trains ``role`` for one iteration, from where it stopped, and exports it."""
    config = session.stage_config(role)
    name = f"iter_{iteration}/{role}"
    updater = session.updater(role)
    session.use_policy(None)  # whose it was; its memory goes into the new state
    state, done = _begin(session, iteration, role)
    first, last = (iteration - 1) * config.steps, iteration * config.steps
    session.tracker.rewind(iteration, role, done)
    session.folder.record(name, status="running")
    updater.compile()
    state = updater.states.park(state)
    session.use_policy(updater.states.policy_params(state))
    return_memory()
    session.run(session.engine_work())  # what came before is no step's
    with session.tracker.stage(
        iteration, role, total=config.steps, done=done - first
    ) as bar:
        for step in range(done + 1, last + 1):
            compilations = session.compilations.count
            with session.profiled(step - first, f"{name.replace('/', '_')}_{step}"):
                started = time.monotonic()
                scored = session.run(
                    collect(
                        step,
                        lambda n, of: bar.inside("rollouts rewarded", n, of),
                    )
                )
                scored = together(scored)
                rolled = time.monotonic()
                own, served = session.run(session.engine_work())
                own_everywhere = hosts.everyones(own)
                rollouts = session.folder.rollouts(iteration, role, step)
                if hosts.leads():
                    write_json_lines(rollouts, map(rollout_json, scored))
                datums = advantaged(scored)
                session.use_policy(None)
                return_memory()
                try:
                    state, metrics = updater.update(state, session.reference, datums)
                except NonFiniteGradientError as error:
                    raise stopped(rollouts, error) from error
                state = updater.states.park(state)
                session.use_policy(updater.states.policy_params(state))
                updated = time.monotonic()
            metrics |= step_metrics(scored)
            metrics |= engines.metrics(own_everywhere, served)
            metrics |= {
                "time/rollout": rolled - started,
                "time/update": updated - rolled,
                "perf/tokens_per_second": metrics["rollout/tokens"]
                / max(rolled - started, 1e-9),
                "perf/compilations": float(session.compilations.count - compilations),
            }
            _warn(metrics, step - first, compiled=step > done + 1)
            session.tracker.log(metrics, iteration=iteration, stage=role, step=step)
            bar.advance(metrics)
            if step == last or _due(session, step):
                _save(session, iteration, role, step, state)
    session.use_policy(None)
    session.export(iteration, role, updater.states.policy_params(state))
    session.folder.record(name, status="done", step=last)


def carry_over(session: Session, iteration: int, role: str) -> None:
    """Ends a stage that has nothing to train on: its policy stays as it was."""
    updater = session.updater(role)
    session.use_policy(None)
    state, _ = _begin(session, iteration, role)
    last = iteration * session.stage_config(role).steps
    _save(session, iteration, role, last, state)
    session.export(iteration, role, updater.states.policy_params(state))
    session.folder.record(f"iter_{iteration}/{role}", status="done", trained=False)


def _begin(session: Session, iteration: int, role: str) -> tuple[TrainState, int]:
    """The state to go on from, and the step it has reached."""
    updater = session.updater(role)
    own = session.folder.checkpoints(iteration, role)
    # Asked once: a shared disk may show it to one process before another.
    if (step := hosts.told(lambda: checkpoint.latest(own))) is not None:
        state, _, _ = checkpoint.restore(own, updater.states.abstract(), step=step)
        log.info("iteration %d %s: goes on from step %d", iteration, role, step)
        return state, step
    if iteration == 1:
        return updater.states.init(session.base()), 0
    before = session.folder.checkpoints(iteration - 1, role)
    state, _, step = checkpoint.restore(before, updater.states.abstract())
    return state, step


def stopped(rollouts: Path, error: NonFiniteGradientError) -> UserError:
    """What a user is told when training can't go on; the batch is beside its rollouts.

    Args:
      rollouts: file of the step's rollouts.
      error: holds the batch.
    """
    batch = rollouts.with_suffix(".batch.jsonl")
    if hosts.leads():
        write_json_lines(batch, map(asdict, error.datums))
    return UserError(
        f"{batch}: holds the batch at which training stopped ({error}): look at its "
        "log-probs and advantages, lower optimizer.learning_rate, or go on from the "
        "last checkpoint with the same command"
    )


def _due(session: Session, step: int) -> bool:
    """Whether a step is saved, for now or for good."""
    config = session.config.checkpoint
    return step % config.every == 0 or step % config.permanent_every == 0


def _save(
    session: Session, iteration: int, role: str, step: int, state: TrainState
) -> None:
    checkpoint.save(
        session.folder.checkpoints(iteration, role),
        step,
        state,
        meta={"iteration": iteration, "role": role, "name": session.config.name},
        keep=1,
        keep_every=session.config.checkpoint.permanent_every,
    )


def together(scored: Sequence[Scored]) -> list[Scored]:
    """The rollouts of all processes, in the order of prompts and samples."""
    every = [one for share in hosts.everyones(list(scored)) for one in share]
    return sorted(every, key=lambda one: uid_order(one.trajectory.uid))


def advantaged(scored: Sequence[Scored]) -> list[Datum]:
    """All training rows of a step, each with its rollout's advantage."""
    advantages = group_advantages(
        [one.reward for one in scored], [one.trajectory.group for one in scored]
    )
    return [
        replace(row, advantage=float(advantage))
        for one, advantage in zip(scored, advantages, strict=True)
        for row in one.trajectory.rows
    ]


def step_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Means over a step's rollouts, and how the rewards spread."""
    rewards = np.array([one.reward for one in scored])
    groups = np.array([one.trajectory.group for one in scored])
    spread = [np.ptp(rewards[groups == group]) > 0 for group in np.unique(groups)]
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "reward/min": float(rewards.min()),
        "reward/max": float(rewards.max()),
        "reward/groups_that_differ": float(np.mean(spread)),
        "rollout/tokens": float(sum(one.sampled_tokens for one in scored)),
        "rollout/turns": _mean(
            sum(turn.kind == "sampled" for turn in one.trajectory.turns)
            for one in scored
        ),
    }
    for reason in ("done", "turns", "length", "error"):
        metrics[f"rollout/finished_{reason}"] = _mean(
            one.trajectory.finish_reason == reason for one in scored
        )
    for key in sorted({key for one in scored for key in one.metrics}):
        values = np.array([one.metrics.get(key, np.nan) for one in scored])
        if np.isfinite(values).any():
            metrics[key] = float(np.nanmean(values))
    return metrics | error_counts(error for one in scored for error in one.errors)


def error_counts(errors: Iterable[str]) -> dict[str, float]:
    """How often each class of error occurred, as metrics; one that did not has none."""
    return {
        f"errors/{error.replace(' ', '_')}": float(count)
        for error, count in sorted(Counter(errors).items())
    }


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def rollout_json(one: Scored) -> dict[str, Any]:
    """A rollout as a person reads it: conversation, reward and why."""
    trajectory = one.trajectory
    return {
        "uid": trajectory.uid,
        "group": trajectory.group,
        "role": trajectory.role,
        "reward": one.reward,
        "finish_reason": trajectory.finish_reason,
        "messages": list(trajectory.messages),
        "trace": trajectory.trace,
        "metrics": {k: v for k, v in one.metrics.items() if np.isfinite(v)},
        "tokens": one.sampled_tokens,
    }


def _warn(metrics: dict[str, float], step: int, *, compiled: bool) -> None:
    """Says what a person should look at; ``compiled``: all programs are there."""
    # Without a row to train on there was nothing to compare.
    disagreement = metrics["loss/updates"] and agreement.alarm(metrics)
    if disagreement:
        log.warning("%s", disagreement)
    if compiled and metrics["perf/compilations"]:
        log.warning(
            "%d programs were compiled during step %d: a shape changed",
            metrics["perf/compilations"],
            step,
        )
    if metrics.get("loss/skipped"):
        log.warning("step %d: a non-finite gradient, its update was skipped", step)
    if metrics.get("loss/dropped_rows"):
        log.warning(
            "step %d: %d rows longer than a packed line were left out of the update",
            step,
            metrics["loss/dropped_rows"],
        )
