"""Data of the method: documents, tasks, rubrics, grades."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from models.errors import UserError

ToolFormat = Literal["search_r1", "tool_call", "function_calls_xml"]
OWN_CODE = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
"""How a setting names code of the user's: FILE.py:NAME."""
TOOL_FORMATS: tuple[ToolFormat, ...] = ("search_r1", "tool_call", "function_calls_xml")


def check_own_code(name: str, value: str) -> None:
    """Raises a ``UserError`` where a setting is neither empty nor FILE.py:NAME."""
    if value and not OWN_CODE.fullmatch(value):
        raise UserError(f"{name}={value}: names no code: write it as FILE.py:NAME")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A passage that a Challenger starts from; ``text`` is already cut to its limit."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Rubric:
    """One requirement on an answer.

    The method stores ``priority`` and never uses it (spec Q6); ``judge.weights`` can.
    """

    text: str
    priority: str | None = None


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The judge's verdict on one (answer, rubric); ``score`` is None if unparseable.

    ``raw`` is its output; after a retry, ``first_raw`` is the output before. Where it
    voted, the score is the mean of ``votes``, and ``raw`` the first vote's. Of a judge
    that is biased on purpose, ``bias`` is the chance that it had of raising the score,
    and ``raised_from`` the score before, if it did.
    """

    score: float | None
    raw: str
    retried: bool = False
    first_raw: str = ""
    bias: float | None = None
    raised_from: float | None = None
    votes: tuple[float | None, ...] = ()

    @property
    def unbiased(self) -> float | None:
        """The score without the bias: what the judge itself said."""
        return self.score if self.raised_from is None else self.raised_from


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task that passed creation (spec 11), ready for Solver training.

    ``target`` is the known answer of a short question: answers are compared with it
    instead of being graded. It is None for any other task.
    """

    uid: str
    type: str
    text: str
    document: Document
    searches: int
    rubrics: tuple[Rubric, ...]
    gate_scores: dict[str, int | None]
    difficulty: float
    target: str | None = None
    trace: dict[str, Any] = field(default_factory=dict)
