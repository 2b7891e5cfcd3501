"""Tasks that a person gives in place of task creation (``tasks.file``).

Parquet as ``task_file`` writes it, or JSON lines such as

    {"task": "Report: ..", "type": "writing", "rubrics": ["Names ..", ".."]}

with ``target`` where the answer is known: then answers are compared with it, and need
no rubrics. Rows of a benchmark are tasks too: in the form of ``suite.rows``, or as
NAME=FILE in the public form of the benchmark NAME. Of their weights only the sign
counts (the reward of the method has none): what weighs less than nothing is no rubric.
"""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import DamagedError, UserError
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.selfplay.task_file import read_tasks
from scope_jax.suite import judge_prompts, readers
from scope_jax.suite.rows import Row
from scope_jax.system.files import json_rows, read_text

log = logging.getLogger("scope_jax")

FORM = '{"task": "..", "type": "..", "rubrics": ["..", ..]}'
_NAMED = re.compile(r"(\w+)=(.+)")


def read_given(file: str | Path) -> list[Task]:
    """The tasks of a file, in its order.

    Args:
      file: its path, or NAME=FILE[,FILE..].

    Raises:
      UserError: the file is missing or empty, or a line is not of the form above.
    """
    path = Path(file)
    if (named := _NAMED.fullmatch(str(file))) and not path.exists():
        paths = [Path(name) for name in named[2].split(",")]
        return _of_rows(f"tasks.file={file}", readers.read(named[1], paths))
    if not path.is_file():
        raise UserError(f"tasks.file={path}: no such file: name a file of tasks")
    if path.suffix == ".parquet":
        tasks = read_tasks(path)
    else:
        try:
            text = read_text(path, "name JSON lines, or a .parquet file")
        except DamagedError as error:
            raise UserError(f"tasks.file={error}") from error
        first = next((line for line in text.split("\n") if line.strip()), "")
        if '"source"' in first and '"task"' not in first:
            return _of_rows(f"tasks.file={path}", readers.read("rows", [path]))
        rows = json_rows(f"tasks.file={path}", text, _good, FORM)
        tasks = [_task(number, row) for number, row in enumerate(rows, 1)]
    if not tasks:
        raise UserError(f"tasks.file={path}: holds no task: add at least one")
    return tasks


def _of_rows(where: str, rows: Sequence[Row]) -> list[Task]:
    """Rows of benchmarks as tasks; those that no rubric grades are left out.

    Raises:
      UserError: none is left.
    """
    found = []
    for number, row in enumerate(rows, 1):
        rubrics = [item.text for item in row.items if item.weight > 0]
        if row.short:
            rubrics = [judge_prompts.equivalent(row.golds)]
        if row.prompt and row.opening == "solver" and rubrics:
            given = {"task": row.prompt, "type": row.source, "rubrics": rubrics}
            found.append(_task(number, given))
    if not found:
        raise UserError(
            f"{where}: no row has a prompt for the Solver and rubrics: give others"
        )
    if len(found) < len(rows):
        log.warning(
            "%s: %d of %d rows have no prompt for the Solver or no rubric: left out",
            *(where, len(rows) - len(found), len(rows)),
        )
    return found


def _task(number: int, row: dict[str, Any]) -> Task:
    """One row's task; what only task creation knows is empty."""
    return Task(
        uid=str(number),
        type=row["type"],
        text=row["task"],
        document=Document(id="", title="", text=""),
        searches=0,
        rubrics=tuple(Rubric(text) for text in row.get("rubrics", ())),
        gate_scores={},
        difficulty=math.nan,
        target=row.get("target"),
    )


def _good(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    target = row.get("target")
    rubrics = row.get("rubrics", None if target is None else [])
    texts = [row.get("task"), row.get("type")]
    texts += rubrics if isinstance(rubrics, list) else [None]
    known = target is None or (isinstance(target, str) and bool(target))
    graded = bool(rubrics) or target is not None
    return all(isinstance(t, str) and t for t in texts) and known and graded
