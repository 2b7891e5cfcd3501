"""Scores Solvers: the base model and every finished iteration of a run.

    python scripts/eval.py --config tiny
    python scripts/eval.py --config tiny --file prompts.jsonl

Without ``--file``: held-out tasks of the small world, scored by their known facts, each
answered twice: sampled at temperature 1 and greedily. ``--split dev`` is for choosing
settings, ``test`` (the default) for reporting. With ``--file``: prompts with rubrics,
one ``{"prompt": .., "rubrics": [..]}`` per line, which the judge grades; with
``"questions"`` instead of ``"rubrics"``, one call rates how far an answer covers each
of them. Give the same options as for the run; results are written to ``eval/`` in the
run folder.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
import configs
from models.ranges import Count, check_fields
from scope_jax.run import cli, tracking
from scope_jax.system import stopping


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of this evaluation only."""

    run: Path | None = None
    """Run folder. None: `runs/NAME`, where NAME is the configuration's name."""
    file: Path | None = None
    """Prompts with rubrics, one JSON object per line. None: the small world's tasks."""
    count: Count = 450
    """Number of held-out tasks of the small world."""
    split: Literal["dev", "test"] = "test"
    """Part of the small world that they are about."""

    def __post_init__(self):
        check_fields(self)


def main(argv: Sequence[str]) -> int:
    config, options = cli.parse(argv, configs, options=EvalOptions, prog="eval.py")
    os.environ.update(config.placement.trainer.environment())
    tracking.setup_logging()
    stopping.catch_signals(what="ends")
    from scope_jax.evaluation import checkpoints

    folder = options.run or Path("runs") / config.name
    checkpoints.evaluate(
        config, folder, file=options.file, count=options.count, split=options.split
    )
    return 0


if __name__ == "__main__":
    cli.run_main(main)
