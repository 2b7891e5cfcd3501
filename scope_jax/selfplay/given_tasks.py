"""Tasks that a person gives in place of task creation (``tasks.file``).

Parquet as ``task_file`` writes it, or JSON lines such as

    {"task": "Report: ..", "type": "writing", "rubrics": ["Names ..", ".."]}

with ``target`` where the answer is known: then answers are compared with it.
"""

import math
from pathlib import Path
from typing import Any

from models.errors import DamagedError, UserError
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.selfplay.task_file import read_tasks
from scope_jax.system.files import json_rows, read_text

FORM = '{"task": "..", "type": "..", "rubrics": ["..", ..]}'


def read_given(path: Path) -> list[Task]:
    """The tasks of a file, in its order.

    Raises:
      UserError: the file is missing or empty, or a line is not of the form above.
    """
    if not path.is_file():
        raise UserError(f"tasks.file={path}: no such file: name a file of tasks")
    if path.suffix == ".parquet":
        tasks = read_tasks(path)
    else:
        try:
            text = read_text(path, "name JSON lines, or a .parquet file")
        except DamagedError as error:
            raise UserError(f"tasks.file={error}") from error
        rows = json_rows(f"tasks.file={path}", text, _good, FORM)
        tasks = [_task(number, row) for number, row in enumerate(rows, 1)]
    if not tasks:
        raise UserError(f"tasks.file={path}: holds no task: add at least one")
    return tasks


def _task(number: int, row: dict[str, Any]) -> Task:
    """One row's task; what only task creation knows is empty."""
    return Task(
        uid=str(number),
        type=row["type"],
        text=row["task"],
        document=Document(id="", title="", text=""),
        searches=0,
        rubrics=tuple(Rubric(text) for text in row["rubrics"]),
        gate_scores={},
        difficulty=math.nan,
        target=row.get("target"),
    )


def _good(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    rubrics, target = row.get("rubrics"), row.get("target")
    texts = [row.get("task"), row.get("type")]
    texts += rubrics if isinstance(rubrics, list) else [None]
    known = target is None or (isinstance(target, str) and bool(target))
    graded = bool(rubrics) or target is not None
    return all(isinstance(t, str) and t for t in texts) and known and graded
