"""How models write searches, thoughts, tasks and answers, and how these are found.

Three tool formats (spec 3.1): ``search_r1`` (tags), ``tool_call`` (JSON in tags) and
``function_calls_xml`` (a call as text in tags). The scanners find what the regular
expressions of the specification find, in time linear in the text: a model may write
100 KB of opening tags.
"""

import ast
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from scope_jax.method.types import ToolFormat

Message = dict[str, Any]

RESULT_TAG: dict[ToolFormat, str] = {
    "search_r1": "information",
    "tool_call": "tool_response",
    "function_calls_xml": "information",
}
SEARCH_TAG: dict[ToolFormat, str] = {
    "search_r1": "search",
    "tool_call": "tool_call",
    "function_calls_xml": "function_calls",
}
Place = Literal["score", "policy", "task", "difficulty"]
"""Where a JSON search call counts, which decides what it may be (spec 3.9.4).

- score: the scores of Challenger and Solver. Any list that is not empty.
- policy: policy rollouts. Also objects: the first of their keys ``query``, ``text``,
  ``content``, ``q`` that holds a string, else their first string (spec 2.5).
- task: task creation. Also objects with a string ``query``, and a bare string.
- difficulty: difficulty rollouts. A list of strings and of nothing else.
"""
# A longer literal is not a list of queries; parsing it would cost memory.
_MAX_LITERAL = 10_000
# A call takes two tokens at least and a turn has 8,192: more calls are an attack.
_MAX_CALLS = 8192
# Lists and objects within each other. A call has four at most; templates, copies and
# files take a frame or two for each, and Python ends at a thousand.
_DEEPEST = 32


@dataclass(frozen=True)
class FormatScore:
    """Format score of a conversation: three shares in [0, 1] and their mean."""

    think: float
    tool: float
    structure: float
    value: float

    def parts(self) -> dict[str, float]:
        """Its numbers, as parts of a reward."""
        shares = {"think": self.think, "tool": self.tool, "structure": self.structure}
        return {"format": self.value} | shares

    def line(self, tool: str, structure: str) -> str:
        """How the score came about; the arguments say what the last two shares are."""
        return (
            f"format {self.value:.4g}: the mean of thinking {self.think:.4g}, {tool}, "
            f"{structure} {self.structure:.4g}"
        )


