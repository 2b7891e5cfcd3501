"""The training loop, in order: rollouts, rewards, advantages, update, checkpoint.

The same loop trains Challenger and Solver (spec 12); ``TrainingStage`` is what differs.
Everything random is a function of the step, so a stage that was killed resumes from its
last checkpoint as if nothing had happened.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax

from models.errors import UserError
from rl.learner.packing import uid_order
from rl.learner.update import NonFiniteUpdateError
from rl.records import Datum
from scope_jax.run.tracking import StageProgress
from scope_jax.selfplay import drawing
from scope_jax.selfplay.broken_models import leaves_policy_whole
from scope_jax.selfplay.estimates import advantages, masked, with_advantages, worth
from scope_jax.selfplay.memory import Memory
from scope_jax.selfplay.metering import step_metrics
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.rollouts import Rollout, Seed
from scope_jax.selfplay.step_end import UNSCORED, end_step, warn
from scope_jax.selfplay.truth_metrics import with_truth
from scope_jax.system import stopping
from scope_jax.system.files import write_json_lines
from scope_jax.system.stopping import Stopped

log = logging.getLogger("scope_jax")

T = TypeVar("T")

MEMORY = "stage"  # the name of ``TrainingStage.memory`` in a checkpoint

Progress = Callable[[int, int], None]
"""Called with (rollouts finished and rewarded, all rollouts of the step)."""


@dataclass(frozen=True)
class TrainingStage:
    """What differs between the stages that train.

    Attributes:
      role: "challenger" or "solver".
      prompts: the prompts of a step; steps count from 1 over all iterations.
      rollout: plays one rollout of a prompt with a seed, and rewards it.
      more: other prompts of a step: from the n-th one on, at most so many; for stages
        that draw again.
      post_rollout: what a prompt's finished group becomes: rewards that need all of it,
        masks, and more rollouts, with groups of their own; None leaves it as it is.
      memory: what it remembers of the steps before.
    """

    role: str
    prompts: Callable[[int], Sequence[Any]]
    rollout: Callable[[Any, Seed], Awaitable[Rollout]]
    post_rollout: Callable[[Any, list[Rollout]], Awaitable[list[Rollout]]] | None = None
    memory: Memory | None = None
    more: Callable[[int, int, int], Sequence[Any]] | None = None


def train(parts: Parts, iteration: int, stage: TrainingStage) -> None:
    """Trains a role for one iteration, from where it stopped, and exports it.

    Raises:
      Stopped, UserError: after a checkpoint of all steps that are done; an update that
        fails leaves none to save.
    """
    trainer, hosts, meter, role = parts.trainer, parts.hosts, parts.meter, stage.role
    config, name = trainer.stage_config(role), f"iter_{iteration}/{role}"
    with (
        stopping.nothing_to_save(alone=hosts.count == 1),
        parts.tracker.waiting(f"loading the {role}, compiling its programs"),
    ):
        state, done = trainer.begin(iteration, role)
    if stage.memory:
        stage.memory.restore(trainer.memory.get(MEMORY))
    saved, unscored = done, trainer.memory.pop(UNSCORED, None)
    first, last = (iteration - 1) * config.steps, iteration * config.steps
    scored = done - bool(unscored)
    parts.tracker.rewind(iteration, role, scored)
    parts.folder.record(name, status="running")
    with stopping.deferred():
        parts.serving.run(meter.engine_work())  # what came before belongs to no step
    with parts.tracker.stage(
        iteration, role, total=config.steps, done=scored - first
    ) as bar:
        if unscored:
            end_step(parts, iteration, role, done, state, unscored, bar)
        for step in range(done + 1, last + 1):
            meter.start()
            with _traced(parts, step - first, f"iter_{iteration}_{role}_{step}"):
                # Rollouts and their rewards: every host plays its share of the groups.
                try:
                    rollouts, drawn = _play_together(parts, iteration, stage, step, bar)
                except (Stopped, UserError) as error:
                    if step - 1 > saved and leaves_policy_whole(error):
                        trainer.save(iteration, role, step - 1, state)
                    raise
                seconds = meter.lap("rollout")
                # Advantages: each reward against its group's.
                file = parts.folder.rollouts(iteration, role, step)
                datums, true = _estimated(parts, role, rollouts, file)
                # Before the update, which a server that is gone must not throw away.
                with stopping.deferred():  # it ends in all processes or in none
                    work = parts.serving.run(meter.engine_work())
                # Update the policy and load it into the engine.
                try:
                    state, metrics = trainer.update(role, state, datums)
                except NonFiniteUpdateError as error:
                    raise stopped(file, error, write=hosts.is_leader) from error
                meter.lap("update")
            metrics |= step_metrics(rollouts) | true | drawn
            if stage.memory:
                metrics |= stage.memory.learn(rollouts)
                trainer.memory[MEMORY] = stage.memory.saved()
            metrics |= work | meter.finish()
            metrics["perf/tokens_per_second"] = metrics["rollout/tokens"] / max(
                seconds, 1e-9
            )
            warn(metrics, step - first, compiled=step > done + 1)
            if end_step(parts, iteration, role, step, state, metrics, bar):
                saved = step
    trainer.finish(iteration, role, state)
    parts.folder.record(name, status="done", step=last)


def _estimated(
    parts: Parts, role: str, rollouts: Sequence[Rollout], file: Path
) -> tuple[list[Datum], dict[str, float]]:
    """What a step trains on, and metrics of that; its rollouts are written."""
    settings, memory = parts.trainer.stage_config(role), parts.trainer.memory
    weight = parts.world.config.solver.search_weight
    found = advantages(rollouts, settings, memory, search_weight=weight)
    rollouts, kept = masked(rollouts, found, settings)
    shown, true = with_truth(parts.world.truth, rollouts)
    if parts.hosts.is_leader:
        pairs = zip(shown, found, strict=True)
        write_json_lines(file, (one.json(value) for one, value in pairs))
    return with_advantages(rollouts, found, settings), true | kept


def _play_together(
    parts: Parts, iteration: int, stage: TrainingStage, step: int, bar: StageProgress
) -> tuple[list[Rollout], dict[str, float]]:
    """A step's rewarded rollouts, of all hosts, in order; and how they were drawn."""

    def progress(finished: int, of: int) -> None:
        bar.inside("rollouts rewarded", finished, of)

    def play(prompts: Sequence[Any], first: int) -> list[Rollout]:
        groups = list(enumerate(prompts, first))

        def share() -> list[Rollout]:
            work = play_groups(parts, iteration, stage, step, groups, progress)
            return parts.serving.run(work)

        return in_order(parts.hosts.together(share))

    def agreed(make: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        made: list[Sequence[Any]] = []  # not sent: the same in all hosts
        parts.hosts.together(lambda: made.append(make()))
        return made[0]

    def more(start: int, count: int) -> Sequence[Any]:
        own = stage.more
        return agreed(lambda: own(step, start, count)) if own else ()

    prompts = agreed(lambda: stage.prompts(step))
    settings = parts.trainer.stage_config(stage.role)
    if not settings.dynamic_sampling:
        return play(prompts, 0), {}
    own = functools.partial(worth, settings=settings)
    return drawing.until_full(prompts, play, more, step=step, worth=own)


def carry_over(parts: Parts, iteration: int, role: str) -> None:
    """Ends a stage that has nothing to train on: its policy stays as it was."""
    parts.trainer.carry_over(iteration, role)
    parts.folder.record(f"iter_{iteration}/{role}", status="done", trained=False)


async def play_groups(
    parts: Parts,
    iteration: int,
    stage: TrainingStage,
    step: int,
    groups: Sequence[tuple[int, Any]],
    progress: Progress,
) -> list[Rollout]:
    """This host's share of a step's ``groups``: ``group_size`` rollouts of each prompt.

    Args:
      groups: (number of the group, prompt).
    """
    seed = (parts.world.config.seed, iteration, stage.role, step)
    size = parts.trainer.stage_config(stage.role).group_size
    share = parts.hosts.local_share(list(groups))
    finished = itertools.count(1)

    async def one(group: int, prompt: Any, sample: int) -> Rollout:
        rollout = await stage.rollout(prompt, (*seed, group, sample))
        progress(next(finished), size * len(share))
        return replace(rollout, group=group, role=stage.role)

    async def whole(group: int, prompt: Any) -> list[Rollout]:
        own = await gather(one(group, prompt, sample) for sample in range(size))
        return await stage.post_rollout(prompt, own) if stage.post_rollout else own

    groups = await gather(whole(group, prompt) for group, prompt in share)
    return [rollout for own in groups for rollout in own]


async def gather(
    work: Iterable[Awaitable[T]], progress: Progress = lambda finished, of: None
) -> list[T]:
    """All results in order, telling ``progress`` of each that is finished."""
    finished = 0

    async def one(task: Awaitable[T]) -> T:
        nonlocal finished
        result = await task
        finished += 1
        progress(finished, len(tasks))
        return result

    tasks = list(work)
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(task)) for task in tasks]
    except BaseExceptionGroup as failed:  # the first reason; the others follow from it
        raise failed.exceptions[0] from None
    return [task.result() for task in running]


