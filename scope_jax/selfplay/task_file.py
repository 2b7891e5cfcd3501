"""Tasks as Parquet: what task creation writes and Solver training reads."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import UserError
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.system.files import replacing

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
    """Writes tasks; the file appears whole or not at all."""
    rows = [
        asdict(task)
        | {
            "gate_scores": json.dumps(task.gate_scores),
            "trace": json.dumps(task.trace, ensure_ascii=False),
        }
        for task in tasks
    ]
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)


def read_tasks(path: Path) -> list[Task]:
    """Reads what ``write_tasks`` wrote.

    Raises:
      UserError: the file is missing, is no Parquet, or holds other columns.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: missing: task creation writes it; start the run again"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: is not a Parquet file of tasks: remove it") from error
    if table.schema.names != SCHEMA.names:
        raise UserError(
            f"{path}: has columns {', '.join(table.schema.names)}: wanted "
            f"{', '.join(SCHEMA.names)}"
        )
    return [
        Task(
            **row
            | {
                "document": Document(**row["document"]),
                "rubrics": tuple(Rubric(**rubric) for rubric in row["rubrics"]),
                "gate_scores": json.loads(row["gate_scores"]),
                "trace": json.loads(row["trace"]),
            }
        )
        for row in table.to_pylist()
    ]
