"""Conversations as pure state machines: what follows a turn (spec 3.7, 3.8, 11.2).

A driver plays one like this and does everything slow itself:

    state, action = start(spec, messages)
    until it is Finish:
      Generate  -> sample a turn after state.messages, then  step(state, completion)
      Search    -> run the queries, then                     observe(state, results)

``step`` keeps what the rules keep of the sampled text (``state.last_text``), appends
the assistant's message and any user message that the rules ask for. ``observe`` takes
one text per query of the action (its passages, or a line that says what went wrong) and
appends the result messages. It cuts them with ``truncate`` (built from the action's
``limit`` and ``unit``), so that the queries of one call share a limit, and JSON can be
cut as in the reference; without ``truncate`` nothing is cut.

Kinds:
    challenger   training rollouts of the Challenger, guided from search to search
    solver       training rollouts of the Solver
    solver_eval  the same in evaluation, with a forced answer at the end
    difficulty   Solver rollouts that measure a task: other rules, and forced answers
    task         the Challenger writing tasks to keep

Letters as in the specification: N searches asked for, t assistant turns so far.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from models.mixed_text import mixed, outside
from rl.records import Completion
from scope_jax.method import formats, turn_rules
from scope_jax.method.formats import Message
from scope_jax.method.prompts.templates import neutralise
from scope_jax.method.stop_tags import close_tags, stop_strings
from scope_jax.method.turn_rules import ConversationSpec


@dataclass(frozen=True)
class Generate:
    """Sample the assistant's next turn; ``stop`` strings stay in the text."""

    stop: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """Run ``queries``; a result's text is limited to ``limit`` tokens or characters."""

    queries: tuple[str, ...]
    limit: int = 500
    unit: Literal["tokens", "characters"] = "tokens"


@dataclass(frozen=True)
class Finish:
    """The conversation is over: by its rules, at a limit, or by an error."""

    reason: Literal["done", "turns", "length", "error"]


Action = Generate | Search | Finish


@dataclass(frozen=True, kw_only=True)
class State:
    """A conversation so far.

    Attributes:
      spec: its rules.
      messages: all of it, as a driver renders it.
      opening: how many of them were there at the start.
      turns: assistant turns t, including forced answers.
      searches: queries that were run.
      forced: how often an answer was forced.
      last_text: what was kept of the last turn's sampled text.
      pending: calls whose results are awaited: their queries, or why they cannot run.
      passages: text of every result that was shown, for the writer of rubrics.
      turn_log: one entry per turn: what was found in it and what followed.
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
    turn_log: tuple[dict[str, Any], ...] = ()

    @property
    def played(self) -> tuple[Message, ...]:
        """The real prompt and what followed, without the example turns before it."""
        return self.messages[max(self.opening - 1, 0) :]


def start(spec: ConversationSpec, messages: Sequence[Message]) -> tuple[State, Action]:
    """Opens a conversation; its first action is to generate."""
    state = State(spec=spec, messages=tuple(messages), opening=len(messages))
    return state, _generate(spec)


def step(
    state: State, completion: Completion | str, finish_reason: str = "stop"
) -> tuple[State, Action]:
    """Takes a sampled turn and says what comes next.

    Args:
      state: the conversation.
      completion: the turn, its stop string kept; or just its text.
      finish_reason: of the turn, if ``completion`` is a text. A turn that ended by
        length is read like any other (spec 3.7).
    """
    if not isinstance(completion, str):
        text, finish_reason = completion.text, completion.finish_reason
    else:
        text = completion
    if finish_reason in ("cancelled", "error"):
        return state, Finish("error")
    state = replace(state, turns=state.turns + 1)
    spec = state.spec
    text = close_tags(text, spec.kind, spec.tool_format, compat=spec.compat)
    if state.forced:
        return _after_forced(state, text, finish_reason)
    move = turn_rules.decide(spec, state.turns, text)
    state = _speak(state, move.kept, move.note, move.message, calls=move.calls)
    if move.event == "search":
        queries = tuple(q for c in move.calls if not isinstance(c, str) for q in c)
        state = replace(state, pending=move.calls)
        if not queries:
            return observe(state, ())
        return state, _search(spec, queries)
    if move.event == "reply":
        return _next(_add(state, _user(move.reply)))
    if move.event == "forced":
        return _force(state)
    return _end(state, "turns" if move.event == "turns" else "done")


def observe(
    state: State,
    results: Sequence[str],
    truncate: Callable[[str], str] | None = None,
) -> tuple[State, Action]:
    """Takes a ``Search``'s results, a text per query, and says what comes next."""
    spec, cut = state.spec, truncate or _unchanged
    cut_json = (
        spec.compat.tool_text_limits
        and spec.tool_format == "tool_call"
        and spec.kind not in ("difficulty", "task")
    )
    position, shown, messages = 0, [], []

    def joined(texts: Sequence[str]) -> str:
        text = "\n---\n".join(texts)
        text = neutralise(text, (formats.RESULT_TAG[spec.tool_format],))
        return text if cut_json else cut(text)

    for call in state.pending:
        texts: Sequence[str] = [call] if isinstance(call, str) else ()
        if not texts:
            texts = results[position : position + len(call)]
            position += len(call)
        text = joined(texts)
        if spec.tool_format == "tool_call":
            content = json.dumps({"result": text})
            content = cut(content) if cut_json else content
            messages.append({"role": "tool", "content": outside(content)})
        else:
            block = mixed("<information>", outside(text), "</information>")
            messages.append(_user(block))
        found = [text for text in texts if not text.startswith("Search error")]
        if found:
            shown.append(text if len(found) == len(texts) else joined(found))
    if spec.guided_after_search:
        guidance = turn_rules.guidance(spec, state.turns, "after_search")
        if spec.tool_format == "tool_call":
            messages.append(_user(guidance))
        else:
            messages[-1] = _user(mixed(messages[-1]["content"], "\n\n", guidance))
    state = replace(
        state,
        pending=(),
        searches=state.searches + position,
        passages=(*state.passages, *shown),
    )
    return _next(_add(state, *messages))


