"""The page about models on benchmarks: their scores, every answer, every verdict.

It is the page of a run with other views in front: a question's answers by all models
are a group, so that they can be read side by side.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scope_jax.report import bundle, page
from scope_jax.report.rows import FIELDS, TASK_CHARACTERS
from scope_jax.run.records import STAGES
from scope_jax.system.files import write_text

Answers = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""By source, of every question all models' records: see ``record``."""

ABOUT = ("models", "baseline", "gains", "remarks", "judge")


def write(file: Path, about: Mapping[str, Any], answers: Answers) -> Path:
    """Writes the page.

    Args:
      file: of the page.
      about: ``models`` and ``gains``: by name, metrics as ``scores.score_rows`` takes
        them; ``baseline`` of the gains; ``judge``, its name; ``remarks``, lines.
      answers: everything that was answered.
    """
    write_text(file, build(file.parent.name, about, answers))
    return file


def build(name: str, about: Mapping[str, Any], answers: Answers) -> str:
    """The page as HTML. Of more answers than fit, whole questions are left out."""
    empty = {"iteration": [], "step": [], "unix": [], "metrics": {}}
    run = {"name": name, "folder": name, "config": {}, "stages": {}, "began": None}
    run |= {"curves": dict.fromkeys(STAGES, empty), "alarms": {}, "evaluations": []}
    told: dict[str, Any] = {"runs": [run], "differences": [], "problems": []}
    told["arms"] = [{"name": name, "runs": [0]}]
    told["compared"] = {key: about[key] for key in ABOUT}
    count = sum(len(each) for by in answers.values() for each in by)
    share = min(1.0, bundle.MOST / max(count, 1))
    while True:
        told["rollouts"], chunks = _packed(answers, share)
        size = sum(map(len, chunks)) + len(json.dumps(told["rollouts"]))
        if size <= bundle.MOST_CHARACTERS or share < 1e-3:
            return page.shell(told, chunks)
        share *= 0.9 * bundle.MOST_CHARACTERS / size


def _packed(answers: Answers, share: float) -> tuple[dict[str, Any], list[str]]:
    """Rows of all answers, and that share of the questions with their conversations."""
    rows: list[list[Any]] = []
    parts: list[list[int]] = []
    chunks: list[str] = []
    for source, questions in answers.items():
        held, records = [], []
        for number, each in enumerate(questions):
            scores = [record["score"] for record in each]
            for record in each:
                if int((number + 1) * share) > int(number * share):
                    held.append(len(rows))
                    records.append(dict(record))
                rows.append(_row(record, source, number, max(scores) - min(scores)))
        if held:
            parts.append(held)
            chunks.append(bundle.pack(records))
    held_count = sum(map(len, parts))
    about = {"fields": ["run", *FIELDS], "rows": rows, "parts": parts}
    return about | {"held": held_count}, chunks


def _row(record: Mapping[str, Any], source: str, number: int, gap: float) -> list[Any]:
    values: dict[str, Any] = dict.fromkeys(FIELDS) | {
        "uid": record["uid"],
        "iteration": 0,
        "stage": "evaluation",
        "step": 0,
        "group": number,
        "sample": record["model"],
        "reward": round(record["score"], 6),
        "gap": round(gap, 6),
        "outcome": "answered" if record["answer"] else "no answer",
        "errors": list(record["errors"]),
        "searches": record["searches"],
        "tokens": record["tokens"],
        "type": source,
        "task": record["task"][:TASK_CHARACTERS],
        "source": "",
        "flaws": [],
    }
    return [0, *values.values()]
