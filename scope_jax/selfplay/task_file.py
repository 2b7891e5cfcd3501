"""Tasks as Parquet: what task creation writes and Solver training reads."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DamagedError, first_line
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.system.files import read_bytes, replacing

REMEDY = "give a whole file, as task creation writes it"

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("type", pa.string()),
        ("text", pa.string()),
        (
            "document",
            pa.struct(
                [("id", pa.string()), ("title", pa.string()), ("text", pa.string())]
            ),
        ),
        ("searches", pa.int32()),
        (
            "rubrics",
            pa.list_(pa.struct([("text", pa.string()), ("priority", pa.string())])),
        ),
        ("gate_scores", pa.string()),  # JSON: gates are named by the configuration
        ("difficulty", pa.float64()),
        ("target", pa.string()),
        ("trace", pa.string()),  # JSON, for people
    ]
)


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """Writes tasks; the file appears whole or not at all, its hash is recorded."""
    rows = [
        asdict(task)
        | {
            "gate_scores": json.dumps(task.gate_scores),
            "trace": json.dumps(task.trace, ensure_ascii=False),
        }
        for task in tasks
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with replacing(path, recorded=True, needed=table.nbytes) as temporary:
        # From memory: a file that the disk cuts off would get its end all the same.
        memory = pa.BufferOutputStream()
        pq.write_table(table, memory)
        temporary.write_bytes(memory.getvalue())


def read_tasks(path: Path, remedy: str = REMEDY) -> list[Task]:
    """Reads what ``write_tasks`` wrote.

    Raises:
      DamagedError: the file is missing, not what was written, no Parquet, or holds
        other columns.
    """
    data = read_bytes(path, remedy)
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        why = f"not a Parquet file of tasks ({first_line(error)})"
        raise DamagedError(path, why, remedy) from error
    if table.schema.names != SCHEMA.names:
        why = f"has columns {', '.join(table.schema.names)}, not "
        raise DamagedError(path, why + ", ".join(SCHEMA.names), remedy)
    try:
        return [_task(row) for row in table.to_pylist()]
    except (TypeError, ValueError, KeyError) as error:
        why = f"holds a row that is no task ({first_line(error)})"
        raise DamagedError(path, why, remedy) from error


def _task(row: dict[str, Any]) -> Task:
    """A row's task."""
    return Task(
        **row
        | {
            "document": Document(**row["document"]),
            "rubrics": tuple(Rubric(**rubric) for rubric in row["rubrics"]),
            "gate_scores": json.loads(row["gate_scores"]),
            "trace": json.loads(row["trace"]),
        }
    )