# What follows -------------------------------------------------------------------------


def _after_forced(state: State, text: str, finish_reason: str) -> tuple[State, Action]:
    state = _speak(state, text, "forced answer")
    if state.spec.kind == "difficulty":
        if formats.first_pair(text, "answer"):
            return state, Finish("done")
    elif any(tag in text for tag in ("</answer>", "</function_calls>", "<task>")):
        return state, Finish("done")
    elif finish_reason == "length":
        return state, Finish("length")
    return _force(state)


def _force(state: State) -> tuple[State, Action]:
    """Forces an answer, as often as the rules allow."""
    given_up = state.forced >= state.spec.forced_rounds
    if not given_up or state.spec.kind == "difficulty":  # also after the last one
        state = _add(state, _user(state.spec.prompts.forced_answer()))
    if given_up:
        return state, Finish("turns")
    state = replace(state, forced=state.forced + 1)
    return state, _generate(state.spec, forced=True)


def _next(state: State) -> tuple[State, Action]:
    if state.turns >= state.spec.max_turns:
        return _end(state, "turns")
    return state, _generate(state.spec)


def _end(state: State, reason: Literal["done", "turns"]) -> tuple[State, Action]:
    if state.spec.kind == "difficulty" and state.spec.forced_rounds:
        last = state.messages[-1]
        answered = formats.first_pair(state.last_text, "answer")
        if last["role"] != "assistant" or not answered:
            return _force(state)
    return state, Finish(reason)


# Small parts --------------------------------------------------------------------------


def _generate(spec: ConversationSpec, *, forced: bool = False) -> Generate:
    stop = stop_strings(spec.kind, spec.tool_format, forced=forced, compat=spec.compat)
    return Generate(stop)


def _search(spec: ConversationSpec, queries: tuple[str, ...]) -> Search:
    characters = spec.kind == "task" and spec.compat.tool_text_limits
    return Search(queries, spec.tool_tokens, "characters" if characters else "tokens")


def _speak(
    state: State,
    text: str,
    note: str,
    message: Message | None = None,
    *,
    calls: Sequence[tuple[str, ...] | str] = (),
) -> State:
    line: dict[str, Any] = {"turn": state.turns, "what": note}
    if calls:
        line["calls"] = list(calls)
    return replace(
        _add(state, message or {"role": "assistant", "content": text}),
        last_text=text,
        turn_log=(*state.turn_log, line),
    )


def _add(state: State, *messages: Message) -> State:
    return replace(state, messages=(*state.messages, *messages))


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _unchanged(text: str) -> str:
    return text
