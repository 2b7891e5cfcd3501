"""The end of a training step, behind its update: scores, alarm, record, checkpoint."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from models.errors import UserError
from rl.learner import agreement
from rl.learner.train_state import TrainState
from scope_jax.run import alarm
from scope_jax.run.tracking import StageProgress, number
from scope_jax.selfplay.broken_models import leaves_policy_whole
from scope_jax.selfplay.parts import Parts
from scope_jax.system import stopping
from scope_jax.system.stopping import Stopped

log = logging.getLogger("scope_jax")

UNSCORED = "unscored step"
"""In a checkpoint's memory: the metrics of its step, whose evaluation did not end."""


def end_step(
    parts: Parts,
    iteration: int,
    role: str,
    step: int,
    state: TrainState,
    metrics: Mapping[str, Any],
    bar: StageProgress,
) -> bool:
    """Scores the policy where that is due, records the step, and maybe saves it.

    Returns:
      Whether there is a checkpoint of the step.

    Raises:
      Stopped, UserError: what an evaluation needs is gone, or refuses. The step's
        update is done and lies in a checkpoint, with its metrics under ``UNSCORED``:
        the same command scores it.
    """
    trainer, config = parts.trainer, parts.world.config
    measured = dict(metrics)
    try:
        measured |= _evaluated(parts, role, step)
    except (Stopped, UserError) as error:
        if leaves_policy_whole(error):
            known = {name: number(value) for name, value in measured.items()}
            trainer.memory[UNSCORED] = known
            trainer.save(iteration, role, step, state)
        raise
    measured |= _watched(parts, role, measured | {"step": step})
    parts.tracker.log(measured, iteration=iteration, stage=role, step=step)
    bar.advance(measured)
    due = step == iteration * trainer.stage_config(role).steps
    due |= config.checkpoint.is_due(step)
    if due:
        trainer.save(iteration, role, step, state)
    return due


def _evaluated(parts: Parts, role: str, step: int) -> dict[str, float]:
    """Scores of the policy as it is after this step, where they are due.

    The engine plays it already, and each conversation has a seed of its own: training
    is the same with it and without. Nothing stops inside, so that a resumed run has
    the same metrics.
    """
    if not parts.score or not parts.world.config.evaluation.is_due(role, step):
        return {}
    started = time.monotonic()
    with stopping.deferred():
        metrics = parts.score(parts, step)
        parts.serving.run(parts.meter.engine_work())  # it belongs to no step
    return metrics | {"time/evaluation": time.monotonic() - started}


def _watched(parts: Parts, role: str, record: Mapping[str, float]) -> dict[str, float]:
    """The alarm at this step, of all that the role's stages have measured so far.

    Only where there is a truth to compare with, and in the process that has the run's
    earlier records; it warns when the alarm goes on.
    """
    earlier = [r for r in parts.tracker.records if r["stage"] == role]
    found = alarm.check([*earlier, record], parts.world.config.tracking.alarm)
    if found is None or not parts.hosts.is_leader:
        return {}
    if found.line:
        log.warning("%s", found.line)
    return {alarm.METRIC: float(found.on)}


def warn(metrics: Mapping[str, float], step: int, *, compiled: bool) -> None:
    """Warns of what a person should look at.

    Args:
      compiled: whether every program should already have been compiled.
    """
    # Without a datum to train on there was nothing to compare.
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
            "step %d: %d datums longer than a packed row were left out of the update",
            step,
            metrics["loss/dropped_rows"],
        )
