"""The loop over iterations and their three stages; resumes where it stopped."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import StorageError, UserError
from scope_jax.config import Config
from scope_jax.report import page
from scope_jax.report.summary import summary
from scope_jax.report.tables import stage_table
from scope_jax.run.folder import Follower, LostArtefactError, RunFolder
from scope_jax.run.sizes import check_base, check_sizes
from scope_jax.run.tracking import Tracker, console
from scope_jax.selfplay.given_tasks import read_given
from scope_jax.selfplay.own_parts import pinned
from scope_jax.selfplay.parts import Parts, open_parts
from scope_jax.selfplay.stages import train_challenger, train_solver
from scope_jax.selfplay.tasks import create_tasks
from scope_jax.system.hosts import ONE_HOST, Hosts
from scope_jax.system.stopping import Stopped

log = logging.getLogger("scope_jax")

STAGES = {
    "challenger": train_challenger,
    "tasks": create_tasks,
    "solver": train_solver,
}
EVALUATION = "evaluation"


@dataclass(frozen=True)
class Evaluations:
    """How a run is evaluated. Given to it, because their room is above this one.

    Attributes:
      step: scores the policy of the moment, given the Solver's step.
      iteration: scores the Solvers that there are at the end of an iteration.
      end: scores all of them, as the last stage.
    """

    step: Callable[[Parts, int], dict[str, float]]
    iteration: Callable[[Parts, int], None]
    end: Callable[[Parts], None]


def run(
    config: Config,
    path: Path,
    *,
    hosts: Hosts = ONE_HOST,
    fresh: bool = False,
    profile: int = 0,
    evaluations: Evaluations | None = None,
) -> None:
    """Runs all iterations in a folder, or resumes a run that is there.

    Args:
      config: the run's configuration.
      path: run folder; made if it is not there.
      hosts: the trainer's processes, this one among them.
      fresh: delete what an earlier run left there.
      profile: steps of each training stage to trace (``--profile``).
      evaluations: made where ``config.evaluation`` asks for them.

    Raises:
      UserError: one line for the user.
    """
    check_sizes(config)
    config = pinned(config)
    if config.tasks.file:
        read_given(config.tasks.file)
    with open_folder(path, config, hosts, fresh=fresh) as folder:
        if _is_evaluated(folder, config):
            evaluations = None
        if not _unfinished(folder, config, evaluations) and not evaluations:
            log.info(
                "%s is finished: see report.html; more --iterations go on from here, "
                "--fresh starts over",
                path,
            )
            return
        check_base(config)
        with (
            Tracker(
                folder.writable,
                config.tracking,
                began=folder.began,
                iterations=config.iterations,
                copied=hosts.is_leader,
            ) as tracker,
            open_parts(
                config,
                folder,
                tracker,
                hosts,
                profile=profile,
                score=evaluations and evaluations.step,
            ) as parts,
        ):
            _run_stages(parts, config, evaluations)
            if parts.hosts.is_leader:
                _summarise(parts)
        log.info("finished: everything is in %s, report.html first", path)


def _run_stages(parts: Parts, config: Config, evaluations: Evaluations | None) -> None:
    """Runs what is unfinished, in order; again where an earlier result is lost.

    A stage finds out that it needs something that is damaged when it reads it. The one
    that made it is then run again, from what is left of it, and the later ones, which
    have their results, are not. It ends with the same numbers as before.
    """
    again: set[str] = set()
    while True:
        try:
            while todo := _unfinished(parts.folder, config, evaluations):
                iteration, stage = todo[0]
                if evaluations and stage == EVALUATION:
                    evaluations.iteration(parts, iteration)
                else:
                    STAGES[stage](parts, iteration)
                _show(parts, iteration, stage)
            if evaluations:
                evaluations.end(parts)
                if parts.hosts.is_leader:
                    _write_report(parts)
            return
        except LostArtefactError as error:
            if error.stage in again:  # what was just written does not last
                raise
            again.add(error.stage)
            log.warning("%s: %s: %s makes it again", error.file, error.why, error.stage)
            parts.folder.record(error.stage, status="damaged")


def _unfinished(
    folder: RunFolder | Follower, config: Config, evaluations: Evaluations | None
) -> list[tuple[int, str]]:
    """The stages that are still to be run, in order."""
    wanted = evaluations and config.evaluation.each_iteration
    return [
        (iteration, stage)
        for iteration in range(1, config.iterations + 1)
        for stage in (*STAGES, *([EVALUATION] if wanted else []))
        if not folder.done(f"iter_{iteration}/{stage}")
    ]


def _show(parts: Parts, iteration: int, stage: str) -> None:
    """Prints a stage's table and writes the report; the leader does."""
    if parts.hosts.is_leader:
        records = parts.tracker.of(iteration, stage)
        if records and stage != EVALUATION:  # which has a table of its own
            title = f"iteration {iteration}: {stage}"
            console.print(stage_table(records, title))
        _write_report(parts)


def _write_report(parts: Parts) -> None:
    """Writes the report; what it cannot read must not end the run."""
    try:
        page.write(parts.folder.path)
    except UserError as error:
        log.warning("report.html: not written: %s", error)


def _summarise(parts: Parts) -> None:
    """Prints what came of the run."""
    try:
        console.print(summary(parts.folder.path))
    except UserError as error:
        log.warning("no summary: %s", error)


def _is_evaluated(folder: RunFolder | Follower, config: Config) -> bool:
    """Whether there is nothing to evaluate, or it was done with these settings.

    Of a run that goes on with another iteration, it was not.
    """
    wanted, known = config.evaluation, folder.stage(EVALUATION)
    same = (known.get("count"), known.get("split")) == (wanted.count, wanted.split)
    same &= known.get("iterations", config.iterations) == config.iterations
    done = folder.done(EVALUATION) and same and not _unfinished(folder, config, None)
    return not wanted.count or done


@contextlib.contextmanager
def open_folder(
    path: Path, config: Config, hosts: Hosts, *, fresh: bool
) -> Iterator[RunFolder | Follower]:
    """The run folder in the leader, and a copy of its state in the other processes.

    A start that fails before it has made anything is taken back.
    """
    opened: list[RunFolder] = []

    def state() -> tuple[dict[str, Any], str]:
        opened.append(RunFolder(path, config, fresh=fresh))
        return opened[0].manifest, opened[0].date

    manifest, date = hosts.from_leader(state)
    folder = opened[0] if opened else Follower(path, manifest, date)
    try:
        yield folder
    except (UserError, StorageError, Stopped):
        folder.abandon()
        raise
    finally:
        folder.close()
