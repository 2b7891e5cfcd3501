"""The lines of ``metrics.jsonl``: a record each, with a checksum of its own.

The checksum is the last field of a line: 16 hex digits of the SHA-256 of the line
without it. Lines of older versions have none. A file has checksums in all of its lines
or in none, or a damaged line could pass for an old one: one line with the field, be it
right or wrong, means that all have one.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import DamagedError, UserError, first_line

NAME = "metrics.jsonl"
STAGES = ("challenger", "tasks", "solver", "evaluation")
"""Stages in the order in which an iteration goes through them."""

_CHECKED = re.compile(r'(.*), "checksum": "([0-9a-f]{16})"\}', re.DOTALL)
_REMEDY = "restore the file, or remove the line: the curves will lack its step"


@dataclass(frozen=True)
class Found:
    """What a file of metrics holds.

    Attributes:
      records: in the order of the file, without their checksums.
      whole: whether every line of it is in ``records`` and has its end; else the last
        one was being written when a process was killed.
      checked: whether its lines have checksums.
    """

    records: list[dict[str, Any]]
    whole: bool = True
    checked: bool = True


def line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of the file."""
    text = json.dumps(record)
    return f'{text[:-1]}, "checksum": "{_digest(text)}"}}\n'.encode()


def lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Records as the content of a file."""
    return b"".join(map(line, records))


def read(path: Path) -> Found:
    """Reads a file of metrics; none is an empty one.

    Raises:
      DamagedError: a line, named by its number, that is neither whole nor the last
        one, which a killed process leaves without its end.
      UserError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Found([])
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): restore the file"
        ) from error
    *texts, last = data.decode("ascii", errors="replace").split("\n")
    checked = any(map(_has_checksum, [*texts, last]))
    records = [
        _record(f"{path}:{number}", text, checked)
        for number, text in enumerate(texts, 1)
        if text
    ]
    if last:
        try:
            records.append(_record(str(path), last, checked))
        except DamagedError:
            return Found(records, whole=False, checked=checked)
    # Without its line break another record would end up on the last line.
    return Found(records, whole=not last, checked=checked or not records)


def readable(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The records of a file that are whole, and what is wrong with the rest, if any.

    For readers: whoever writes needs ``read``, which refuses what is damaged.
    """
    try:
        return read(path).records, ""
    except UserError as error:
        problem = str(error)
    try:
        texts = path.read_bytes().decode("ascii", errors="replace").split("\n")
    except OSError:
        return [], problem
    checked, found = any(map(_has_checksum, texts)), []
    for text in filter(None, texts):
        with contextlib.suppress(DamagedError):
            found.append(_record(str(path), text, checked))
    return found, problem


def position(record: Mapping[str, Any]) -> tuple[int, int, int]:
    """Where in a run a record belongs."""
    return record["iteration"], STAGES.index(record["stage"]), record["step"]


def _record(where: str, text: str, checked: bool) -> dict[str, Any]:
    if checked:
        match = _CHECKED.fullmatch(text)
        if not match or _digest(match[1] + "}") != match[2]:
            raise DamagedError(where, "damaged (its checksum is another)", _REMEDY)
        text = match[1] + "}"
    if not text.isascii():
        raise DamagedError(where, "not ASCII", _REMEDY)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(where, f"not JSON ({first_line(error)})", _REMEDY) from error
    known = isinstance(record, dict) and record.get("stage") in STAGES
    if not known or not all(
        isinstance(record.get(name), int) for name in ("iteration", "step")
    ):
        raise DamagedError(where, "not the metrics of a step", _REMEDY)
    return record


def _has_checksum(text: str) -> bool:
    """Whether a line was written with a checksum, whatever has become of it since.

    An old one ends with a number: so a damaged name of the field does not hide it.
    """
    return '"checksum"' in text or text.endswith('"}')


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
