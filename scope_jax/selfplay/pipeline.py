"""The loop over iterations and their three stages; resumes where it stopped."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.errors import StorageError, UserError
from scope_jax.config import Config, check_sizes
from scope_jax.report import page
from scope_jax.report.tables import stage_table
from scope_jax.run.folder import Follower, LostArtefactError, RunFolder
from scope_jax.run.tracking import Tracker, console
from scope_jax.selfplay.given_tasks import read_given
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


def run(
    config: Config,
    path: Path,
    *,
    hosts: Hosts = ONE_HOST,
    fresh: bool = False,
    profile: int = 0,
    evaluate: Callable[[Parts], None] | None = None,
) -> None:
    """Runs all iterations in a folder, or resumes a run that is there.

    Args:
      config: the run's configuration.
      path: run folder; made if it is not there.
      hosts: the trainer's processes, this one among them.
      fresh: delete what an earlier run left there.
      profile: steps of each training stage to trace (``--profile``).
      evaluate: the last stage, where ``evaluation.count`` asks for one. Given, because
        its room is above this one.

    Raises:
      UserError: one line for the user.
    """
    check_sizes(config)
    if config.tasks.file:
        read_given(config.tasks.file)
    folder = _open_folder(path, config, hosts, fresh=fresh)
    try:
        if _is_evaluated(folder, config):
            evaluate = None
        if not _unfinished(folder, config) and not evaluate:
            log.info("%s is finished: see report.html; --fresh starts over", path)
            return
        with (
            Tracker(folder.writable, config.tracking, began=folder.began) as tracker,
            open_parts(config, folder, tracker, hosts, profile=profile) as parts,
        ):
            _run_stages(parts, config, evaluate)
        log.info("finished: everything is in %s, report.html first", path)
    except (UserError, StorageError, Stopped):
        folder.abandon()
        raise
    finally:
        folder.close()


def _run_stages(
    parts: Parts, config: Config, evaluate: Callable[[Parts], None] | None
) -> None:
    """Runs what is unfinished, in order; again where an earlier result is lost.

    A stage finds out that it needs something that is damaged when it reads it. The one
    that made it is then run again, from what is left of it, and the later ones, which
    have their results, are not. It ends with the same numbers as before.
    """
    again: set[str] = set()
    while True:
        try:
            while todo := _unfinished(parts.folder, config):
                STAGES[todo[0][1]](parts, todo[0][0])
                _show(parts, *todo[0])
            if evaluate:
                evaluate(parts)
                if parts.hosts.is_leader:
                    _write_report(parts)
            return
        except LostArtefactError as error:
            if error.stage in again:  # what was just written does not last
                raise
            again.add(error.stage)
            log.warning("%s: %s: %s makes it again", error.file, error.why, error.stage)
            parts.folder.record(error.stage, status="damaged")


def _unfinished(folder: RunFolder | Follower, config: Config) -> list[tuple[int, str]]:
    """The stages that are still to be run, in order."""
    return [
        (iteration, stage)
        for iteration in range(1, config.iterations + 1)
        for stage in STAGES
        if not folder.done(f"iter_{iteration}/{stage}")
    ]


def _show(parts: Parts, iteration: int, stage: str) -> None:
    """Prints a stage's table and writes the report; the leader does."""
    if parts.hosts.is_leader:
        if records := parts.tracker.of(iteration, stage):
            title = f"iteration {iteration}: {stage}"
            console.print(stage_table(records, title))
        _write_report(parts)


def _write_report(parts: Parts) -> None:
    """Writes the report; what it cannot read must not end the run."""
    try:
        page.write(parts.folder.path)
    except UserError as error:
        log.warning("report.html: not written: %s", error)


def _is_evaluated(folder: RunFolder | Follower, config: Config) -> bool:
    """Whether there is nothing to evaluate, or it was done with these settings."""
    settings = asdict(config.evaluation)
    known = folder.stage("evaluation")
    done = folder.done("evaluation") and settings.items() <= known.items()
    return not config.evaluation.count or done


def _open_folder(
    path: Path, config: Config, hosts: Hosts, *, fresh: bool
) -> RunFolder | Follower:
    """The run folder in the leader, and a copy of its state in the other processes."""
    opened: list[RunFolder] = []

    def state() -> tuple[dict[str, Any], str]:
        opened.append(RunFolder(path, config, fresh=fresh))
        return opened[0].manifest, opened[0].date

    manifest, date = hosts.from_leader(state)
    return opened[0] if opened else Follower(path, manifest, date)
