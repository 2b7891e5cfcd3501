"""Files that appear whole or not at all, and JSON lines."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from models.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write to, which then takes the place of ``path``.

    What is written is on the disk before it appears; after an exception ``path`` is as
    it was, and nothing lies beside it. Each process writes to a path of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line, whole or not at all; NaN is written as null."""
    lines = (json.dumps(_plain(record), ensure_ascii=False) for record in records)
    write_text(path, "".join(line + "\n" for line in lines))


def text_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something.

    Not ``splitlines``: models write line separators that JSON leaves as they are.
    """
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads what ``write_json_lines`` wrote."""
    return [json.loads(line) for line in text_lines(path)]


def json_rows(
    where: str, text: str, good: Callable[[Any], bool], form: str
) -> list[dict[str, Any]]:
    """The objects of JSON lines that a person wrote; blank lines are skipped.

    Args:
      where: the text comes from, for messages.
      text: of the file.
      good: whether a row is what it has to be.
      form: in words.

    Raises:
      UserError: a line is no JSON, or not good; it is named by its number in the file.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            # An escape may be half a surrogate pair, which no file or request holds.
            json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            why = "half a surrogate pair" if isinstance(error, UnicodeError) else error
            raise UserError(f"{where}:{number}: not JSON: {why}") from error
        if not good(row):
            raise UserError(f"{where}:{number}: not {form}: mend or remove the line")
        rows.append(row)
    return rows


def cache_dir() -> Path:
    """Folder of files that can be made again; ``SCOPE_JAX_CACHE`` names another."""
    if found := os.environ.get("SCOPE_JAX_CACHE"):
        return Path(found)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scope_jax"


def _plain(value: Any) -> Any:
    """``value`` without numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
