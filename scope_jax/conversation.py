"""Conversations as pure state machines: what follows a turn (spec 3.7, 3.8, 11.2).

A driver plays one like this, everything slow being its own affair:

    state, actions = start(spec, messages)
    loop over the one action:
      Generate  -> sample a turn after state.messages, then  step(state, completion)
      Search    -> run the queries, then                     observe(state, results)
      Finish    -> done

``step`` keeps what the rules keep of the sampled text (``said(state)``), appends the
assistant's message and whatever user turn the rules ask for. ``observe`` takes, per
query of the action, the passages as one text or a line that says what went wrong, and
appends the result messages. It cuts them with ``truncate`` (built from the action's
``limit`` and ``unit``) if given, so that several queries of one call share a limit and
the reference's cutting of JSON can be had; without it texts are taken as they come.

Kinds:
    challenger   training rollouts of the Challenger, guided from search to search
    solver       training rollouts of the Solver
    solver_eval  the same in evaluation: an answer is demanded at the end
    difficulty   Solver rollouts that measure a task: other rules, an answer is demanded
    task         the Challenger writing tasks to keep

Letters as in the specification: N searches asked for, t assistant turns so far.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rl.records import Completion
from scope_jax import formats
from scope_jax.compat import OFF, Compat
from scope_jax.formats import Message
from scope_jax.prompts import PromptSet, neutralise
from scope_jax.types import ToolFormat

Kind = Literal["challenger", "solver", "solver_eval", "difficulty", "task"]
Style = Literal["chain2", "chain2_xml", "none"]

_GUIDED: tuple[Kind, ...] = ("challenger", "task")
_FINAL_CALL = re.compile(r"<function_calls>\s*+(?:task|answer)\s*+\(")
_BAD_ARGUMENTS = "Search error: bad arguments: query_list must be a list of queries"


@dataclass(frozen=True, kw_only=True)
class ConversationSpec:
    """What kind of conversation it is and which rules hold.

    Attributes:
      kind: see the module docstring.
      tool_format: how searches are written.
      prompts: texts of the user turns that the rules add.
      num_searches: N, for the Challenger; None: no guidance.
      max_turns: most assistant turns, answers on demand not counted.
      forced_rounds: most times that an answer is demanded.
      max_new_tokens: of one turn; None leaves it to the driver's sampling settings.
      style: of the guidance; ``chain2_xml`` ends with another text than ``chain2``.
      tool_tokens: limit of a result's text.
      compat: the reference's behaviour, by subject.
    """

    kind: Kind
    tool_format: ToolFormat
    prompts: PromptSet
    num_searches: int | None = None
    max_turns: int = 5
    forced_rounds: int = 5
    max_new_tokens: int | None = None
    style: Style = "chain2"
    tool_tokens: int = 500
    compat: Compat = OFF

    @property
    def guided(self) -> bool:
        """Whether user turns lead from search to search."""
        return (
            self.kind in _GUIDED
            and self.style != "none"
            and self.num_searches is not None
        )


@dataclass(frozen=True)
class Generate:
    """Sample the assistant's next turn; ``stop`` strings stay in the text."""

    stop: tuple[str, ...]
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Search:
    """Run ``queries``; a result's text is limited to ``limit`` tokens or characters."""

    queries: tuple[str, ...]
    limit: int = 500
    unit: Literal["tokens", "characters"] = "tokens"


@dataclass(frozen=True)
class Finish:
    """The conversation is over: by its own rules, at its turn limit, by an error."""

    reason: Literal["done", "turns", "length", "error"]


Action = Generate | Search | Finish
Actions = tuple[Action, ...]


