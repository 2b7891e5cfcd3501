"""The forms in which text is given, and the documents that are read from each.

A file's name says its form. JSON lines are read where they lie; the other forms are
first copied into a store (``retrieval.store``), whose lines these are.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import UserError, first_line
from retrieval.rows import (
    USUAL,
    WHOLE,
    Columns,
    NamedColumns,
    NoPassageError,
    Passage,
    passage_of,
)

Kind = Literal["lines", "table", "columns", "folder"]
CODECS = {".gz": "gzip", ".zst": "zstd"}
SEPARATORS = {".csv": ",;\t", ".tsv": "\t"}
"""What may part the fields of a table: the first with which its header has the text."""
TEXTS = (".txt", ".md")
BEGINS = 1024
"""Bytes by which a text is told from JSON lines."""
BATCH = 1024
"""Rows of a Parquet file that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How text may be given.

    Attributes:
      name: for people.
      files: what such a file is called.
      row: what a row looks like.
      place: how a bad row is named.
      copied: whether it needs a store.
    """

    name: str
    files: str
    row: str
    place: str
    copied: bool


JSON_LINES = Form(
    name="JSON lines",
    files="any other name, such as `.jsonl`",
    row='an object a line: `{"id", "contents"}` (title line, then text), BEIR\'s '
    '`{"_id", "title", "text"}`, `{"title", "text"}`, `{"text"}`',
    place="file and line",
    copied=False,
)
COMPRESSED = Form(
    name="compressed JSON lines",
    files="`.gz`, `.zst`, of several parts too",
    row="the same",
    place="file and line of what is in it",
    copied=True,
)
TABLE = Form(
    name="CSV",
    files="`.csv`, `.tsv`, also with `.gz` or `.zst` behind it",
    row="a header of the same names; fields parted by commas, semicolons or tabs, "
    "quoted ones may have several lines",
    place="file and line on which the row begins",
    copied=True,
)
PARQUET = Form(
    name="Parquet",
    files="`.parquet`",
    row="columns of the same names",
    place="file and number of the row",
    copied=True,
)
FOLDER = Form(
    name="folder of texts",
    files="a folder, and those in it; or one `.txt` or `.md` file (which with `{` at "
    "its beginning is JSON lines)",
    row="a document is a `.txt` or `.md` file; its title is the heading of its first "
    "line (`# ..`), else its name",
    place="file, and line of bytes that are not UTF-8",
    copied=True,
)
FORMS = (JSON_LINES, COMPRESSED, TABLE, PARQUET, FOLDER)


@dataclass(frozen=True)
class Document:
    """A text as it was given, and where: ``FILE:LINE``, row of a file, or file."""

    passage: Passage
    where: str


def form_of(path: Path) -> Form:
    """The form of a file or folder, by its name; of ``TEXTS`` by how it begins, too."""
    if path.is_dir() or _is_text(path):
        return FOLDER
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    if last == ".parquet":
        return PARQUET
    inner = suffixes[0] if last in CODECS and len(suffixes) > 1 else last
    if inner in SEPARATORS:
        return TABLE
    return COMPRESSED if last in CODECS else JSON_LINES


def _is_text(path: Path) -> bool:
    """Whether a file is one text, and not JSON lines with such a name."""
    if path.suffix.lower() not in TEXTS or not path.is_file():
        return False
    with path.open("rb") as stream:
        return not stream.read(BEGINS).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def documents(
    path: Path, *, columns: Columns = USUAL, replace: bool = False
) -> Iterator[Document]:
    """All documents of a file or folder, in its order; a folder's by name.

    Args:
      columns: where a row has what.
      replace: put question marks in place of lone surrogates.

    Raises:
      UserError: naming file and line of what can't be read.
    """
    form = form_of(path)
    if form is FOLDER:
        _refuse_columns(path, columns)
        yield from _texts(path)
        return
    named = NamedColumns(columns)
    rows = {PARQUET: _parquet_rows, TABLE: _table_rows}.get(form, _json_rows)
    for number, (where, row) in enumerate(rows(path, columns)):
        try:
            found = passage_of(row, number, columns=columns, replace=replace)
        except NoPassageError as error:
            raise _bad(where, str(error)) from error
        named.see(row)
        if form in (PARQUET, TABLE):  # where all rows have the same columns
            named.refuse_missing(path)
        yield Document(found, where)
    named.refuse_missing(path)


def _refuse_columns(path: Path, columns: Columns) -> None:
    """Refuses names of columns for texts, which have none."""
    for option, name in vars(columns).items():
        if name:
            raise UserError(
                f"{path}: texts have no column {name!r}: leave "
                f"retrieval.{option}_column empty, or give rows (docs/your-text.md)"
            )


def _bad(where: str, why: str) -> UserError:
    return UserError(f"{where}: invalid passage: {why}: fix or remove it")


def _open(path: Path) -> BinaryIO:
    """The bytes of a file, without their compression."""
    codec = CODECS.get(path.suffix.lower())
    if codec is None:
        return path.open("rb")
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), codec))


def _json_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = f"not valid JSON ({first_line(error)})"
            raise _bad(f"{path}:{number}", why) from error
        yield f"{path}:{number}", row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; damage of a compressed file is said with the line before it."""
    number = 0
    try:
        with _open(path) as stream:
            for line in stream:
                number += 1
                yield number, line
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: can't be read after line {number} ({first_line(error)[:120]}): "
            "it is damaged or cut off: get the file again"
        ) from error


