"""Files of rows, as datasets are published: JSON lines, a JSON list, Parquet."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import UserError, first_line
from scope_jax.system.files import json_rows, read_bytes, read_text

FORM = "JSON lines, a JSON list of objects, or Parquet"
REMEDY = f"name a file of {FORM}"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file.

    Raises:
      UserError: it is missing, empty, or holds something else.
    """
    path = Path(path)
    rows = _parquet(path) if path.suffix == ".parquet" else _json(path)
    if not rows:
        raise UserError(f"{path}: holds no row: {REMEDY}")
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    data = read_bytes(path, REMEDY)
    try:
        return pq.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        why = f"not a Parquet file ({first_line(error)})"
        raise UserError(f"{path}: {why}: {REMEDY}") from error


def _json(path: Path) -> list[dict[str, Any]]:
    text = read_text(path, REMEDY)
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
            # An escape may be half a surrogate pair, which no request holds.
            json.dumps(rows, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            why = f"not JSON ({first_line(error)})"
            raise UserError(f"{path}: {why}: {REMEDY}") from error
        if not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: a list of something else: {REMEDY}")
        return rows
    return json_rows(str(path), text, lambda row: isinstance(row, dict), "an object")
