"""From a row of somebody's text (JSON, CSV, Parquet) to a passage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.control_tokens import encodable
from models.errors import UserError

WHOLE = "contents"
"""The column that has title line and text in one."""


@dataclass(frozen=True)
class Passage:
    """One row of the corpus: ``contents`` is the title, a newline, the text."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title line and text, as in the file."""
        return f"{self.title}\n{self.text}"


@dataclass(frozen=True)
class Columns:
    """Which column has what; empty: the usual name, see ``passage_of``."""

    id: str = ""
    title: str = ""
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.id or self.title or self.text)


USUAL = Columns()


class NamedColumns:
    """Looks for columns of other names in rows, so that one that none has is refused.

    A text that isn't there is refused with its row; a title or a name would be left
    out without a word.
    """

    def __init__(self, columns: Columns):
        named = {"title_column": columns.title, "id_column": columns.id}
        self.missing = {option: name for option, name in named.items() if name}
        self._first: list[str] = []

    def see(self, row: Mapping[str, Any]) -> None:
        """What the row has is missing no more."""
        self._first = self._first or column_names(row)
        found = [option for option, name in self.missing.items() if name in row]
        for option in found:
            del self.missing[option]

    def refuse_missing(self, path: Path) -> None:
        """Refuses a column that no row had which was seen.

        Raises:
          UserError: with the first row's columns.
        """
        for option, name in self.missing.items():
            raise UserError(
                f"{path}: no row has a column {name!r} (columns of the first are "
                f"{', '.join(self._first)}): correct retrieval.{option}, or leave it "
                "empty"
            )


def column_names(row: Mapping[str, Any]) -> list[str]:
    """The first columns of a row, cut to what a line has room for."""
    return [str(name)[:40] for name in list(row)[:8]]


class NoPassageError(ValueError):
    """What is wrong with a row that is valid in its file."""


def passage_of(
    row: Any, number: int, *, columns: Columns = USUAL, replace: bool = False
) -> Passage:
    """The passage of a row.

    The text is in ``contents`` (whose first line is the title, unchanged: public dumps
    have it in double quotes) or in ``text``; the title in ``title``, the name in ``id``
    or ``_id``. Where a row with ``contents`` has a ``title`` that isn't their first
    line, all of ``contents`` is the text. A row without a name gets its number.

    Args:
      row: of any type.
      number: of the row in its file.
      columns: other names of these columns.
      replace: put question marks in place of lone surrogates.

    Raises:
      NoPassageError: what is wrong.
    """
    if not isinstance(row, Mapping):
        raise NoPassageError(f'no string "{WHOLE}" or "text": not an object')
    column = columns.text or (WHOLE if WHOLE in row else "text")
    body = row.get(column)
    if not isinstance(body, str):
        raise NoPassageError(_without_text(row, columns, column))
    own = row.get(columns.title or "title")
    name = row.get(columns.id or ("id" if "id" in row else "_id"))
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise NoPassageError(f"id {name!r} is neither text nor a whole number")
    if not isinstance(own, str | None):
        raise NoPassageError(f"title {own!r} is no text")
    texts = [t for t in (body, own, name) if isinstance(t, str)]
    if any(encodable(t) != t for t in texts):
        if not replace:
            raise NoPassageError(
                "half a surrogate pair, which no file or request can hold (with "
                "retrieval.bad_text=replace it becomes a question mark)"
            )
        body = encodable(body)
        own, name = (encodable(t) if isinstance(t, str) else t for t in (own, name))
    label = str(number if name is None else name)
    if column != WHOLE:
        return Passage(id=label, title=" ".join((own or "").split()), text=body)
    title, _, text = body.partition("\n")
    if own is not None and own.strip().strip('"') != title.strip().strip('"'):
        title, text = own, body
    return Passage(id=label, title=title, text=text)


def _without_text(row: Mapping[str, Any], columns: Columns, column: str) -> str:
    """What to say of a row whose text is not where it is looked for."""
    wanted = f'"{column}"' if columns.text else f'"{WHOLE}" or "text"'
    if column in row:
        return f"no string {wanted}: {column} is {str(row[column])[:40]!r}"
    names = ", ".join(column_names(row)) or "none"
    return f"no string {wanted}: columns are {names} (see retrieval.text_column)"