@dataclass(frozen=True, kw_only=True)
class State:
    """A conversation so far.

    Attributes:
      spec: its rules.
      messages: all of it, as a driver renders it.
      opening: how many of them were there at the start.
      turns: assistant turns t, answers on demand included.
      searches: queries that were run.
      forced: times an answer was demanded.
      last_text: what was kept of the last turn's sampled text.
      pending: calls whose results are awaited: their queries, or why they can't run.
      passages: text of every result that was shown, for the writer of rubrics.
      trace: one line a turn: what was read in it and what followed.
    """

    spec: ConversationSpec
    messages: tuple[Message, ...]
    opening: int
    turns: int = 0
    searches: int = 0
    forced: int = 0
    last_text: str = ""
    pending: tuple[tuple[str, ...] | str, ...] = ()
    passages: tuple[str, ...] = ()
    trace: tuple[dict[str, Any], ...] = ()

    @property
    def episode(self) -> tuple[Message, ...]:
        """The real prompt and what followed, without example turns before it."""
        return self.messages[max(self.opening - 1, 0) :]


@dataclass(frozen=True)
class _Move:
    """What the rules make of a turn's text."""

    event: Literal["search", "reply", "forced", "end"]
    kept: str
    note: str
    calls: tuple[tuple[str, ...] | str, ...] = ()
    reply: str = ""
    message: Message | None = None


def start(spec: ConversationSpec, messages: Sequence[Message]) -> tuple[State, Actions]:
    """Opens a conversation; its first action is to generate."""
    state = State(spec=spec, messages=tuple(messages), opening=len(messages))
    return state, (_generate(spec),)


def said(state: State) -> str:
    """What was kept of the last turn's sampled text."""
    return state.last_text


def step(
    state: State, completion: Completion | str, finish_reason: str = "stop"
) -> tuple[State, Actions]:
    """Takes a sampled turn and says what comes next.

    Args:
      state: the conversation.
      completion: the turn, its stop string kept; or just its text.
      finish_reason: of the turn, if ``completion`` is a text. A turn that ended by
        length is read like any other.
    """
    if not isinstance(completion, str):
        text, finish_reason = completion.text, completion.finish_reason
    else:
        text = completion
    if finish_reason in ("cancelled", "error"):
        return state, (Finish("error"),)
    state = replace(state, turns=state.turns + 1)
    if state.spec.kind == "difficulty" and finish_reason == "stop":
        text = formats.close_answer(text)
    if state.forced:
        return _after_forced(state, text, finish_reason)
    if state.spec.kind == "difficulty":
        move = _difficulty(state, text)
    elif state.spec.kind == "task":
        move = _task(state, text)
    else:
        move = _POLICY[state.spec.tool_format](state, text)
    state = _speak(state, move.kept, move.note, move.message)
    if move.event == "search":
        queries = tuple(q for c in move.calls if not isinstance(c, str) for q in c)
        state = replace(state, pending=move.calls)
        if not queries:
            return observe(state, ())
        return state, (_search(state.spec, queries),)
    if move.event == "reply":
        return _next(_add(state, _user(move.reply)))
    if move.event == "forced":
        return _force(state)
    return _end(state, "done")


def observe(
    state: State,
    results: Sequence[str],
    truncate: Callable[[str], str] | None = None,
) -> tuple[State, Actions]:
    """Takes a ``Search``'s results, a text per query, and says what comes next."""
    spec, cut = state.spec, truncate or _unchanged
    cut_json = (
        spec.compat.tool_text_limits
        and spec.tool_format == "tool_call"
        and spec.kind not in ("difficulty", "task")
    )
    position, shown, messages = 0, [], []
    for call in state.pending:
        if isinstance(call, str):
            text = call
        else:
            texts = results[position : position + len(call)]
            position += len(call)
            text = "\n---\n".join(texts)
        text = neutralise(text, (formats.RESULT_TAG[spec.tool_format],))
        text = text if cut_json else cut(text)
        if spec.tool_format == "tool_call":
            content = json.dumps({"result": text})
            content = cut(content) if cut_json else content
            messages.append({"role": "tool", "content": content})
        else:
            messages.append(_user(f"<information>{text}</information>"))
        if not text.startswith("Search error"):
            shown.append(text)
    if spec.guided and not _unguided(spec):
        guidance = _guidance(state, "after_search")
        if spec.tool_format == "tool_call":
            messages.append(_user(guidance))
        else:
            messages[-1] = _user(f"{messages[-1]['content']}\n\n{guidance}")
    state = replace(
        state,
        pending=(),
        searches=state.searches + position,
        passages=(*state.passages, *shown),
    )
    return _next(_add(state, *messages))


