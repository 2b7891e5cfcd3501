"""Evaluates every Solver of a run: the base model, then each iteration's.

``evaluate`` is the command; what a run does itself is in ``in_a_run``.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import get_args

from models import hf
from models.errors import StorageError, UserError
from scope_jax.config import Config
from scope_jax.evaluation import before_after, rubric_file, small_world
from scope_jax.evaluation.entries import BASE, ENDED
from scope_jax.evaluation.solving import MODES
from scope_jax.report import page
from scope_jax.report.comparison import Comparison, comparison_table
from scope_jax.report.scores import interval, score_table
from scope_jax.run.folder import LostArtefactError, RunFolder, needed_from
from scope_jax.run.tracking import Tracker, console
from scope_jax.selfplay.own_parts import pinned
from scope_jax.selfplay.parts import Parts, open_parts
from scope_jax.selfplay.training import Progress
from scope_jax.small_world.world import Split
from scope_jax.system.files import write_json_lines, write_text
from scope_jax.system.hosts import ONE_HOST
from scope_jax.system.stopping import Stopped

log = logging.getLogger("scope_jax")

Found = dict[str, tuple[dict[str, float], list[dict]]]
"""By Solver: metrics, and a record per task."""

Score = Callable[[str, Progress], Awaitable[tuple[dict[str, float], list[dict]]]]
"""Scores the policy on the engine, given its name."""


def evaluate(
    config: Config,
    folder: Path,
    *,
    file: Path | None = None,
    count: int = 450,
    split: Split = "test",
) -> dict[str, dict[str, float]]:
    """Scores each Solver and writes ``eval/KIND/NAME.jsonl`` and ``scores.json``.

    Args:
      config: the run's configuration.
      folder: its folder; without a run there, only the base model is scored.
      file: prompts with rubrics; None takes the small world's held-out tasks.
      count: how many of those.
      split: the part of the small world that they are about.

    Returns:
      metrics of every Solver.

    Raises:
      UserError: one line for the user.
    """
    if file:
        _check_kind(file)
    rows = rubric_file.read(file) if file else None
    if count < 1:
        raise UserError(f"--count {count}: needs at least one task")
    if not file and config.retrieval.passages != "demo":
        raise UserError(
            f"retrieval.passages={config.retrieval.passages}: the held-out tasks are "
            "of the small world: name your own prompts with --file"
        )
    config = pinned(config)
    run_folder = RunFolder(folder, config)
    try:
        with (
            Tracker(run_folder.path, config.tracking) as tracker,
            open_parts(config, run_folder, tracker, ONE_HOST) as parts,
        ):
            if rows and file:
                found = score_each(
                    parts, lambda *each: rubric_file.evaluate(parts.world, rows, *each)
                )
                _show(parts, file.stem, "Solvers", found)
            else:
                found, pair = score_small_world(parts, count, split)
                if pair:
                    console.print(comparison_table(pair))
    except LostArtefactError as error:
        run_folder.record(error.stage, status="damaged")
        raise UserError(
            f"{error.file}: {error.why}: give train.py the command of the run, which "
            "makes it again, then this one"
        ) from error
    except (UserError, StorageError, Stopped):
        run_folder.abandon()
        raise
    finally:
        run_folder.close()
    page.write(run_folder.path)
    log.info("answers to read: %s", run_folder.path / "eval")
    return {name: metrics for name, (metrics, _) in found.items()}


def score_small_world(
    parts: Parts, count: int, split: Split
) -> tuple[Found, Comparison | None]:
    """Scores each Solver on held-out tasks; shows and writes what came of it."""
    found = score_each(
        parts, lambda *each: small_world.evaluate(parts.world, count, split, *each)
    )
    return found, show_small_world(parts, count, split, found)


def show_small_world(
    parts: Parts, count: int, split: Split, found: Found
) -> Comparison | None:
    """Shows scores, and writes them and one task before and after; the leader does."""
    title = f"True scores on {count} held-out tasks ({split}), ± 95% interval"
    _show(parts, kind_of(split), title, found)
    base, last = next(iter(found)), next(reversed(found))
    if parts.hosts.is_leader and base != last:
        pair = before_after.compare((base, last), found[base][1], found[last][1])
        before_after.write(parts.folder.path / "eval" / kind_of(split), pair)
        return pair
    return None


def kind_of(split: Split) -> str:
    """Name of the folder of scores on that part of the small world."""
    return "small_world" if split == "test" else f"small_world_{split}"


def _check_kind(file: Path) -> None:
    """Refuses prompts whose answers would take the place of others.

    Raises:
      UserError: their folder is named after the file, and has that name.
    """
    if file.stem in (*map(kind_of, get_args(Split)), ".", ".."):
        raise UserError(
            f"--file {file}: its answers would lie in eval/{file.stem}/, which is not "
            "for prompts of a file: rename it"
        )


def score_each(
    parts: Parts, score: Score, solvers: Sequence[tuple[str, str]] | None = None
) -> Found:
    """Puts one Solver after the other on the engine and scores it.

    Args:
      score: scores what is there, given its name.
      solvers: as ``solvers_of``, which None stands for.
    """
    hosts = parts.hosts
    if solvers is None:
        solvers = hosts.from_leader(lambda: solvers_of(parts))
    hosts.from_leader(lambda: _check_there(solvers))
    found: Found = {}
    for number, (name, path) in enumerate(solvers):
        if name == BASE:
            parts.trainer.use_folder(path)
        else:
            with needed_from(f"{name}/solver"):
                hosts.from_leader(lambda path=path: hf.verify(path))
                parts.trainer.use_folder(path)

        def scored(name: str = name, number: int = number):
            with parts.tracker.stage(number, "evaluation", total=1) as bar:

                def progress(done: int, of: int) -> None:
                    bar.inside("tasks", done, of)

                result = parts.serving.run(score(name, progress))
                means = {f"eval/{mode}/true_score": mode for mode in MODES}
                bar.advance(
                    {
                        mode: interval(result[0], metric)
                        for metric, mode in means.items()
                        if metric in result[0]
                    }
                )
            return result

        found[name] = hosts.from_leader(scored)
    return found


def _show(parts: Parts, kind: str, title: str, found: Found) -> None:
    """Prints the table of scores, and writes scores and answers; the leader does."""
    if not parts.hosts.is_leader:
        return
    folder = parts.folder.path / "eval" / kind
    for name, (_, records) in found.items():
        write_json_lines(folder / f"{name}.jsonl", records)
    scores = {name: metrics for name, (metrics, _) in found.items()}
    text = json.dumps(scores, indent=2) + "\n"
    write_text(folder / "scores.json", text, recorded=True)
    console.print(score_table(scores, title))


def _check_there(solvers: Sequence[tuple[str, str]]) -> None:
    """Says of a lost export that it is, before the others have been scored."""
    for name, path in solvers:
        if name != BASE and not Path(path).is_dir():
            with needed_from(f"{name}/solver"):
                hf.verify(path)


def solvers_of(parts: Parts, last: int | None = None) -> list[tuple[str, str]]:
    """(name, folder) of the base model and of every finished Solver.

    So is one whose export is lost: a table without it would look whole.

    Args:
      last: iteration; None: the run's.
    """
    config = parts.world.config
    exports = {
        iteration: parts.folder.export(iteration, "solver")
        for iteration in range(1, (last or config.iterations) + 1)
    }
    finished = 0
    for iteration, path in exports.items():
        status = parts.folder.stage(f"iter_{iteration}/solver").get("status")
        if status in ENDED or path.is_dir():
            finished = iteration  # and so are those before
    solvers = [(f"iter_{i}", str(path)) for i, path in exports.items() if i <= finished]
    return [(BASE, config.model.path), *solvers]
