"""Rollouts for a page in one file: every row, and conversations as far as they fit.

Conversations are packed per file of the run, compressed, and unpacked by the page when
somebody opens one or searches.
"""

import base64
import functools
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scope_jax.report import stored
from scope_jax.report.rows import FIELDS

MOST = 8000
"""Rollouts whose conversations a page holds; of more, whole groups are left out."""

MOST_CHARACTERS = 46 * 2**20
"""Of a page, for rows and conversations."""

PACKED_SHARE = 0.25
"""Characters of a page for each byte of a file of rollouts, about."""

Bundle = tuple[dict[str, Any], list[str], list[str]]
"""What the page needs to know of all rollouts; chunks; what could not be read."""


def bundle(run_dirs: Sequence[Path]) -> Bundle:
    """The rollouts of some runs.

    Returns:
      ``rows``, each with its run's number in front, and ``parts``, which rows each
      chunk holds; the chunks: base64 of gzip of a JSON list; problems in words.
    """
    files = [
        (number, source)
        for number, run_dir in enumerate(run_dirs)
        for source in stored.sources(Path(run_dir))
    ]
    sizes = [_size(source.path) for _, source in files]
    lines, size = (sum(one[i] for one in sizes) for i in (0, 1))
    fitting = MOST_CHARACTERS / PACKED_SHARE
    share = min(1.0, MOST / max(lines, 1), fitting / max(size, 1))
    while True:
        found = _bundled(files, share)
        packed = sum(map(len, found[1]))
        room = MOST_CHARACTERS - len(json.dumps(found[0]["rows"]))
        if packed <= max(room, 0):
            return found
        share *= 0.9 * max(room, 0) / packed


def _bundled(files: Sequence[tuple[int, stored.Source]], share: float) -> Bundle:
    """With that share of the groups."""
    rows: list[list[Any]] = []
    parts: list[list[int]] = []
    chunks: list[str] = []
    problems: list[str] = []
    groups = 0
    for number, source in files:
        if share == 1:
            found, chunk, wrong = _whole(source, _size(source.path))
            kept = list(range(len(found)))
        else:
            contents = stored.read(source)
            found, wrong = contents.rows, contents.problems
            own = list(dict.fromkeys(map(_group, found)))
            chosen = {
                group
                for place, group in enumerate(own, groups)
                if int((place + 1) * share) > int(place * share)
            }
            groups += len(own)
            kept = [i for i, row in enumerate(found) if _group(row) in chosen]
            chunk = pack([contents.records[i] for i in kept])
        if kept:
            parts.append([len(rows) + i for i in kept])
            chunks.append(chunk)
        rows += [[number, *row] for row in found]
        problems += wrong
    held = sum(map(len, parts))
    about = {"fields": ["run", *FIELDS], "rows": rows, "parts": parts, "held": held}
    return about, chunks, problems


@functools.cache
def _whole(
    source: stored.Source, _size: tuple[int, int, int]
) -> tuple[list[list[Any]], str, list[str]]:
    """A whole file; kept, for a run writes its page again after every stage."""
    contents = stored.read(source)
    return contents.rows, pack(contents.records), contents.problems


def pack(records: Sequence[dict[str, Any]]) -> str:
    """Records as a page unpacks them."""
    text = json.dumps(records, separators=(",", ":"))  # ASCII: half surrogates too
    data = gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)
    return base64.b64encode(data).decode("ascii")


def _group(row: Sequence[Any]) -> tuple[Any, ...]:
    """Rollouts that are left out or kept together: those of one prompt."""
    stage, group = FIELDS.index("stage"), FIELDS.index("group")
    return row[stage], row[group]


def _size(path: Path) -> tuple[int, int, int]:
    """Lines, bytes and time of a file; nothing of one that cannot be read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            blocks = iter(lambda: file.read(2**20), b"")
            lines = sum(block.count(b"\n") for block in blocks)
    except OSError:  # whoever reads it says so
        return 0, 0, 0
    return lines, found.st_size, found.st_mtime_ns