# Rules of one turn --------------------------------------------------------------------


def _policy_search_r1(state: State, text: str) -> _Move:
    answer = formats.first_pair(text, "answer")
    search = formats.first_pair(text, "search")
    if search and not search.content.strip():
        search = None
    if answer and (search is None or answer.start < search.start):
        return _Move("end", text[: answer.end], "answer")
    if search:
        return _policy_search(
            state, text[: search.end], ((search.content.strip(),),), None
        )
    end = max(text.rfind("</task>"), text.rfind("</answer>"))
    if end >= 0:
        text = text[: text.index(">", end) + 1]
    if "<task>" in text:
        return _Move("end", text, "task")
    if state.spec.guided:
        return _guide(state, text)
    if _at_limit(state) and state.spec.kind == "solver_eval":
        return _Move("forced", text, "no answer")
    if "<search>" in text and not _at_limit(state):
        return _invalid(state, text)
    return _Move("end", text, "no action")


def _policy_xml(state: State, text: str) -> _Move:
    if "<function_calls>" in text:
        queries = formats.first_search(text, "function_calls_xml")
        if queries:
            return _policy_search(state, text, (queries,), None)
        if _FINAL_CALL.search(text) or _closed(text):
            return _Move("end", text, "task or answer")
        if state.spec.guided:
            return _guide(state, text)
        if _at_limit(state):
            return _Move("end", text, "malformed call")
        return _invalid(state, text)
    if _closed(formats.strip_thinking(text)):
        return _Move("end", text, "task or answer")
    return _no_action(state, text, text)


def _policy_tool_call(state: State, text: str) -> _Move:
    spoken = formats.strip_thinking(text)
    block = formats.first_pair(spoken, "tool_call")
    if not block and "<tool_call>" not in spoken:
        if state.spec.guided or not ("<answer>" in spoken or "<task>" in spoken):
            return _no_action(state, text, spoken)
        return _Move("end", text, "task or answer")
    calls = [call for call in formats.tool_calls(spoken) if call.name == "search"]
    if not calls:
        if _at_limit(state):
            return _Move("end", text, "malformed call")
        return _invalid(state, text)
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
    if _at_limit(state):  # calls run at the start of a next turn, and there is none
        return _Move("end", kept, "search in the last turn, not run", message=message)
    queries = [
        formats.query_list(call, coerce=True) or _BAD_ARGUMENTS for call in calls
    ]
    return _Move("search", kept, "search", calls=tuple(queries), message=message)


_POLICY: dict[ToolFormat, Callable[[State, str], _Move]] = {
    "search_r1": _policy_search_r1,
    "tool_call": _policy_tool_call,
    "function_calls_xml": _policy_xml,
}


def _policy_search(
    state: State, kept: str, calls: tuple[tuple[str, ...], ...], message: Message | None
) -> _Move:
    if state.spec.guided and state.turns > _target(state):
        return _Move("end", kept, "one search too many, not run")
    if state.spec.kind == "solver_eval" and _at_limit(state):
        return _Move("forced", kept, "search in the last turn, not run")
    return _Move("search", kept, "search", calls=calls, message=message)


def _no_action(state: State, text: str, spoken: str) -> _Move:
    """A turn of the two call formats that neither calls nor ends properly."""
    if state.spec.guided:
        if "<task>" in spoken:
            return _Move("end", text, "task")
        return _guide(state, text)
    if not _at_limit(state):
        return _invalid(state, text)
    if state.spec.kind == "solver_eval":
        return _Move("forced", text, "no answer")
    return _Move("end", text, "no action")


def _guide(state: State, text: str) -> _Move:
    if state.turns > _target(state):
        return _Move("end", text, "no action after the last search")
    reply = _guidance(state, "no_result")
    return _Move("reply", text, "no search: guided", reply=reply)


def _invalid(state: State, text: str) -> _Move:
    reply = state.spec.prompts.invalid_action()
    return _Move("reply", text, "invalid action", reply=reply)


