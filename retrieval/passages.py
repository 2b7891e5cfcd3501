"""Passages of a memory-mapped JSON-lines file, read by number, not kept in memory."""

import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from models.errors import UserError
from retrieval.rows import (
    USUAL,
    Columns,
    NamedColumns,
    NoPassageError,
    Passage,
    passage_of,
)

__all__ = ["Passage", "Passages", "write_npz"]

SCAN_BYTES = 1 << 24
# Files up to this size are parsed completely when opened, so that an invalid line is
# found before a run starts; in larger files, the index build finds it.
EAGER_BYTES = 1 << 25
# Half a surrogate pair, as an escape or as bytes. (An escaped backslash may precede the
# escape: what is found is only suspected.)
LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
    rb"|\xed[\xa0-\xbf]"
)


class Passages:
    """A sequence of ``Passage``; safe to read from many threads.

    What a row is read as: ``rows.passage_of``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cache_dir: str | Path | None = None,
        bad_text: Literal["refuse", "replace"] = "refuse",
        columns: Columns = USUAL,
    ):
        """Opens a file.

        Args:
          path: JSON lines, each an object with a string ``contents`` or ``text``.
          cache_dir: folder in which offsets and hash are saved, so that a large file is
            scanned once; None keeps them in memory only.
          bad_text: what is done about lone surrogates, see ``RetrievalConfig``.
          columns: other names of an object's fields.

        Raises:
          UserError: if the file is missing, has no passages, or has an invalid line (in
            files above 32 MB, when the line is read), or if no row has a column that
            ``columns`` names.
        """
        if not str(path):
            raise UserError(
                "retrieval.passages='': no passages given: give JSON lines, Parquet, "
                "CSV or a folder of texts (docs/your-text.md)"
            )
        self._bad_text, self._columns = bad_text, columns
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise UserError(
                f"{path}: no such passages file: give JSON lines, Parquet, CSV or a "
                "folder of texts (docs/your-text.md)"
            )
        size = self.path.stat().st_size
        if not size:
            raise UserError(f"{path}: has no passages: add at least one line")
        with self.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts, self._ends, self._suspects, self.hash = self._scan(cache_dir)
        if columns:  # the same file, and other passages
            self.hash = hashlib.sha256(f"{self.hash} {columns}".encode()).hexdigest()
        if not len(self):
            raise UserError(f"{path}: has no passages: add at least one line")
        if size <= EAGER_BYTES:
            for _ in self:
                pass
        elif bad_text == "refuse":
            for index in self._suspects:
                self[int(index)]
        self._check_columns()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Passage:
        if index < 0:
            index += len(self)
        start, end = int(self._starts[index]), int(self._ends[index])
        try:
            row = json.loads(self._map[start:end])
            return passage_of(
                row,
                index,
                columns=self._columns,
                replace=self._bad_text == "replace",
            )
        except (ValueError, RecursionError) as why:  # no JSON, or no passage
            reason = (
                str(why)
                if isinstance(why, NoPassageError)
                else f"not valid JSON ({why})"
            )
            raise UserError(
                f"{self.path}:{self._line_number(start)}: invalid passage: {reason}: "
                "fix or remove the line"
            ) from why

    def _check_columns(self) -> None:
        """Refuses a named column that no row has; reads up to the first that does."""
        named = NamedColumns(self._columns)
        for index in range(len(self)):
            if not named.missing:
                return
            self[index]  # refuses what is no row
            start, end = int(self._starts[index]), int(self._ends[index])
            named.see(json.loads(self._map[start:end]))
        named.refuse_missing(self.path)

    def __iter__(self) -> Iterator[Passage]:
        return (self[index] for index in range(len(self)))

    def _line_number(self, offset: int) -> int:
        blocks = range(0, offset, SCAN_BYTES)
        newlines = (
            self._map[at : min(at + SCAN_BYTES, offset)].count(b"\n") for at in blocks
        )
        return 1 + sum(newlines)

    def _scan(
        self, cache_dir: str | Path | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """Where each line starts and ends, which may be bad, the hash of the file."""
        stat = self.path.stat()
        stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        cache = None if cache_dir is None else Path(cache_dir) / "passages.npz"
        if cache is not None and (found := _kept(cache, stamp)):
            return found
        digest, newlines = hashlib.sha256(), []
        for at in range(0, len(self._map), SCAN_BYTES):
            block = self._map[at : at + SCAN_BYTES]
            digest.update(block)
            newlines.append(np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + at)
        ends = np.append(np.concatenate(newlines), len(self._map)).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1] + 1])
        # Blank lines ("", "\r", " ") and the end after the last newline aren't rows.
        short = np.flatnonzero(ends - starts <= 1)
        filled = np.ones(len(ends), bool)
        filled[short] = [
            bool(self._map[start:end].strip())
            for start, end in zip(starts[short], ends[short], strict=True)
        ]
        starts, ends = starts[filled], ends[filled]
        at = [match.start() for match in LONE.finditer(self._map)]
        suspects = np.unique(np.searchsorted(starts, at, side="right") - 1)
        lines = {"starts": starts, "ends": ends, "suspects": suspects}
        if cache is not None:
            write_npz(cache, stamp=stamp, hash=digest.hexdigest(), **lines)
        return *lines.values(), digest.hexdigest()


def _kept(
    cache: Path, stamp: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str] | None:
    """What an earlier scan found; None if there was none, or its file is damaged."""
    try:
        with np.load(cache, allow_pickle=False) as kept:
            # Files of older versions have no suspects.
            if str(kept["stamp"]) != stamp or "suspects" not in kept:
                return None
            lines = kept["starts"], kept["ends"], kept["suspects"]
            return *lines, str(kept["hash"])
    except Exception:  # NumPy and zipfile raise different types
        return None


def write_npz(file: Path, **arrays) -> None:
    """Writes an uncompressed ``.npz`` atomically.

    Raises:
      UserError: if the folder can't be written.
    """
    draft = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as stream:
            np.savez(stream, **arrays)
        draft.replace(file)
    except OSError as error:
        raise UserError(
            f"{file.parent}: can't be written ({error.strerror}): set "
            "retrieval.index_dir to a writable folder"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
