"""The loop over iterations and their three stages; resumes where it stopped."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax.config import Config, check_sizes
from scope_jax.report import page
from scope_jax.report.tables import stage_table
from scope_jax.run.folder import Follower, RunFolder
from scope_jax.run.tracking import Tracker, console
from scope_jax.selfplay.given_tasks import read_given
from scope_jax.selfplay.parts import Parts, open_parts
from scope_jax.selfplay.stages import train_challenger, train_solver
from scope_jax.selfplay.tasks import create_tasks
from scope_jax.system.hosts import ONE_HOST, Hosts

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
        read_given(Path(config.tasks.file))
    folder = _open_folder(path, config, hosts, fresh=fresh)
    try:
        todo = [
            (iteration, stage)
            for iteration in range(1, config.iterations + 1)
            for stage in STAGES
            if not folder.done(f"iter_{iteration}/{stage}")
        ]
        if _is_evaluated(folder, config):
            evaluate = None
        if not todo and not evaluate:
            log.info("%s is finished: see report.html; --fresh starts over", path)
            return
        with (
            Tracker(folder.writable, config.tracking) as tracker,
            open_parts(config, folder, tracker, hosts, profile=profile) as parts,
        ):
            for iteration, stage in todo:
                STAGES[stage](parts, iteration)
                if hosts.is_leader:
                    if records := tracker.of(iteration, stage):
                        title = f"iteration {iteration}: {stage}"
                        console.print(stage_table(records, title))
                    page.write(folder.path)
            if evaluate:
                evaluate(parts)
                if hosts.is_leader:
                    page.write(folder.path)
        log.info("finished: everything is in %s, report.html first", path)
    except UserError:
        folder.abandon()
        raise
    finally:
        folder.close()


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
