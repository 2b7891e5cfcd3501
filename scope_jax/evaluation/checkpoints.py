"""Evaluates every Solver of a run: the base model, then each iteration's."""

import json
import logging
from pathlib import Path

from rich.table import Table

from models.errors import UserError
from scope_jax.config import Config
from scope_jax.evaluation import rubric_file, small_world
from scope_jax.run.folder import RunFolder
from scope_jax.run.tracking import Tracker, console, format_number
from scope_jax.selfplay.parts import open_parts
from scope_jax.system.files import write_json_lines, write_text
from scope_jax.system.hosts import ONE_HOST

log = logging.getLogger("scope_jax")


def evaluate(
    config: Config, folder: Path, *, file: Path | None = None, count: int = 150
) -> dict[str, dict[str, float]]:
    """Scores each Solver and writes ``eval/NAME.jsonl`` and ``eval/scores.json``.

    Args:
      config: the run's configuration.
      folder: its folder; without a run there, only the base model is scored.
      file: prompts with rubrics; None takes the small world's held-out tasks.
      count: how many of those.

    Raises:
      UserError: one line for the user.
    """
    rows = rubric_file.read(file) if file else None
    if count < 1:
        raise UserError(f"--count {count}: needs at least one task")
    if not file and config.retrieval.passages != "demo":
        raise UserError(
            f"retrieval.passages={config.retrieval.passages}: the held-out tasks are "
            "of the small world: name your own prompts with --file"
        )
    run_folder = RunFolder(folder, config)
    scores: dict[str, dict[str, float]] = {}
    try:
        with (
            Tracker(run_folder.path, config.tracking) as tracker,
            open_parts(config, run_folder, tracker, ONE_HOST) as parts,
        ):
            kind = file.stem if file else "small_world"
            world = parts.world
            for name, path in _solvers(run_folder, world.config):
                parts.trainer.use_folder(path)
                with tracker.stage(0, f"evaluation of {name}", total=1) as bar:

                    def progress(n: int, of: int, bar=bar) -> None:
                        bar.inside("tasks", n, of)

                    work = (
                        rubric_file.evaluate(world, rows, name, progress)
                        if rows
                        else small_world.evaluate(world, count, name, progress)
                    )
                    scores[name], records = parts.serving.run(work)
                    bar.advance(scores[name])
                write_json_lines(
                    run_folder.path / "eval" / kind / f"{name}.jsonl", records
                )
            text = json.dumps(scores, indent=2) + "\n"
            write_text(run_folder.path / "eval" / kind / "scores.json", text)
    except UserError:
        run_folder.abandon()
        raise
    finally:
        run_folder.close()
    console.print(_table(scores))
    log.info("answers to read: %s", run_folder.path / "eval")
    return scores


def _solvers(run_folder: RunFolder, config: Config) -> list[tuple[str, str]]:
    """(name, folder) of the base model and of every exported Solver."""
    found = [("base", config.model.path)]
    for iteration in range(1, config.iterations + 1):
        path = run_folder.export(iteration, "solver")
        if path.is_dir():
            found.append((f"iter_{iteration}", str(path)))
    return found


def _table(scores: dict[str, dict[str, float]]) -> Table:
    table = Table(title="Solvers", title_justify="left")
    table.add_column("metric")
    for name in scores:
        table.add_column(name, justify="right")
    for metric in next(iter(scores.values())):
        shown = [format_number(values.get(metric)) for values in scores.values()]
        table.add_row(metric.removeprefix("eval/"), *shown)
    return table
