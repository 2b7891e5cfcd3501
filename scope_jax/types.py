"""The nouns of the method: documents, tasks, rubrics, grades."""

from dataclasses import dataclass, field
from typing import Any, Literal

ToolFormat = Literal["search_r1", "tool_call", "function_calls_xml"]
TOOL_FORMATS: tuple[ToolFormat, ...] = ("search_r1", "tool_call", "function_calls_xml")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A passage that a Challenger starts from; ``text`` is already cut to its limit."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Rubric:
    """One requirement on an answer. ``priority`` is stored, never used (spec Q6)."""

    text: str
    priority: str | None = None


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The judge's verdict on one (answer, rubric): ``score`` None means unparseable.

    ``first_raw`` is what it said before it was asked again, if it was.
    """

    score: float | None
    raw: str
    retried: bool = False
    first_raw: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task that passed creation (spec 11), ready for Solver training.

    ``target`` is the known answer of a short question, None for any other task; an
    answer is then compared with it instead of being graded.
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
