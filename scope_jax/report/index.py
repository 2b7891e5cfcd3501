"""The rollouts of run folders for a server: rows in memory, texts to search on disk.

What a file of rollouts gives is kept below the user's cache folder, under a name made
of its path, size and time: it may be deleted at any time, and is then made again.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import StorageError, UserError
from scope_jax.report import rows, stored
from scope_jax.system.files import cache_dir, write_text

VERSION = 2
"""Of what is kept on disk."""

ERRORS = "surrogatepass"  # models write halves of surrogate pairs


@dataclass(frozen=True)
class _File:
    """A file that was read: its first row's number, and of each row its line."""

    source: stored.Source
    first: int
    lines: list[int]
    text: Path


class Index:
    """Rows of the rollouts of some runs, read by a thread, file by file.

    Attributes:
      rows: with the run's number in front, see ``rows.FIELDS``; they only get more,
        until ``refresh`` finds that a file has changed.
      problems: what could not be read, in words.
      complete: whether all files that were there have been read.
      generation: counts how often all was read again, and rows have got new numbers.
    """

    def __init__(self, run_dirs: Sequence[Path]):
        self._runs = [Path(run_dir) for run_dir in run_dirs]
        self._lock = threading.Lock()
        self._known: list[tuple[int, stored.Source, tuple[int, int]]] = []
        self._files: list[_File] = []
        self._reader: threading.Thread | None = None
        self.rows: list[list[Any]] = []
        self.problems: list[str] = []
        self.complete = False
        self.generation = 0

    def refresh(self) -> None:
        """Starts to read what is new; all again, if a file has changed."""
        with self._lock:
            if self._reader and self.complete:
                self._reader.join()  # it is at its end
            elif self._reader and self._reader.is_alive():
                return
            found = [
                (number, source, stamp)
                for number, run_dir in enumerate(self._runs)
                for source in stored.sources(run_dir)
                if (stamp := _stamp(source.path))
            ]
            new = [one for one in found if one not in self._known]
            if len(found) - len(new) < len(self._known):  # one is gone, or changed
                self.generation += 1  # first: no old row may pass for a new one
                self._known, self._files, self.rows = [], [], []
                self.problems, new = [], found
            self.complete = not new
            self._reader = threading.Thread(target=self._read, args=(new,), daemon=True)
            self._reader.start()

    def wait(self) -> None:
        """Returns when everything is read."""
        if self._reader:
            self._reader.join()

    def _read(self, new: Sequence[tuple[int, stored.Source, tuple[int, int]]]) -> None:
        for number, source, stamp in new:
            try:
                found, lines, problems, text = _entry(source, stamp)
            except (OSError, StorageError) as error:  # of the cache: a full disk
                self.problems.append(f"{source.name}: no index: {error}")
                self._known.append((number, source, stamp))
                continue
            self._files.append(_File(source, len(self.rows), lines, text))
            self.rows += [[number, *row] for row in found]
            self.problems += problems
            self._known.append((number, source, stamp))
        _forget_others({file.text.stem for file in self._files}, self._files)
        self.complete = True

    def record(self, row: int) -> dict[str, Any] | None:
        """The record of a row; None if there is none, or it is gone."""
        for file in self._files:
            place = row - file.first
            if 0 <= place < len(file.lines):
                return stored.one(file.source, file.lines[place], self.rows[row][1])
        return None

    def search(self, query: str) -> list[int]:
        """Rows whose record has the text somewhere, whatever its case; no text: all."""
        if not query:
            return list(range(len(self.rows)))
        wanted = query.lower().replace("\0", " ").encode("utf-8", ERRORS)
        return [
            file.first + place
            for file in list(self._files)
            for place in _places(file, wanted)
        ]


def _places(file: _File, wanted: bytes) -> list[int]:
    """Places in a file of the records that hold the text."""
    try:
        data = file.text.read_bytes()
    except OSError:  # the cache was deleted
        data = _entry(file.source, _stamp(file.source.path) or (0, 0))[3].read_bytes()
    found, place, start = [], 0, 0
    at = data.find(wanted)
    while at >= 0:
        place += data.count(b"\0", start, at)
        found.append(place)
        start = data.find(b"\0", at)
        if start < 0:
            break
        at = data.find(wanted, start)
    return found


def _entry(
    source: stored.Source, stamp: tuple[int, int]
) -> tuple[list[list[Any]], list[int], list[str], Path]:
    """Rows, their lines, problems and the file of texts: of the cache, or made now."""
    file = _cache_file(source, stamp)
    text = file.with_suffix(".text")
    try:
        found, lines, problems = json.loads(file.read_text("ascii"))
        if text.is_file():
            return found, lines, problems, text
    except (OSError, ValueError, RecursionError):
        pass
    found, lines, problems, texts = [], [], [], []
    for row, record, line in stored.each(source, problems):
        found.append(row)
        lines.append(line)
        texts.append(rows.text(record))
    file.parent.mkdir(parents=True, exist_ok=True)
    joined = "\0".join(texts).encode("utf-8", ERRORS)
    text.write_bytes(joined)
    write_text(file, json.dumps([found, lines, problems]))
    return found, lines, problems, text


def _cache_file(source: stored.Source, stamp: tuple[int, int]) -> Path:
    name = json.dumps([VERSION, rows.FIELDS, source.name, stamp])
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return _folder(source) / f"{digest}.json"


def _folder(source: stored.Source) -> Path:
    run_dir = str(source.path.resolve()).removesuffix(source.name)
    digest = hashlib.sha256(run_dir.encode(errors=ERRORS)).hexdigest()[:32]
    return cache_dir() / "rollouts" / digest


def _forget_others(kept: set[str], files: Sequence[_File]) -> None:
    """Removes what is kept of files that are not as they were."""
    for folder in {file.text.parent for file in files}:
        for path in folder.glob("*.*"):
            if path.stem not in kept:
                path.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def check() -> None:
    """Refuses a place for the cache that cannot be written.

    Raises:
      UserError: it cannot.
    """
    try:
        (cache_dir() / "rollouts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{cache_dir()}: cannot be written ({error.strerror}): name a folder for "
            "an index with SCOPE_JAX_CACHE"
        ) from error
