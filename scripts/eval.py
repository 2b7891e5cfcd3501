"""Scores Solvers: the base model and every finished iteration of a run.

    python scripts/eval.py --config tiny
    python scripts/eval.py --config tiny --file prompts.jsonl

Without ``--file``: held-out tasks of the small world, scored by their known facts. With
it: prompts with rubrics, one ``{"prompt": .., "rubrics": [..]}`` a line, graded by the
judge; with ``"questions"`` in place of ``"rubrics"`` one call rates how far an answer
covers each. Give the run's own options; results go to ``eval/`` of the run folder.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import configs
from scope_jax import cli, tracking


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What concerns this evaluation only."""

    run: Path | None = None
    """Run folder. None: `runs/NAME`, where NAME is the configuration's name."""
    file: Path | None = None
    """Prompts with rubrics, one JSON object a line. None: the small world's tasks."""
    count: int = 150
    """Held-out tasks of the small world."""


def main(argv: Sequence[str]) -> int:
    config, options = cli.parse(
        argv,
        load=configs.load,
        describe=configs.describe,
        options=EvalOptions,
        prog="eval.py",
    )
    os.environ.update(config.placement.trainer.environment())
    tracking.setup_logging()
    from scope_jax.evaluation import checkpoints

    folder = options.run or Path("runs") / config.name
    checkpoints.evaluate(config, folder, file=options.file, count=options.count)
    return 0


if __name__ == "__main__":
    cli.run_main(main)
