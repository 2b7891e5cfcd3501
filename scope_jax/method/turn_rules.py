"""The rules of one turn: what its text says and what must follow (spec 3.7, 3.8, 11.2).

Policy rollouts have one set of rules per tool format; difficulty rollouts and task
creation have one each. All are pure functions of the settings, the number of the turn
(from 1; t in the specification) and its text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scope_jax.method import formats
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import Message
from scope_jax.method.prompts import PromptSet
from scope_jax.method.types import ToolFormat

Kind = Literal["challenger", "solver", "solver_eval", "difficulty", "task"]
Style = Literal["chain2", "chain2_xml", "none"]

_GUIDED: tuple[Kind, ...] = ("challenger", "task")
_FINAL_CALL = re.compile(r"<function_calls>\s*+(?:task|answer)\s*+\(")
LAST_SEARCH = "search in the last turn, not run"
_BAD_ARGUMENTS = "Search error: bad arguments: query_list must be a list of queries"


@dataclass(frozen=True, kw_only=True)
class ConversationSpec:
    """The kind of a conversation and the rules that hold in it.

    Attributes:
      kind: see ``scope_jax.method.conversation``.
      tool_format: how searches are written.
      prompts: texts of the user turns that the rules add.
      num_searches: N, for the Challenger; None for no guidance.
      max_turns: most assistant turns, not counting forced answers.
      forced_rounds: most forced answers.
      style: of the guidance; the last text of ``chain2_xml`` differs from ``chain2``.
      tool_tokens: token limit of a search result.
      compat: the reference's behaviour, by subject.
    """

    kind: Kind
    tool_format: ToolFormat
    prompts: PromptSet
    num_searches: int | None = None
    max_turns: int = 5
    forced_rounds: int = 5
    style: Style = "chain2"
    tool_tokens: int = 500
    compat: Compat = OFF

    @property
    def guided(self) -> bool:
        """Whether user turns guide from search to search."""
        return (
            self.kind in _GUIDED
            and self.style != "none"
            and self.num_searches is not None
        )

    @property
    def target(self) -> int:
        """N, 0 if none is given."""
        return self.num_searches or 0

    @property
    def guided_after_search(self) -> bool:
        """Whether guidance follows a result; see ``Compat.unguided_tool_calls``."""
        unguided = self.kind == "task" and self.tool_format == "tool_call"
        return self.guided and not (unguided and self.compat.unguided_tool_calls)


@dataclass(frozen=True)
class Move:
    """What the rules make of a turn's text.

    Attributes:
      event: run ``calls``, add the user turn ``reply``, force an answer, end, or end
        only because no turn is left.
      kept: the part of the text that is kept.
      note: for the trace.
      calls: the queries of each call, or why it cannot run.
      message: the assistant's message if it is not just ``kept``.
    """

    event: Literal["search", "reply", "forced", "end", "turns"]
    kept: str
    note: str
    calls: tuple[tuple[str, ...] | str, ...] = ()
    reply: str = ""
    message: Message | None = None


def decide(spec: ConversationSpec, turn: int, text: str) -> Move:
    """What the rules of ``spec`` make of the text of turn ``turn``."""
    if spec.kind == "difficulty":
        return _difficulty(spec, turn, text)
    if spec.kind == "task":
        return _task(spec, turn, text)
    return _POLICY[spec.tool_format](spec, turn, text)


def guidance(spec: ConversationSpec, turn: int, name: str) -> str:
    """The user turn that leads on after turn ``turn``: ``name``, or the final one."""
    remaining = spec.target - turn
    if remaining <= 0:
        name = "final_xml" if spec.style == "chain2_xml" else "final"
    return spec.prompts.guidance(name, remaining=remaining, target=spec.target)


def _policy_search_r1(spec: ConversationSpec, turn: int, text: str) -> Move:
    answer = formats.first_pair(text, "answer")
    search = formats.first_pair(text, "search")
    if search and not search.content.strip():
        search = None
    if answer and (search is None or answer.start < search.start):
        return Move("end", text[: answer.end], "answer")
    if search:
        queries = (search.content.strip(),)
        return _policy_search(spec, turn, text[: search.end], queries)
    end = max(text.rfind("</task>"), text.rfind("</answer>"))
    if end >= 0 and spec.kind != "difficulty":  # kept whole there (spec 3.9.7)
        text = text[: text.index(">", end) + 1]
    if "<task>" in text:
        return Move("end", text, "task")
    if spec.guided:
        return _guide(spec, turn, text)
    if turn >= spec.max_turns and spec.kind == "solver_eval":
        return Move("forced", text, "no answer")
    if "<search>" in text:
        return _invalid(spec, turn, text)
    return Move("end", text, "no action")


def _policy_xml(spec: ConversationSpec, turn: int, text: str) -> Move:
    spoken = formats.strip_thinking(text)
    if "<function_calls>" in text:
        queries = formats.first_search(text, "function_calls_xml")
        if queries:
            return _policy_search(spec, turn, text, queries)
        if _FINAL_CALL.search(text) or _closed(spoken):
            return Move("end", text, "task or answer")
        if spec.guided:
            return _guide(spec, turn, text)
        return _invalid(spec, turn, text)
    if _closed(spoken):
        return Move("end", text, "task or answer")
    last = spec.kind == "solver_eval" and turn >= spec.max_turns
    if last and ("<answer>" in spoken or "<task>" in spoken):  # spec 3.9.6
        return Move("end", text, "open task or answer")
    return _no_action(spec, turn, text, text)


def _policy_tool_call(spec: ConversationSpec, turn: int, text: str) -> Move:
    spoken = formats.strip_thinking(text)
    block = formats.first_pair(spoken, "tool_call")
    if not block and "<tool_call>" not in spoken:
        read = text if spec.compat.ends_in_thinking else spoken
        if spec.guided or not ("<answer>" in read or "<task>" in read):
            return _no_action(spec, turn, text, read)
        return Move("end", text, "task or answer")
    calls = [
        call
        for call in formats.tool_calls(spoken)
        if call.name == "search" and isinstance(call.arguments, dict)
    ]
    if not calls:
        return _invalid(spec, turn, text)
    thought = formats.first_pair(text, "think")
    before = spoken[: block.start].strip() if block else ""
    thinking = f"<think>{thought.content}</think>" if thought else ""
    message = {
        "role": "assistant",
        "content": f"{thinking}\n{before}" if thinking else before,
        "tool_calls": [
            {"name": call.name, "arguments": call.arguments} for call in calls
        ],
    }
    kept = formats.cut_after_call(text, "tool_call")
    if turn >= spec.max_turns:  # calls run when the next turn starts, and there is none
        return Move("turns", kept, LAST_SEARCH, message=message)
    queries = [formats.query_list(call, "policy") or _BAD_ARGUMENTS for call in calls]
    return Move("search", kept, "search", calls=tuple(queries), message=message)


_POLICY: dict[ToolFormat, Callable[[ConversationSpec, int, str], Move]] = {
    "search_r1": _policy_search_r1,
    "tool_call": _policy_tool_call,
    "function_calls_xml": _policy_xml,
}


def _policy_search(
    spec: ConversationSpec, turn: int, kept: str, queries: tuple[str, ...]
) -> Move:
    if spec.guided and turn > spec.target:
        return Move("end", kept, "one search too many, not run")
    if spec.kind == "solver_eval" and turn >= spec.max_turns:
        return Move("forced", kept, LAST_SEARCH)
    return Move("search", kept, "search", calls=(queries,))


def _no_action(spec: ConversationSpec, turn: int, text: str, read: str) -> Move:
    """A turn without a call or a proper end, in the two call formats.

    ``read`` is the part of ``text`` in which a task is looked for.
    """
    if spec.guided:
        if "<task>" in read:
            return Move("end", text, "task")
        return _guide(spec, turn, text)
    if spec.kind == "solver_eval" and turn >= spec.max_turns:
        return Move("forced", text, "no answer")
    return _invalid(spec, turn, text)


def _guide(spec: ConversationSpec, turn: int, text: str) -> Move:
    if turn > spec.target:
        return Move("end", text, "no action after the last search")
    reply = guidance(spec, turn, "no_result")
    return Move("reply", text, "no search: guided", reply=reply)


def _invalid(spec: ConversationSpec, turn: int, text: str) -> Move:
    """Tells the model how to act, if it has a turn left."""
    event = "reply" if turn < spec.max_turns else "turns"
    reply = spec.prompts.invalid_action()
    return Move(event, text, "invalid action", reply=reply)


def _difficulty(spec: ConversationSpec, turn: int, text: str) -> Move:
    tool_format = spec.tool_format
    if tool_format == "search_r1":
        return _policy_search_r1(spec, turn, text)
    found = formats.searches(text, tool_format, "difficulty")
    if not found:
        return Move("end", text, "no search")
    together = tuple(query for queries in found for query in queries)
    kept = formats.cut_after_call(text, tool_format)
    return Move("search", kept, "search", calls=(together,))


def _task(spec: ConversationSpec, turn: int, text: str) -> Move:
    queries = None
    if turn <= spec.target:
        queries = next(iter(formats.searches(text, spec.tool_format, "task")), None)
    if queries:
        kept = text
        if spec.tool_format != "tool_call":
            kept = formats.cut_after_call(text, spec.tool_format)
        return Move("search", kept, "search", calls=(queries,))
    if "<task>" in text:
        return Move("end", text, "task")
    if spec.guided and turn <= spec.target:
        reply = guidance(spec, turn, "no_result")
        return Move("reply", text, "no search: guided", reply=reply)
    return Move("end", text, "no task")


def _closed(text: str) -> bool:
    return any(formats.first_pair(text, tag) for tag in ("answer", "task"))
