"""Stage 2: the trained Challenger writes tasks, the judge and the Solver sift them.

Spec 11. While one batch of prompts is sifted by the inference process, the next one is
already being written by this process's engine. Every finished batch is a file, so that
a stage that was killed goes on with the next one; what is written and what is kept are
functions of seed and numbers, whatever the timing.
"""

import asyncio
import logging
import time
from collections import Counter
from typing import Any, get_args

from rl import checkpoint
from scope_jax import engines, explain, hosts
from scope_jax.run_folder import write_json_lines
from scope_jax.session import Session
from scope_jax.task_file import read_tasks, write_tasks
from scope_jax.task_sifting import Sifted, sift
from scope_jax.task_writing import Written, write_batch
from scope_jax.tracking import StageProgress
from scope_jax.training import error_counts
from scope_jax.types import Task

log = logging.getLogger("scope_jax")


def create_tasks(session: Session, iteration: int) -> None:
    """Runs stage 2 of an iteration and writes its tasks; the leader does it alone."""
    session.serve_solver(iteration)
    _use_challenger(session, iteration)
    facts = hosts.told(lambda: _create_tasks(session, iteration))
    session.folder.record(f"iter_{iteration}/tasks", **facts)


def _create_tasks(session: Session, iteration: int) -> dict[str, Any]:
    """Makes the file of tasks; returns what the manifest says of it."""
    config = session.config.tasks
    folder = session.folder
    folder.record(f"iter_{iteration}/tasks", status="running")
    tasks: list[Task] = []
    done = 0
    while folder.task_batch(iteration, done + 1).exists():
        done += 1
        tasks += read_tasks(folder.task_batch(iteration, done))
    session.tracker.rewind(iteration, "tasks", done)
    with session.tracker.stage(
        iteration, "tasks", total=config.target, done=min(len(tasks), config.target)
    ) as bar:
        done = session.run(_batches(session, iteration, done, tasks, bar))
    tasks = tasks[: config.target]
    if len(tasks) < config.target:
        log.warning(
            "iteration %d: %d of %d tasks after %d batches of %d prompts",
            iteration,
            len(tasks),
            config.target,
            done,
            config.prompts_per_batch,
        )
    write_tasks(folder.tasks(iteration), tasks)
    return {
        "status": "done",
        "tasks": len(tasks),
        "wanted": config.target,
        "batches": done,
    }


def _use_challenger(session: Session, iteration: int) -> None:
    """Puts this iteration's Challenger on the trainer's own engine."""
    updater = session.updater("challenger")
    state, _, _ = checkpoint.restore(
        session.folder.checkpoints(iteration, "challenger"), updater.states.abstract()
    )
    session.use_policy(updater.states.policy_params(state))


async def _batches(
    session: Session, iteration: int, done: int, tasks: list[Task], bar: StageProgress
) -> int:
    """Adds to ``tasks`` batch by batch until there are enough.

    Returns how many batches were made in all, the ``done`` ones of before included.
    """
    config = session.config.tasks
    ahead: asyncio.Task[Written] | None = None
    number, awaited = done + 1, 0

    def writing(batch: int) -> asyncio.Task[Written]:
        def progress(finished: int, of: int) -> None:
            if batch == awaited:  # one written ahead leaves the bar to the sifting
                bar.inside("tasks written", finished, of)

        return asyncio.create_task(write_batch(session, iteration, batch, progress))

    def sifting(finished: int, of: int) -> None:
        bar.inside("tasks sifted", finished, of)

    await session.engine_work()  # what came before is no batch's
    try:
        while number <= config.max_batches and len(tasks) < config.target:
            compilations, started = session.compilations.count, time.monotonic()
            awaited = number
            written = await (ahead or writing(number))
            waited, awaited = time.monotonic() - started, 0
            ahead = writing(number + 1) if number < config.max_batches else None
            left = config.target - len(tasks)
            sifted = await sift(session, written.candidates, left, sifting)
            metrics = batch_metrics(written, sifted) | {
                "time/batch": time.monotonic() - started,
                "time/waited_for_writing": waited,
                "perf/compilations": float(session.compilations.count - compilations),
            }
            if written.seconds:
                metrics["perf/tokens_per_second"] = written.tokens / written.seconds
            own, served = await session.engine_work()
            metrics |= engines.metrics([own], served)
            _keep(session, iteration, number, written, sifted, metrics)
            bar.advance(metrics, len(sifted.kept))
            tasks += sifted.kept
            number += 1
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
    # A batch written ahead for nothing is nobody's.
    session.folder.task_drafts(iteration, number).unlink(missing_ok=True)
    return number - 1


def batch_metrics(written: Written, sifted: Sifted) -> dict[str, float]:
    """How many candidates went which way, and how hard they were."""
    outcomes = sifted.outcomes | Counter(bad_format=len(written.rejected))
    metrics = {"tasks/written": float(written.count)}
    metrics |= {f"tasks/{n}": float(outcomes[n]) for n in get_args(explain.Outcome)}
    metrics["rollout/tokens"] = float(written.tokens)
    metrics |= error_counts((*written.errors, *sifted.errors))
    if sifted.difficulties:
        mean = sum(sifted.difficulties) / len(sifted.difficulties)
        metrics["reward/rubric_score"] = mean
    return metrics


def _keep(
    session: Session,
    iteration: int,
    number: int,
    written: Written,
    sifted: Sifted,
    metrics: dict[str, float],
) -> None:
    """Writes a finished batch; its tasks last, for with them it counts as done."""
    folder = session.folder
    records = sorted(
        (*written.rejected, *sifted.records), key=lambda record: record["uid"]
    )
    write_json_lines(folder.rollouts(iteration, "tasks", number), records)
    session.tracker.log(metrics, iteration=iteration, stage="tasks", step=number)
    write_tasks(folder.task_batch(iteration, number), sifted.kept)
    folder.task_drafts(iteration, number).unlink(missing_ok=True)