def in_order(shares: Iterable[Sequence[Rollout]]) -> list[Rollout]:
    """The rollouts of all hosts, in the order of prompts and samples."""
    rollouts = [rollout for share in shares for rollout in share]
    return sorted(rollouts, key=lambda rollout: uid_order(rollout.uid))


def stopped(
    rollouts: Path, error: NonFiniteUpdateError, *, write: bool = True
) -> UserError:
    """What a user is told when training stops; the batch is next to its rollouts.

    Args:
      rollouts: file of the step's rollouts.
      error: holds the batch.
      write: whether this process writes the batch.
    """
    batch = rollouts.with_suffix(".batch.jsonl")
    if write:
        write_json_lines(batch, map(asdict, error.datums))
    return UserError(
        f"{batch}: holds the batch at which training stopped ({error}): look at its "
        "log-probs and advantages. The same command repeats these steps, which helps "
        "only if the hardware was at fault; otherwise start another run (--run) with "
        "a lower optimizer.learning_rate"
    )


def _traced(parts: Parts, step: int, name: str) -> contextlib.AbstractContextManager:
    """Traces steps 2 to 1 + profile of a stage, where ``step`` counts from 1."""
    if not 2 <= step < 2 + parts.profile:
        return contextlib.nullcontext()
    return jax.profiler.trace(str(parts.folder.path / "profile" / name))
