"""The loop over iterations and their three stages; goes on where it stopped."""

import logging
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax import hosts, report
from scope_jax.config import Config, check_sizes
from scope_jax.run_folder import Follower, RunFolder
from scope_jax.session import Session
from scope_jax.stages import train_challenger, train_solver
from scope_jax.tasks import create_tasks
from scope_jax.tracking import Tracker

log = logging.getLogger("scope_jax")

STAGES = {
    "challenger": train_challenger,
    "tasks": create_tasks,
    "solver": train_solver,
}


def run(config: Config, folder: Path, *, fresh: bool = False, profile: int = 0) -> None:
    """Plays a whole run in ``folder``, or what is left of it.

    Args:
      config: the run's configuration.
      folder: run folder; made if it is not there.
      fresh: delete what an earlier run left there.
      profile: steps of each training stage to trace (``--profile``).

    Raises:
      UserError: one line for the user.
    """
    check_sizes(config)
    found: list[RunFolder] = []  # in the leader

    def manifest() -> dict[str, Any]:
        found.append(RunFolder(folder, config, fresh=fresh))
        return found[0].manifest

    stages = hosts.told(manifest)
    run_folder = found[0] if found else Follower(folder, stages)
    try:
        todo = [
            (iteration, stage)
            for iteration in range(1, config.iterations + 1)
            for stage in STAGES
            if not run_folder.done(f"iter_{iteration}/{stage}")
        ]
        if not todo:
            log.info(
                "%s is finished: see report.html there; --fresh starts anew", folder
            )
            return
        with (
            Tracker(run_folder.writable, config.tracking) as tracker,
            Session(config, run_folder, tracker, profile=profile) as session,
        ):
            for iteration, stage in todo:
                STAGES[stage](session, iteration)
                if hosts.leads():
                    tracker.table(iteration, stage)
                    report.write(run_folder.path)
        log.info("finished: everything is in %s, report.html first", folder)
    except UserError:
        run_folder.abandon()
        raise
    finally:
        run_folder.close()
