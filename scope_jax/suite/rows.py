"""One row of any benchmark: what is asked, who judges the answer, and by what.

Readers make rows of public files (``readers``). A file of one's own has the same form,
an object per line:

    {"source": "mine", "prompt": "..", "judge": "criteria",
     "items": [{"text": "..", "weight": 2}, "a text alone weighs 1"]}

with ``messages`` in place of ``prompt`` for a conversation that is to be continued,
``golds`` (right answers) for the judge ``equivalence``, and ``baseline`` (another's
answer) for ``pairwise``.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from models.errors import UserError
from scope_jax.method.formats import Message

Judge = Literal[
    *("criteria", "dialogue_criteria", "coverage", "quality", "report"),
    *("checklist", "pairwise", "rubrics", "equivalence"),
]
"""How an answer is judged; ``verdicts`` has what is asked, ``scores`` the formulas.

- criteria: weighted requirements, one call each.
- dialogue_criteria: the same, about the last turn of a conversation.
- coverage: one call, a phrase for each question.
- quality, report, checklist: one call, JSON with marks of 1 to 5, of five kinds, and of
  1 to 10.
- pairwise: beside a baseline's answer, two calls with the positions swapped.
- rubrics: weighted requirements again, by the judge prompt that the method trains with.
- equivalence: the same with one rubric: whether the answer means one of the right ones.
"""

Opening = Literal["solver", "dialogue", "raw"]
"""How a model is asked: by the Solver's prompt, with the conversation behind the
Solver's rules, or with the prompt alone, without search or tags."""

JUDGES: tuple[Judge, ...] = get_args(Judge)
OF_DIALOGUES: tuple[Judge, ...] = ("dialogue_criteria", "checklist")
"""Those that are shown a conversation."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Item:
    """One thing that an answer is judged by.

    Attributes:
      text: a requirement, or a question to be covered.
      weight: what it counts if it is met; a negative one is a fault.
      kind: of the item as its file calls it (axis, type), shown to the judge.
    """

    text: str
    weight: float = 1.0
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question of a benchmark.

    Attributes:
      source: the benchmark; scores are means over the questions of a source.
      prompt: the question; empty for a conversation.
      messages: the conversation that is to be continued; empty for a question.
      judge: how answers are judged.
      opening: how a model is asked.
      items: what answers are judged by.
      golds: right answers.
      baseline: another model's answer.
    """

    source: str
    judge: Judge
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    opening: Opening = "solver"
    items: tuple[Item, ...] = ()
    golds: tuple[str, ...] = ()
    baseline: str = ""

    @property
    def question(self) -> str:
        """Names what is asked; rows of a source that ask the same share it."""
        asked = [self.opening, self.prompt, list(self.messages)]
        return digest(asked)

    @property
    def short(self) -> bool:
        """Whether it is of the short-form kind, with known answers."""
        return self.judge == "equivalence"


def digest(value: Any) -> str:
    """16 hex digits that name a value of JSON."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


FORM = (
    '{"source": "..", "prompt": ".." or "messages": [..], '
    f'"judge": one of {", ".join(JUDGES)}, "items": [..], "golds": [..]}}'
)


def from_json(where: str, row: Mapping[str, Any]) -> Row:
    """A row of the form above.

    Raises:
      UserError: a field is missing or of another form.
    """
    judge, opening = row.get("judge", "criteria"), row.get("opening")
    if judge not in JUDGES:
        raise UserError(f"{where}: judge {judge!r}: not {FORM}")
    messages = conversation(where, row["messages"]) if row.get("messages") else ()
    usual = "dialogue" if messages else "raw" if judge == "pairwise" else "solver"
    if messages and judge not in OF_DIALOGUES:
        raise UserError(f"{where}: judge {judge} takes a prompt, not messages")
    prompt = "" if messages else text(where, row, "prompt", FORM)
    items = row.get("items") or ()
    if not isinstance(items, list | tuple):
        raise UserError(f"{where}: items is {_shown(items)}: expected {FORM}")
    if judge in OF_DIALOGUES and not messages:
        messages = ({"role": "user", "content": prompt},)
    if opening not in (None, *get_args(Opening)):
        raise UserError(f"{where}: opening {opening!r}: not {FORM}")
    found = Row(
        source=text(where, row, "source", FORM),
        judge=judge,
        prompt=prompt,
        messages=messages,
        opening=opening or usual,
        items=tuple(item(where, each, FORM) for each in items),
        golds=tuple(texts(where, row.get("golds") or (), "golds", FORM)),
        baseline=row.get("baseline") or "",
    )
    if found.short and not found.golds:
        raise UserError(f"{where}: no golds: not {FORM}")
    if judge == "pairwise" and not isinstance(row.get("baseline"), str):
        raise UserError(f"{where}: no baseline: not {FORM}")
    return found


def text(where: str, row: Mapping[str, Any], name: str, form: str) -> str:
    """A field that holds text.

    Raises:
      UserError: it is missing, blank, or no text; the line says what is expected.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        why = f"no {name}" if value is None else f"{name} is {_shown(value)}"
        raise UserError(f"{where}: {why}: expected {form}")
    return value


def texts(where: str, values: Any, name: str, form: str) -> list[str]:
    """A list of texts, or one text.

    Raises:
      UserError: it is something else.
    """
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, str) and value.strip() for value in values
    ):
        raise UserError(f"{where}: {name} is {_shown(values)}: expected {form}")
    return list(values)


def item(where: str, value: Any, form: str) -> Item:
    """An item: a text, or an object with its text, weight and kind.

    Raises:
      UserError: it is something else.
    """
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: item {_shown(value)}: expected {form}")
    return Item(
        text(where, value, "text", form),
        number(where, value.get("weight", 1.0), "weight", form),
        str(value.get("kind") or ""),
    )


def number(where: str, value: Any, name: str, form: str) -> float:
    """A weight: any finite number.

    Raises:
      UserError: it is something else.
    """
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not abs(value) <= sys.float_info.max:
        raise UserError(f"{where}: {name} is {_shown(value)}: expected {form}")
    return float(value)


def conversation(where: str, value: Any) -> tuple[Message, ...]:
    """Messages that end with a user's, with nothing in them but role and content.

    Raises:
      UserError: it is something else.
    """
    good = isinstance(value, list | tuple) and all(
        isinstance(message, Mapping)
        and message.get("role") in ROLES
        and isinstance(message.get("content"), str)
        for message in value
    )
    if not good or not value or value[-1]["role"] != "user":
        raise UserError(
            f"{where}: not a conversation that ends with a user's message: expected "
            f'[{{"role": "user", "content": ".."}}, ..]: {_shown(value)}'
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in value)


def _shown(value: Any) -> str:
    """A value in a few words of a line."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]} .."
