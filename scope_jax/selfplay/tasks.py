"""Stage 2 (spec 11): the trained Challenger writes tasks, judge and Solver sift them.

While the inference process sifts one batch of prompts, this process's engine already
writes the next one. Every finished batch is a file, so that a stage that was killed
resumes with the next one; what is written and what is kept depend on seed and batch
number only, not on timing.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from models.errors import DamagedError
from scope_jax.method.outcomes import Outcome
from scope_jax.method.types import Task
from scope_jax.run.paths import RunPaths
from scope_jax.run.tracking import StageProgress
from scope_jax.selfplay.given_tasks import read_given
from scope_jax.selfplay.metering import error_counts
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.task_file import read_tasks, write_tasks
from scope_jax.selfplay.task_sifting import Verdict, sift
from scope_jax.selfplay.task_writing import Written, write_batch
from scope_jax.selfplay.truth_metrics import with_task_truth
from scope_jax.system.files import remove, write_json_lines

log = logging.getLogger("scope_jax")


def create_tasks(parts: Parts, iteration: int) -> None:
    """Runs stage 2 of an iteration and writes its tasks; the leader does it alone."""
    if file := parts.world.config.tasks.file:
        facts = parts.hosts.from_leader(lambda: _take_tasks(parts, iteration, file))
        parts.folder.record(f"iter_{iteration}/tasks", **facts)
        return
    parts.serve_previous_solver(iteration)
    parts.trainer.use_trained(iteration, "challenger")
    facts = parts.hosts.from_leader(lambda: _create_tasks(parts, iteration))
    parts.folder.record(f"iter_{iteration}/tasks", **facts)


def _take_tasks(parts: Parts, iteration: int, file: str) -> dict[str, Any]:
    """Takes an iteration's tasks from a file in place of making them."""
    target = parts.world.config.tasks.target
    given = read_given(file)
    first = (iteration - 1) * target
    tasks = [
        replace(given[place % len(given)], uid=f"{iteration}/tasks/file/{place}/0")
        for place in range(first, first + min(target, len(given)))
    ]
    write_tasks(parts.folder.tasks(iteration), tasks)
    return {"status": "done", "tasks": len(tasks), "wanted": target, "file": file}


def _create_tasks(parts: Parts, iteration: int) -> dict[str, Any]:
    """Makes the file of tasks; returns what the manifest says of it."""
    config = parts.world.config.tasks
    folder = parts.folder
    folder.record(f"iter_{iteration}/tasks", status="running")
    tasks, done = _finished_batches(folder, iteration)
    parts.tracker.rewind(iteration, "tasks", done)
    with parts.tracker.stage(
        iteration, "tasks", total=config.target, done=min(len(tasks), config.target)
    ) as bar:
        done = parts.serving.run(_batches(parts, iteration, done, tasks, bar))
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


def _finished_batches(folder: RunPaths, iteration: int) -> tuple[list[Task], int]:
    """The tasks of all batches that are there, and their number.

    A batch that is damaged is made again, and those after it: how many of its tasks are
    sifted depends on how many there were before.
    """
    tasks: list[Task] = []
    done = 0
    while folder.task_batch(iteration, done + 1).exists():
        try:
            tasks += read_tasks(folder.task_batch(iteration, done + 1))
        except DamagedError as error:
            log.warning(
                "%s: %s: tasks from batch %d on are made again",
                error.file,
                error.why,
                done + 1,
            )
            break
        done += 1
    return tasks, done


async def _batches(
    parts: Parts, iteration: int, done: int, tasks: list[Task], bar: StageProgress
) -> int:
    """Adds to ``tasks`` batch by batch until there are enough.

    Returns how many batches were made in all, the ``done`` ones of before included.
    """
    world, meter = parts.world, parts.meter
    config = world.config.tasks
    ahead: asyncio.Task[Written] | None = None
    number, awaited = done + 1, 0

    def drafts(batch: int) -> Path:
        return parts.folder.task_drafts(iteration, batch)

    def writing(batch: int) -> asyncio.Task[Written]:
        def progress(finished: int, of: int) -> None:
            if batch == awaited:  # one written ahead leaves the bar to the sifting
                bar.inside("tasks written", finished, of)

        return asyncio.create_task(
            write_batch(world, drafts(batch), iteration, batch, progress)
        )

    def sifting(finished: int, of: int) -> None:
        bar.inside("tasks sifted", finished, of)

    await meter.engine_work(alone=True)  # what came before belongs to no batch
    try:
        while number <= config.max_batches and len(tasks) < config.target:
            meter.start()
            started, awaited = time.monotonic(), number
            written = await (ahead or writing(number))
            waited, awaited = time.monotonic() - started, 0
            ahead = writing(number + 1) if number < config.max_batches else None
            left = config.target - len(tasks)
            verdicts = await sift(world, written.candidates, left, sifting)
            kept = [verdict.task for verdict in verdicts if verdict.task]
            records = [*written.rejected, *(verdict.record for verdict in verdicts)]
            records, true = with_task_truth(world.truth, written.texts, records)
            metrics = batch_metrics(written, verdicts) | true
            metrics |= {
                "time/batch": time.monotonic() - started,
                "time/waited_for_writing": waited,
                **meter.finish(),
            }
            if written.seconds:
                metrics["perf/tokens_per_second"] = written.tokens / written.seconds
            metrics |= await meter.engine_work(alone=True)
            # Its tasks are written last: with them it counts as done.
            write_json_lines(
                parts.folder.rollouts(iteration, "tasks", number),
                sorted(records, key=lambda record: record["uid"]),
            )
            parts.tracker.log(metrics, iteration=iteration, stage="tasks", step=number)
            write_tasks(parts.folder.task_batch(iteration, number), kept)
            remove(drafts(number))
            bar.advance(metrics, len(kept))
            tasks += kept
            number += 1
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
    # Of a batch that was written ahead and is not needed.
    for file in drafts(number).parent.glob("*.written.json*"):
        remove(file)
    for batch in range(number, config.max_batches + 1):
        remove(drafts(batch))  # one may be announced that was never there
    return number - 1


def batch_metrics(written: Written, verdicts: Sequence[Verdict]) -> dict[str, float]:
    """How many candidates had which outcome, and how hard they were."""
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    outcomes["bad_format"] = len(written.rejected)
    metrics = {"tasks/written": float(written.count)}
    named = [n for n in get_args(Outcome) if n != "checks_failed" or outcomes[n]]
    metrics |= {f"tasks/{n}": float(outcomes[n]) for n in named}
    metrics["rollout/tokens"] = float(written.tokens)
    errors = [error for verdict in verdicts for error in verdict.errors]
    metrics |= error_counts((*written.errors, *errors))
    for name in ("duplicates", "spread", "agreement"):
        known = [v.record.get("rubric_quality", {}).get(name) for v in verdicts]
        if values := [value for value in known if value is not None]:
            metrics[f"rubrics/{name}"] = sum(values) / len(values)
    scores = [v.difficulty for v in verdicts if v.difficulty is not None]
    if scores:
        metrics["reward/rubric_score"] = sum(scores) / len(scores)
    return metrics
