"""Plays self-play iterations: Challenger, tasks, Solver.

    python scripts/train.py --config tiny

The run folder is ``runs/NAME`` unless ``--run`` names another. The same command resumes
where it stopped; any field of the configuration can be set (``--help`` lists the usual
ones, ``--help-all`` all).
Ctrl-C or SIGTERM saves a checkpoint and ends it (exit code 130 or 143); once more ends
it at once.
``--plan`` prints how much memory each program needs, and whether it fits.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__":  # until `main` looks at signals: imports take seconds
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))

import check_packages  # noqa: F401
import configs
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.run import cli, tracking
from scope_jax.system import stopping


def main(argv: Sequence[str]) -> int:
    stopping.catch_signals()
    with stopping.nothing_to_save(alone=True):
        config, options = cli.parse(argv, configs)
        if options.memory:
            from scope_jax.run.fit import fitted

            config, chosen = fitted(config, options.memory)
            print(chosen)
        # Before JAX looks for devices.
        os.environ.update(config.placement.trainer.environment())
        tracking.setup_logging()
        if options.plan:
            import jax

            from scope_jax.run.plan import plan

            jax.config.update("jax_platforms", "cpu")  # takes no memory of a GPU
            found = plan(config)
            print(found.text())
            found.check()
            return 0
        train = _recipe(config, options.profile)
    train(config, options.folder(config), fresh=options.fresh)
    return 0


def _recipe(config: Config, profile: int) -> Callable[..., None]:
    """What trains as the configuration says; joins the processes of other hosts."""
    if config.recipe == "preference":
        from scope_jax.selfplay import preference

        if profile:
            raise UserError(
                f"--profile {profile}: the recipe preference traces no steps: leave it "
                "out"
            )
        return preference.run
    from scope_jax.evaluation import in_a_run
    from scope_jax.selfplay import pipeline
    from scope_jax.system import hosts

    return functools.partial(
        pipeline.run,
        hosts=hosts.join(config.placement.hosts),
        profile=profile,
        evaluations=in_a_run.EVALUATIONS,
    )


if __name__ == "__main__":
    cli.run_main(main)
