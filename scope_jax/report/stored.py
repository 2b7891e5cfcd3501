"""The rollouts that a run has stored, file by file, as far as they can be read.

A file that is damaged gives the lines that are whole, and a problem in words: whoever
reads a run wants to see what is left of it.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax.report import plain, rows
from scope_jax.run.records import STAGES
from scope_jax.system.files import read_bytes

_STEP = re.compile(r"rollouts/iter_(\d+)/(\w+)/step_(\d+)\.jsonl")
_SCORED = re.compile(r"eval/([^/]+)/(base|iter_\d+)\.jsonl")


@dataclass(frozen=True)
class Source:
    """A file of rollouts.

    Attributes:
      path: of the file; ``name`` is that below the run's folder.
      iteration, stage, step: of its rollouts.
      kind: of the evaluation that it belongs to, else empty.
    """

    path: Path
    name: str
    iteration: int
    stage: str
    step: int
    kind: str = ""


@dataclass
class Contents:
    """What a file of rollouts holds: the same number of rows and of records.

    Attributes:
      rows: see ``rows.FIELDS``.
      records: as they were stored.
      problems: what could not be read, in words.
    """

    rows: list[list[Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def sources(run_dir: Path) -> list[Source]:
    """All files of rollouts of a run, in the order in which they were played."""
    found = []
    for path in run_dir.glob("rollouts/iter_*/*/step_*.jsonl"):
        name = path.relative_to(run_dir).as_posix()
        match = _STEP.fullmatch(name)  # not of the batch at which training stopped
        if match and match[2] in STAGES:
            found.append(Source(path, name, int(match[1]), match[2], int(match[3])))
    found.sort(key=lambda one: (one.iteration, STAGES.index(one.stage), one.step))
    scored = []
    for path in run_dir.glob("eval/*/*.jsonl"):
        name = path.relative_to(run_dir).as_posix()
        if match := _SCORED.fullmatch(name):
            number = int(match[2].removeprefix("iter_").replace("base", "0"))
            scored.append(Source(path, name, number, "evaluation", 0, match[1]))
    return found + sorted(scored, key=lambda one: (one.kind, one.iteration))


def read(source: Source) -> Contents:
    """The rollouts of a file, those that can be read."""
    contents = Contents()
    for row, record, _ in each(source, contents.problems):
        contents.rows.append(row)
        contents.records.append(record)
    return contents


def each(
    source: Source, problems: list[str]
) -> Iterator[tuple[list[Any], dict[str, Any], int]]:
    """(row, record, number of its line) of each rollout in a file that can be read.

    Args:
      problems: gets what could not be read.
    """
    lines = unread = 0
    for number, line in enumerate(_lines(source, problems), 1):
        if not line:
            continue
        found = list(_pairs(source, line, number - 1))
        lines, unread = lines + 1, unread + (not found)
        yield from ((row, record, number) for row, record in found)
    if unread:
        problems.append(f"{source.name}: {unread} of {lines} lines are no rollouts")


def one(source: Source, line: int, uid: str) -> dict[str, Any] | None:
    """The rollout of that name in a line of a file; None if it is there no more."""
    try:
        with source.path.open("rb") as file:
            text = next(itertools.islice(file, line - 1, None), b"")
    except OSError:
        return None
    for row, record in _pairs(source, text.decode("utf-8", "replace"), line - 1):
        if row[0] == uid:
            return record
    return None


def _pairs(
    source: Source, line: str, number: int
) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """(row, record) of each rollout in a line; none in one that is damaged."""
    try:
        record = plain.parse(line)
    except ValueError:
        return
    if not isinstance(record, dict):
        return
    if not source.kind:
        row = rows.row(record, source.iteration, source.stage, source.step)
        if row:
            yield row, record
        return
    yield from rows.scored(record, source.kind, source.path.stem, number)


def _lines(source: Source, problems: list[str]) -> Iterator[str]:
    """The lines of a file; whether it is damaged is added to ``problems``."""
    try:
        data = read_bytes(source.path)
    except UserError as error:
        problems.append(f"{source.name}: {getattr(error, 'why', error)}")
        try:
            data = source.path.read_bytes()
        except OSError:
            return
    yield from data.decode("utf-8", errors="replace").split("\n")