def _table_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # texts are longer than its 128 KiB
    name = path.with_suffix("").name if path.suffix.lower() in CODECS else path.name
    lines = (_text(path, number, line) for number, line in _lines(path))
    first = next(lines, "")
    separator = _separator(SEPARATORS[Path(name).suffix.lower()], first, columns)
    reader = csv.reader(chain([first], lines), delimiter=separator, strict=True)
    begins = 1
    try:
        header = next(reader, [])
        for begins, row in _numbered(reader):
            if not row:
                continue  # a blank line
            if len(row) != len(header):
                why = f"{len(row)} fields, and the header has {len(header)}"
                raise _bad(f"{path}:{begins}", why)
            yield f"{path}:{begins}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        raise _bad(where, f"not valid CSV ({first_line(error)})") from error


def _separator(known: str, header: str, columns: Columns) -> str:
    """What parts the fields of a table with this first line; most fields, if unsure."""
    wanted = {columns.text} if columns.text else {WHOLE, "text"}
    fields = {one: next(csv.reader([header], delimiter=one), []) for one in known}
    right = (one for one in known if wanted & {*fields[one]})
    return next(right, max(known, key=lambda one: len(fields[one])))


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table, each with the line on which it begins."""
    begins = reader.line_num + 1
    for row in reader:
        yield begins, row
        begins = reader.line_num + 1


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"{path}:{number}", f"not UTF-8 ({error.reason})") from error


def _parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            known = ("id", "_id", "title", WHOLE, "text")
            wanted = {*known, columns.id, columns.title, columns.text}
            names = file.schema_arrow.names
            read = [name for name in names if name in wanted]
            told = {columns.id, columns.title, columns.text} - {""}
            usual = {columns.text or WHOLE, columns.text or "text"}
            if not (usual & {*read} and told <= {*read}):
                read = names  # for the line that says what there is
            for batch in file.iter_batches(batch_size=BATCH, columns=read):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: can't be read after row {number} ({first_line(error)[:120]}): "
            "give a whole Parquet file"
        ) from error


def _texts(folder: Path) -> Iterator[Document]:
    """Every text of a folder, or the one of a file.

    Hidden files and those without words are left out.
    """
    for file in text_files(folder):
        name = file.name if file == folder else file.relative_to(folder).as_posix()
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise _bad(f"{file}:{line}", f"not UTF-8 ({error.reason})") from error
        title, body = file.stem, text.replace("\r\n", "\n").strip()
        first, _, rest = body.partition("\n")
        if file.suffix.lower() == ".md" and first.startswith("# "):
            title, body = first[2:].strip(), rest.strip()
        if body or title != file.stem:
            yield Document(Passage(id=name, title=title, text=body), str(file))


def text_files(folder: Path) -> list[Path]:
    """The texts of a folder, by name; a file alone is itself.

    Raises:
      UserError: there are none.
    """
    if folder.is_file():
        return [folder]
    found = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in TEXTS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    if not found:
        raise UserError(
            f"{folder}: has no .txt or .md file: give a folder of texts, or one file"
        )
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())
