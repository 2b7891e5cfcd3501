"""Copies text into JSON lines, which are read where they lie: the store.

Long texts are cut, duplicates and texts without words are left out and counted. Each
line has ``id``, ``title``, ``text``, ``source`` (file and line, row or file that it is
from) and, if it is a piece, ``span``: its first character in that text and the one
behind its last. Pieces are named ``ID#1``, ``ID#2``. A store appears whole or not at
all, and is written again when its source has changed.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from models.errors import UserError
from retrieval.config import RetrievalConfig
from retrieval.cutting import Span, cut, token_spans
from retrieval.forms import FOLDER, documents, form_of, text_files
from retrieval.rows import Passage

log = logging.getLogger(__name__)

LINES = "passages.jsonl"
ABOUT = "store.json"
VERSION = 1
OVERLAP = 2
"""Version of how overlapping pieces are cut; other stores don't depend on it."""


@dataclass
class Counts:
    """What came of the texts of a source."""

    texts: int = 0
    cut: int = 0
    empty: int = 0
    duplicates: int = 0
    passages: int = 0

    def __str__(self) -> str:
        return (
            f"{self.passages:,} passages of {self.texts:,} texts ({self.cut:,} cut, "
            f"{self.duplicates:,} duplicates and {self.empty:,} empty ones left out)"
        )


@dataclass(frozen=True)
class Store:
    """A store on disk: its JSON lines, and what was counted while they were written."""

    lines: Path
    counts: Counts = field(default_factory=Counts)


def is_needed(config: RetrievalConfig) -> bool:
    """Whether this text is searched in a store, and not where it lies."""
    source = Path(config.passages).expanduser()
    asked = config.store == "always" or config.cut_tokens > 0
    return (
        bool(config.passages) and source.exists() and (asked or form_of(source).copied)
    )


def folder_of(config: RetrievalConfig) -> Path:
    """Where the store for these settings is, or would be."""
    key = hashlib.sha256(json.dumps(_settings(config)).encode()).hexdigest()[:16]
    return config.beside("text") / key


def find(config: RetrievalConfig) -> Store | None:
    """The store of this text as it is now, if there is one."""
    folder = folder_of(config)
    try:
        about = json.loads((folder / ABOUT).read_text())
        if about["source"] != _stamp(config) or about["settings"] != _settings(config):
            return None
        if (folder / LINES).stat().st_size != about["bytes"]:
            return None
        return Store(folder / LINES, Counts(**about["counts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_or_write(
    config: RetrievalConfig, *, limit: int | None, progress: bool = False
) -> Store:
    """The store of a text; written where there is none.

    Args:
      limit: most passages for which it is written; None means any.
      progress: whether to show on stderr how far it is.

    Raises:
      UserError: a bad row, naming file and line; no passage at all; more than
        ``limit``; or no place to write.
    """
    if found := find(config):
        return found
    folder = folder_of(config)
    stamp = _stamp(config)
    draft = folder.with_name(f".{folder.name}.draft-{os.getpid()}")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        counts = _write(config, draft / LINES, limit, progress)
        if _stamp(config) != stamp:
            raise UserError(f"{config.passages}: has changed meanwhile: start again")
        about = {
            "source": stamp,
            "settings": _settings(config),
            "counts": asdict(counts),
            "bytes": (draft / LINES).stat().st_size,
        }
        (draft / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        found = _publish(config, draft, folder, counts)
    except OSError as error:
        raise UserError(
            f"{folder}: can't be written ({error.strerror}): set retrieval.index_dir "
            "to a writable folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info("%s: %s", config.passages, counts)
    return found


def _publish(
    config: RetrievalConfig, draft: Path, folder: Path, counts: Counts
) -> Store:
    """Moves a store to its place, unless another process was faster."""
    if found := find(config):
        return found
    aside = draft.with_name(f"{draft.name}-old")
    if folder.exists():
        folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        if not find(config):
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Store(folder / LINES, counts)


def _write(
    config: RetrievalConfig, file: Path, limit: int | None, progress: bool
) -> Counts:
    counts, seen = Counts(), set()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with (
        file.open("w", encoding="utf-8") as stream,
        Progress(*columns, console=Console(stderr=True), disable=not progress) as bar,
    ):
        task = bar.add_task("texts", total=None)
        for row in _rows(config, counts):
            content = f"{row['title']}\n{row['text']}".strip()
            digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
            if not content or digest in seen:
                counts.empty += not content
                counts.duplicates += bool(content)
                continue
            seen.add(digest)
            counts.passages += 1
            if limit is not None and counts.passages > limit:
                raise UserError(
                    f"{config.passages}: has no store, and its passages exceed "
                    f"retrieval.build_limit={limit:,}: run scripts/build_index.py with "
                    "these settings first"
                )
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            bar.update(task, advance=1)
    if not counts.passages:
        raise UserError(f"{config.passages}: has no passages: add at least one text")
    return counts


def _rows(config: RetrievalConfig, counts: Counts) -> Iterator[dict[str, Any]]:
    """The lines of a store, duplicates among them."""
    spans = token_spans(config) if config.cut_tokens else None
    path = Path(config.passages).expanduser()
    found = documents(
        path,
        columns=config.columns,
        replace=config.bad_text == "replace",
    )

    def source(where: str) -> str:
        return where.removeprefix(f"{path.parent}/")  # a corpus may be moved

    for document in found:
        counts.texts += 1
        passage = document.passage
        row = {"id": passage.id, "title": passage.title, "text": passage.text}
        pieces: list[Span] = []
        if spans is not None:
            pieces = cut(
                passage.text,
                spans(passage.text),
                most=config.cut_tokens,
                overlap=config.cut_overlap,
                paragraphs=config.cut_by == "paragraphs",
            )
        if len(pieces) < 2:
            yield {**row, "source": source(document.where)}
            continue
        counts.cut += 1
        yield from _pieces(passage, pieces, source(document.where))


def _pieces(
    passage: Passage, pieces: list[Span], source: str
) -> Iterator[dict[str, Any]]:
    for number, (start, end) in enumerate(pieces, 1):
        yield {
            "id": f"{passage.id}#{number}",
            "title": passage.title,
            "text": passage.text[start:end],
            "source": source,
            "span": [start, end],
        }


def _settings(config: RetrievalConfig) -> dict[str, Any]:
    """What a store depends on besides its source."""
    names = ("bad_text", "id_column", "title_column", "text_column")
    names += ("cut_tokens", "cut_overlap", "cut_by")
    settings = {"version": VERSION, "name": Path(config.passages).name}
    settings |= {name: getattr(config, name) for name in names}
    if config.cut_overlap:
        settings["overlap"] = OVERLAP
    if config.cut_tokens and config.encoder == "transformer":
        settings["tokens"] = config.encoder_path
    return settings


def _stamp(config: RetrievalConfig) -> str:
    """Changes when the source does: names, sizes and times of its files."""
    source = Path(config.passages).expanduser()
    files = text_files(source) if form_of(source) is FOLDER else [source]
    told = []
    for file in files:
        stat = file.stat()
        name = file.relative_to(source).as_posix()
        told.append((name, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