def _difficulty(state: State, text: str) -> _Move:
    tool_format = state.spec.tool_format
    if tool_format == "search_r1":
        return _policy_search_r1(state, text)
    found = formats.searches(text, tool_format, literal=True)
    if not found:
        return _Move("end", text, "no search")
    together = tuple(query for queries in found for query in queries)
    kept = formats.cut_after_call(text, tool_format)
    return _Move("search", kept, "search", calls=(together,))


def _task(state: State, text: str) -> _Move:
    spec = state.spec
    before = state.turns - 1
    target = _target(state)
    queries = None
    if before < target:
        queries = next(iter(formats.searches(text, spec.tool_format)), None)
    if queries:
        kept = formats.cut_after_call(text, spec.tool_format)
        return _Move("search", kept, "search", calls=(queries,))
    if "<task>" in text:
        return _Move("end", text, "task")
    if spec.guided and state.turns <= target:
        reply = _guidance(state, "no_result")
        return _Move("reply", text, "no search: guided", reply=reply)
    return _Move("end", text, "no task")


# What follows -------------------------------------------------------------------------


def _after_forced(state: State, text: str, finish_reason: str) -> tuple[State, Actions]:
    state = _speak(state, text, "answer demanded")
    if state.spec.kind == "difficulty":
        if formats.first_pair(text, "answer"):
            return state, (Finish("done"),)
    elif any(tag in text for tag in ("</answer>", "</function_calls>", "<task>")):
        return state, (Finish("done"),)
    elif finish_reason == "length":
        return state, (Finish("length"),)
    return _force(state)


def _force(state: State) -> tuple[State, Actions]:
    """Demands an answer; after the last failure too, then without another turn."""
    given_up = state.forced >= state.spec.forced_rounds
    state = _add(state, _user(state.spec.prompts.forced_answer()))
    if given_up:
        return state, (Finish("turns"),)
    return replace(state, forced=state.forced + 1), (_generate(state.spec),)


def _next(state: State) -> tuple[State, Actions]:
    if _at_limit(state):
        return _end(state, "turns")
    return state, (_generate(state.spec),)


def _end(state: State, reason: Literal["done", "turns"]) -> tuple[State, Actions]:
    if state.spec.kind == "difficulty" and state.spec.forced_rounds:
        last = state.messages[-1]
        answered = formats.first_pair(state.last_text, "answer")
        if last["role"] != "assistant" or not answered:
            return _force(state)
    return state, (Finish(reason),)


# Small parts --------------------------------------------------------------------------


def _generate(spec: ConversationSpec) -> Generate:
    stop = formats.stop_strings(spec.kind, spec.tool_format, compat=spec.compat)
    return Generate(stop, spec.max_new_tokens)


def _search(spec: ConversationSpec, queries: tuple[str, ...]) -> Search:
    characters = spec.kind == "task" and spec.compat.tool_text_limits
    return Search(queries, spec.tool_tokens, "characters" if characters else "tokens")


def _speak(state: State, text: str, note: str, message: Message | None = None) -> State:
    line = {"turn": state.turns, "what": note}
    return replace(
        _add(state, message or {"role": "assistant", "content": text}),
        last_text=text,
        trace=(*state.trace, line),
    )


def _add(state: State, *messages: Message) -> State:
    return replace(state, messages=(*state.messages, *messages))


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _unchanged(text: str) -> str:
    return text


def _closed(text: str) -> bool:
    return any(formats.first_pair(text, tag) for tag in ("answer", "task"))


def _at_limit(state: State) -> bool:
    return state.turns >= state.spec.max_turns


def _target(state: State) -> int:
    return state.spec.num_searches or 0


def _unguided(spec: ConversationSpec) -> bool:
    """Task creation in the reference: no guidance after a JSON tool call (Q14)."""
    return (
        spec.kind == "task"
        and spec.tool_format == "tool_call"
        and spec.compat.unguided_tool_calls
    )


def _guidance(state: State, name: str) -> str:
    target = _target(state)
    remaining = target - state.turns
    if remaining <= 0:
        name = "final_xml" if state.spec.style == "chain2_xml" else "final"
    return state.spec.prompts.guidance(name, remaining=remaining, target=target)