@dataclass(frozen=True)
class Reward:
    """A reward and how it came about.

    Attributes:
      value: the reward.
      parts: the numbers it is made of; metrics.
      trace: for the rollout file.
      errors: classes of what was wrong with the output of model and judge; metrics
        count them.
      why: one line per finding with what it counts, so that a reader can add them up.
    """

    value: float
    parts: dict[str, float]
    trace: dict[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


class Span(NamedTuple):
    """A closed pair of tags: ``text[start:end]``, and ``content`` between the tags."""

    start: int
    end: int
    content: str


class Call(NamedTuple):
    """A JSON tool call; its arguments are not checked."""

    name: str
    arguments: Any


def pairs(text: str, tag: str) -> Iterator[Span]:
    """Every ``<tag>(.*?)</tag>``, left to right, not overlapping."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    position = 0
    while (start := text.find(opening, position)) >= 0:
        inside = start + len(opening)
        close = text.find(closing, inside)
        if close < 0:
            return
        position = close + len(closing)
        yield Span(start, position, text[inside:close])


def first_pair(text: str, tag: str) -> Span | None:
    """The first ``<tag>(.*?)</tag>``, or None."""
    return next(pairs(text, tag), None)


def last_pair(text: str, tag: str) -> Span | None:
    """The last ``<tag>(.*?)</tag>`` of those found left to right, or None."""
    last = None
    for last in pairs(text, tag):  # noqa: B007
        pass
    return last


def strip_closed_thinking(text: str) -> str:
    """``text`` without its closed thinking blocks."""
    kept, position = [], 0
    for span in pairs(text, "think"):
        kept.append(text[position : span.start])
        position = span.end
    return "".join([*kept, text[position:]])


def strip_thinking(text: str) -> str:
    """``text`` without its thinking blocks; an unclosed one reaches to the end."""
    return strip_closed_thinking(text).partition("<think>")[0]


def after_thinking(text: str) -> str | None:
    """What follows the last closed thinking block; None if a block is left open.

    A lone ``</think>`` closes a block that the chat template opened.
    """
    tail = text.rpartition("</think>")[2]
    return None if "<think>" in tail else tail


def opens_with_thinking(text: str) -> bool:
    """Whether ``text``, stripped, starts with a closed thinking block."""
    stripped = text.lstrip()
    return stripped.startswith("<think>") and "</think>" in stripped


def tool_calls(text: str) -> list[Call]:
    """The ``<tool_call>`` blocks of ``text`` that hold a JSON object with a name."""
    return [call for span in _call_blocks(text) if (call := _json_call(span.content))]


def _call_blocks(text: str) -> Iterator[Span]:
    return itertools.islice(pairs(text, "tool_call"), _MAX_CALLS)


def json_value(content: str) -> Any:
    """The JSON value; None for null, no JSON, half a surrogate, and too deep a one."""
    try:
        value = json.loads(content)
        if _too_deep(value):
            return None
        # A lone surrogate, also as an escape, cannot be written to a file or a request.
        content.encode()
        if "\\u" in content:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _too_deep(value: Any) -> bool:
    """Whether lists and objects are within more than ``_DEEPEST`` others."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for held in level for item in _items(held)]
    return any(isinstance(held, dict | list) for held in level)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _json_call(content: str) -> Call | None:
    value = json_value(content)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    return Call(value["name"], value.get("arguments"))


def argument(call: Call, name: str) -> str | None:
    """A non-blank string argument of a call, or None."""
    if not isinstance(call.arguments, Mapping):
        return None
    value = call.arguments.get(name)
    return value if isinstance(value, str) and value.strip() else None


def query_list(call: Call, place: Place) -> tuple[str, ...] | None:
    """The queries of a JSON search call; None if it is no search (spec 3.9.4).

    Args:
      call: any call.
      place: where it counts, see ``Place``. Items of the list that hold no query are
        skipped; a call of which none is left is a search for scores only.
    """
    if call.name != "search" or not isinstance(call.arguments, Mapping):
        return None
    items = call.arguments.get("query_list")
    if place == "task" and isinstance(items, str) and items.strip():
        items = [items]
    if not isinstance(items, list) or not items:
        return None
    queries = tuple(q for item in items if (q := _query_of(item, place)) is not None)
    if place == "difficulty" and len(queries) < len(items):
        return None
    return queries if queries or place == "score" else None


def _query_of(item: Any, place: Place) -> str | None:
    """The query that an item of a ``query_list`` holds."""
    if not isinstance(item, dict):
        return item if isinstance(item, str) else None
    held: list[Any] = []
    if place == "policy":  # spec 2.5
        keys = ("query", "text", "content", "q")
        held = [*(item.get(key) for key in keys), *item.values()]
    elif place == "task":
        held = [item.get("query")]
    return next((value for value in held if isinstance(value, str)), None)


_LITERAL_CALL = re.compile(r"\s*search\s*\(\s*query_list\s*=\s*\[")


def _literal_queries(content: str) -> tuple[str, ...] | None:
    """Queries of ``search(query_list=[..])`` written as text inside the tags."""
    match = _LITERAL_CALL.match(content)
    stripped = content.rstrip()
    if not match or len(content) > _MAX_LITERAL or not stripped.endswith(")"):
        return None
    try:
        items = ast.literal_eval(stripped[match.end() - 1 : -1].strip())
        queries = query_list(Call("search", {"query_list": items}), "difficulty")
        # As in `json_value`: an escape may be half a surrogate pair.
        "".join(queries or ()).encode()
    # A type error: a list as a key, or in a set.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return queries


def function_calls(text: str, name: str, parameter: str) -> Iterator[Span]:
    """Every ``<function_calls>NAME(PARAMETER="..")``; the closing tag is not needed."""
    # Possessive quantifiers: what follows never starts with what was repeated.
    opening = re.compile(
        rf"<function_calls>\s*+{name}\s*+\(\s*+{parameter}\s*+=\s*+[\"']"
    )
    closing = re.compile(r"[\"']\s*+\)")
    position = 0
    while match := opening.search(text, position):
        end = closing.search(text, match.end() + 1)
        if not end:
            return
        position = end.end()
        yield Span(match.start(), position, text[match.end() : end.start()])


def searches(
    text: str, tool_format: ToolFormat, place: Place = "score"
) -> list[tuple[str, ...]]:
    """The queries of every valid search call of a turn, in order.

    Args:
      text: of one assistant turn, thinking included.
      tool_format: how calls are written.
      place: which calls of ``tool_call`` are valid, see ``query_list``. Difficulty
        rollouts also take ``search(query_list=[..])`` inside the tags (spec 3.8).
    """
    if tool_format == "search_r1":
        contents = [span.content.strip() for span in pairs(text, "search")]
        return [(query,) for query in contents if query]
    if tool_format == "function_calls_xml":
        spans = function_calls(text, "search", "query")
        return [(query,) for span in spans if (query := span.content.strip())]
    found = []
    for span in _call_blocks(text):
        call = _json_call(span.content)
        queries = query_list(call, place) if call else None
        if queries is None and place == "difficulty":
            queries = _literal_queries(span.content)
        if queries is not None:
            found.append(queries)
    return found


def first_search(text: str, tool_format: ToolFormat) -> tuple[str, ...] | None:
    """The queries of the first call of a turn, if that one is a valid search.

    For scores: in ``tool_call`` there may be none among them (spec 3.9.4).
    """
    span: Span | None
    if tool_format == "tool_call":
        span = first_pair(text, "tool_call")
        call = _json_call(span.content) if span else None
        return query_list(call, "score") if call else None
    if tool_format == "search_r1":
        span = first_pair(text, "search")
    else:
        span = next(function_calls(text, "search", "query"), None)
    query = span.content.strip() if span else ""
    return (query,) if query else None


def cut_after_call(text: str, tool_format: ToolFormat) -> str:
    """``text`` up to its last closing tag of a call; all of it if there is none."""
    closing = f"</{SEARCH_TAG[tool_format]}>"
    end = text.rfind(closing)
    return text if end < 0 else text[: end + len(closing)]


def message_text(message: Message) -> str:
    """The text of a message, with structured tool calls written out at its end."""
    parts = [message.get("content") or ""]
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        plain = {"name": function["name"], "arguments": function["arguments"]}
        parts.append(f"<tool_call>\n{json.dumps(plain)}\n</tool_call>")
    return "\n".join(part for part in parts if part)


def assistant_texts(messages: Sequence[Message]) -> list[str]:
    """The texts of the assistant's messages, in order."""
    return [message_text(m) for m in messages if m["role"] == "assistant"]
