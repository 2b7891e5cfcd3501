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
from models.errors import UserError
from scope_jax.run import cli, tracking


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of this evaluation only."""

    run: Path | None = None
    """Folder of a run that is there. None: `runs/NAME`, where NAME is the
    configuration's name; without a run there, the base model alone is scored."""
    file: Path | None = None
    """Prompts with rubrics, one JSON object per line. None: the small world's tasks."""
    count: int = 450
    """Number of held-out tasks of the small world."""
    split: Literal["dev", "test"] = "test"
    """Part of the small world that they are about."""


def main(argv: Sequence[str]) -> int:
    config, options = cli.parse(argv, configs, options=EvalOptions, prog="eval.py")
    if options.run is not None and not (options.run / "config.json").is_file():
        raise UserError(
            f"--run {options.run}: no run is there: name its folder, or leave --run "
            "out to score the base model alone"
        )
    os.environ.update(config.placement.trainer.environment())
    tracking.setup_logging()
    from scope_jax.evaluation import checkpoints

    folder = options.run or Path("runs") / config.name
    checkpoints.evaluate(
        config, folder, file=options.file, count=options.count, split=options.split
    )
    return 0


if __name__ == "__main__":
    cli.run_main(main)
