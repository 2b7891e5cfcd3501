"""What is kept of a run: one small JSON file, from which tables and figures are made.

Wall-clock seconds stand under ``seconds``; all else is the same for the same code, arm
and seed.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation import weaken
from ablation.runs import Run
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.run import tracking
from scope_jax.run.paths import RunPaths
from scope_jax.run.resuming import HARMLESS
from scope_jax.system import settings
from scope_jax.system.files import read_json, write_text

LAST = 4  # steps of a stage, or batches of task creation
STAGES = ("challenger", "tasks", "solver")
KEPT = (
    "reward/rubric_score",
    "reward/mean",
    "reward/length_factor",
    "rollout/answer_tokens",
    "rollout/searches",
)
"""Metrics that are kept beside ``truth/``, ``tasks/`` and ``alarm/``."""
FAMILIES = ("truth/", "tasks/", "alarm/")
EVALUATION = {
    "greedy": "eval/greedy/true_score",
    "greedy_stderr": "eval/greedy/true_score_stderr",
    "sampled": "eval/sampled/true_score",
    "sampled_stderr": "eval/sampled/true_score_stderr",
    "n": "eval/sampled/true_score_n",
}
"""Name in a summary -> name in ``eval/small_world/scores.json``."""


def summary(run: Run, base: Config, *, count: int, split: str) -> dict[str, Any]:
    """The summary of a run that is finished and evaluated.

    Args:
      run: which.
      base: the configuration's own, from which differences are listed.
      count, split: of the evaluation's tasks.

    Raises:
      UserError: the folder lacks something.
    """
    config, paths = run.config, RunPaths(run.folder)
    records = tracking.read(run.folder)
    iterations = range(1, config.iterations + 1)
    commits = list(dict.fromkeys(start["commit"] for start in run.starts()))
    found: dict[str, Any] = {
        "arm": run.arm,
        "seed": run.seed,
        "commit": ", ".join(commits) or "unknown",
        "config": base.name,
        "settings": changed(base, config),
        "evaluation": {"count": count, "split": split},
        "scores": scores(paths),
        "sampled_tokens": sampled_tokens(records),
        "iterations": [
            {"iteration": i, **{s: stage(records, i, s) for s in STAGES}}
            for i in iterations
        ],
        "seconds": {
            "stages": {
                f"iter_{i}/{s}": seconds(records, i, s)
                for i in iterations
                for s in STAGES
            },
            "until": until(run, iterations),
        },
    }
    for path in config.inference.judges().values():
        if (Path(path) / weaken.RECORD).is_file():
            found["weakened"] = vars(weaken.record(Path(path)))
    return plain(found)


def changed(base: Config, config: Config) -> dict[str, Any]:
    """The settings in which a run differs; of a path, only its name."""
    pairs = zip(settings.leaves(base), settings.leaves(config), strict=True)
    harmless = tuple(f"{name}." for name in HARMLESS)
    found = {}
    for (name, _, old), (_, _, new) in pairs:
        if old != new and not f"{name}.".startswith(harmless):
            found[name] = Path(new).name if name in _PATHS else new
    return found


_PATHS = ("inference.rubric_model", "inference.grader_model", "tasks.file")


def scores(paths: RunPaths) -> dict[str, dict[str, float]]:
    """True scores of each Solver.

    Raises:
      UserError: there are none.
    """
    file = paths.path / "eval" / "small_world" / "scores.json"
    if not file.is_file():
        raise UserError(f"{file}: missing: evaluate the run with scripts/eval.py")
    return {
        solver: {
            short: metrics[name]
            for short, name in EVALUATION.items()
            if metrics.get(name) is not None
        }
        for solver, metrics in read_json(file).items()
    }


def stage(
    records: Iterable[Mapping[str, Any]], iteration: int, name: str
) -> dict[str, Any]:
    """What is kept of a stage; empty where it was left out.

    ``mean`` is over all its steps, ``last`` over the last ``LAST``.
    """
    rows = _of(records, iteration, name)
    if not rows:
        return {}
    names = sorted(
        {key for row in rows for key in row if key in KEPT or key.startswith(FAMILIES)}
    )
    return {
        "steps": len(rows),
        "mean": {key: _mean(rows, key) for key in names},
        "last": {key: _mean(rows[-LAST:], key) for key in names},
    }


def sampled_tokens(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Tokens that each engine sampled in all steps, by its name."""
    found: dict[str, float] = {}
    for row in records:
        for key, value in row.items():
            if name := _SAMPLED.fullmatch(key):
                found[name[1]] = found.get(name[1], 0.0) + value
    return found


_SAMPLED = re.compile(r"perf/(\w+)_sampled_tokens")


def seconds(records: Iterable[Mapping[str, Any]], iteration: int, name: str) -> float:
    """Wall seconds that a stage's steps or batches took."""
    total = 0.0
    for row in _of(records, iteration, name):
        laps = {k: v for k, v in row.items() if k.startswith("time/")}
        del laps["time/unix"]
        total += laps.get("time/batch", sum(laps.values()))
    return round(total, 1)


def until(run: Run, iterations: Iterable[int]) -> dict[str, float | None]:
    """Seconds from the start of the program to the end of each iteration.

    None where the run was interrupted: then nobody knows.
    """
    file = run.folder / "manifest.json"
    done = read_json(file)["stages"]
    starts = run.starts()
    found: dict[str, float | None] = {}
    for i in iterations:
        end = done.get(f"iter_{i}/solver", {}).get("unix")
        whole = len(starts) == 1 and end is not None
        found[f"iter_{i}"] = round(end - starts[0]["unix"], 1) if whole else None
    return found


def save(found: Mapping[str, Any], path: Path) -> None:
    """Writes a summary."""
    write_text(path, json.dumps(found, indent=1) + "\n")


def read_all(folder: Path) -> list[dict[str, Any]]:
    """All summaries of a folder, in the order of their names.

    Raises:
      UserError: a file there is no summary.
    """
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            one = read_json(file)
            complete = {"arm", "seed", "scores", "iterations"} <= one.keys()
        except (ValueError, AttributeError):
            complete = False
        if not complete:
            raise UserError(f"{file}: is no summary of a run: remove it")
        found.append(one)
    return found


def plain(value: Any) -> Any:
    """``value`` as JSON has it: numbers that are none are null."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of(
    records: Iterable[Mapping[str, Any]], iteration: int, name: str
) -> list[Mapping[str, Any]]:
    return [r for r in records if (r["iteration"], r["stage"]) == (iteration, name)]


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The mean over the rows that have it, to six digits; None of nothing."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(f"{sum(values) / len(values):.6g}") if values else None
