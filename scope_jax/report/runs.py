"""A run's folder as the page shows it: metrics, scores, settings, what is damaged.

Everything but the configuration may be missing or damaged: what can be read is shown,
and the rest becomes a problem in words.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import DamagedError, UserError
from scope_jax.report import hacking, plain
from scope_jax.report.scores import paired_gain
from scope_jax.run import records
from scope_jax.run.records import STAGES
from scope_jax.system.files import read_json, read_json_lines

NOT_CURVES = ("iteration", "stage", "step", "checksum", "time/unix")


def load(run_dir: Path) -> dict[str, Any]:
    """What the page shows of a run, apart from its rollouts; as JSON.

    Raises:
      UserError: the folder is no run's.
    """
    run_dir = Path(run_dir)
    file = run_dir / "config.json"
    if not file.is_file():
        raise UserError(f"{run_dir}: has no config.json: name the folder of a run")
    problems: list[str] = []
    config = _object(file, problems)
    found, problem = records.readable(run_dir / records.NAME)
    if problem:
        problems.append(problem)
    manifest = run_dir / "manifest.json"
    done = _object(manifest, problems) if manifest.is_file() else {}
    return {
        "name": str(config.get("name") or run_dir.resolve().name),
        "folder": run_dir.resolve().name,
        "config": flat(config),
        "stages": {
            name: plain.clean(stage)
            for name, stage in _mapping(done.get("stages")).items()
            if isinstance(stage, dict)
        },
        "began": plain.number(done.get("began")),
        "curves": {
            stage: columns([r for r in found if r["stage"] == stage])
            for stage in STAGES
        },
        "alarms": _alarms(found),
        "evaluations": [
            evaluation
            for scores in sorted(run_dir.glob("eval/*/scores.json"))
            if (evaluation := _evaluation(scores, problems))
        ],
        "problems": problems,
    }


def columns(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A stage's records as columns: where and when each was made, and every metric."""
    names = dict.fromkeys(
        name for record in found for name in record if name not in NOT_CURVES
    )
    return {
        "iteration": [record["iteration"] for record in found],
        "step": [record["step"] for record in found],
        "unix": [plain.number(record.get("time/unix")) for record in found],
        "metrics": {
            name: [plain.short(record.get(name)) for record in found]
            for name in sorted(names)
        },
    }


def flat(settings: Any, prefix: str = "") -> dict[str, str]:
    """Settings by their dotted names; values as JSON."""
    if not isinstance(settings, dict):
        return {prefix.rstrip("."): json.dumps(settings, ensure_ascii=False)}
    found: dict[str, str] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.")
    return found


def _evaluation(file: Path, problems: list[str]) -> dict[str, Any] | None:
    """Scores of every Solver, how sure a gain is, and one task before and after."""
    found = _object(file, problems)
    scores = {
        name: {key: plain.short(value) for key, value in metrics.items()}
        for name, metrics in found.items()
        if isinstance(metrics, dict)
    }
    if not scores:
        return None
    compared = _compared(file.with_name("before_after.json"), problems)
    return {
        "kind": file.parent.name,
        "scores": scores,
        "gains": _gains(file.parent, list(scores), problems),
        "compared": compared,
    }


def _compared(file: Path, problems: list[str]) -> dict[str, Any] | None:
    """One task before and after; None if there is none, or not in its form."""
    if not file.is_file():
        return None
    found = _object(file, problems)
    sides = [_mapping(found.get(name)) for name in ("before", "after")]
    said = [side.get("messages") for side in sides]
    if all(isinstance(each, list) for each in said) and all(
        isinstance(message, dict) for each in said for message in each or ()
    ):
        return plain.clean(found)
    problems.append(f"{file}: not two Solvers and what they said")
    return None


def _alarms(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What became of the alarm, by stage."""
    told = {}
    for stage in STAGES:
        own = [record for record in found if record["stage"] == stage]
        with contextlib.suppress(TypeError, ValueError):  # metrics that are no numbers
            if hacking.known(own):
                told[stage] = hacking.told(own)
    return told


def _gains(
    folder: Path, names: Sequence[str], problems: list[str]
) -> dict[str, dict[str, list[float]]]:
    """Of each Solver but the first and each mode: gain over the first, task by task."""
    answered = {}
    for name in names:
        file = folder / f"{name}.jsonl"
        try:
            answered[name] = read_json_lines(file) if file.is_file() else []
        except DamagedError as error:
            problems.append(f"{file}: {error.why}")
            answered[name] = []
    base, *others = names
    gains = {}
    for name in others:
        found = paired_gain(answered[base], answered[name])
        gains[name] = {
            mode: [plain.short(v) for v in two] for mode, two in found.items()
        }
    return gains


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _object(file: Path, problems: list[str]) -> dict[str, Any]:
    """The JSON object in a file; an empty one, and a problem, where there is none."""
    try:
        found = read_json(file)
    except UserError as error:
        problems.append(str(error))
        try:  # what was changed by hand is still readable
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
    if isinstance(found, dict):
        return found
    problems.append(f"{file}: holds no JSON object")
    return {}
