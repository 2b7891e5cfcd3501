"""Replay swaps of a run: its first Solver and its last, searching and answering."""

import json
import os
from pathlib import Path
from typing import Any

from ablation import summaries
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.run import tracking
from scope_jax.run.folder import RunFolder
from scope_jax.system import settings
from scope_jax.system.files import read_json, write_text


def play(run: Path, count: int, split: str, out: Path) -> str:
    """Plays the swaps, writes their scores and returns them as a table.

    Args:
      run: folder of a run of two iterations or more.
      count, split: of held-out tasks.
      out: folder of summaries; the scores are in its subfolder ``swaps``.

    Raises:
      UserError: the folder is no run's, or lacks one of the two Solvers.
    """
    config = settings.load(Config, run / "config.json")
    last = config.iterations
    solvers = {f"iter_{i}": run / "export" / f"iter_{i}" / "solver" for i in (1, last)}
    for folder in solvers.values():
        if not folder.is_dir() or last < 2:
            raise UserError(f"{run}: has no first and last Solver to swap: {folder}")
    # Before JAX looks for devices.
    os.environ.update(config.placement.trainer.environment())
    tracking.setup_logging()
    from scope_jax.evaluation.small_world import HELDOUT_SEED
    from scope_jax.evaluation.swap import swap
    from scope_jax.selfplay.parts import open_parts
    from scope_jax.small_world.tasks import heldout_tasks
    from scope_jax.system.hosts import ONE_HOST

    run_folder = RunFolder(run, config)
    try:
        with (
            tracking.Tracker(run, config.tracking) as tracker,
            open_parts(config, run_folder, tracker, ONE_HOST) as parts,
        ):
            paths = {name: str(folder) for name, folder in solvers.items()}
            found = swap(parts, paths, heldout_tasks(count, HELDOUT_SEED, split))
    finally:
        run_folder.close()
    result = {"run": run.name, "split": split, "scores": summaries.plain(found)}
    write_text(out / "swaps" / f"{run.name}.json", json.dumps(result, indent=1) + "\n")
    return table(found)


def section(folder: Path) -> str:
    """All swaps in a folder of summaries as a section of a page; empty without any."""
    lines = []
    for file in sorted((folder / "swaps").glob("*.json")):
        one = read_json(file)
        lines += ["", f"`{one['run']}`:", "", table(one["scores"])]
    if not lines:
        return ""
    about = """
## Replay swaps

One Solver searches, another writes the answer from what was found, with no search left.
Behind ± stands half of a 95% interval over tasks; gains are over the first Solver doing
both. Who would search on writes where it would not have stopped.
"""
    return about + "\n".join(lines) + "\n"


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Scores and gains as Markdown, with half of their 95% intervals over tasks."""
    head = "searches | answers | true score | gain | would search on | tasks"
    lines = [f"| | {head} |", f"|{' --- |' * 7}"]
    for kind, rows in found.items():
        for row in rows:
            lines.append(
                f"| {kind} | {row['searches']} | {row['answers']} | "
                f"{row['score']:.3f} ± {1.96 * row['stderr']:.3f} | "
                f"{row['gain']:+.3f} ± {1.96 * row['gain_stderr']:.3f} | "
                f"{row['unfinished']:.0%} | {row['n']} |"
            )
    return "\n".join(lines)
