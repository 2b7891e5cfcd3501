"""The tokens of one conversation as they grow: token in, token out.

A sampled token is never decoded and encoded again. Text of the environment is encoded
once and appended. Masks are born with the tokens. Two kinds, by the chat template:

- ``RunningTranscript``: templates that only append (Qwen2.5, the small world). One list
  of ids, one training row.
- ``RerenderedTranscript``: templates that rewrite history (Qwen3 drops earlier
  thinking). Every turn is rendered anew and is a training row of its own (spec 12.4).
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from models.chat import ChatRenderer
from rl.records import Completion, Datum, Turn

Message = dict[str, Any]


class Transcript(Protocol):
    """What a conversation's driver needs of its token record."""

    turns: list[Turn]

    def prompt(self) -> tuple[int, ...]:
        """Token ids that the next completion continues."""

    def add_sampled(self, completion: Completion, message: Message, text: str) -> None:
        """Append an assistant turn: ``text`` is the part of the sample that is kept."""

    def add_environment(self, messages: Sequence[Message]) -> None:
        """Append user or tool messages and open the next assistant turn."""

    def rows(self, uid: str, *, max_response: int) -> tuple[Datum, ...]:
        """The training rows, advantages still 0; a response is cut at its limit."""


def start(
    renderer: ChatRenderer, messages: Sequence[Message], tools: Sequence[Any] | None
) -> Transcript:
    """The transcript kind that ``renderer``'s template calls for."""
    kind = RunningTranscript if renderer.append_only else RerenderedTranscript
    return kind(renderer, messages, tools)


def kept_ids(renderer: ChatRenderer, completion: Completion, text: str) -> int:
    """How many sampled ids spell ``text``, the completing token included.

    A stop id at the end of an uncut sample is counted too, so that it is trained on.
    """
    if text == completion.text:
        return len(completion.ids)
    low, high = 0, len(completion.ids)
    while low < high:
        middle = (low + high) // 2
        if len(renderer.decode(completion.ids[:middle])) >= len(text):
            high = middle
        else:
            low = middle + 1
    return low


def _closed(
    renderer: ChatRenderer, completion: Completion, text: str
) -> tuple[list[int], list[float], list[int]]:
    """Sampled ids, their log-probs, and the ids that close the turn."""
    count = kept_ids(renderer, completion, text)
    ids = list(completion.ids[:count])
    logprobs = list(completion.logprobs[:count])
    closing = renderer.turn_end_ids()
    if ids and ids[-1] in renderer.stop_ids:
        if closing and closing[0] == ids[-1]:
            closing = closing[1:]
        else:  # another end token than the template's: the template's stands
            ids, logprobs = ids[:-1], logprobs[:-1]
    return ids, logprobs, closing


class RunningTranscript:
    """One growing list of ids; see the module docstring."""

    def __init__(self, renderer, messages, tools):
        self._renderer = renderer
        self._ids: list[int] = list(renderer.prompt_ids(messages, tools))
        self._prompt_tokens = len(self._ids)
        self._loss = [0] * self._prompt_tokens
        self._sampled = [0] * self._prompt_tokens
        self._logprobs = [math.nan] * self._prompt_tokens
        self.turns: list[Turn] = []

    def prompt(self) -> tuple[int, ...]:
        """Token ids that the next completion continues."""
        return tuple(self._ids)

    def _extend(self, ids, *, loss: int, sampled: int, logprobs=None) -> None:
        self._ids += ids
        self._loss += [loss] * len(ids)
        self._sampled += [sampled] * len(ids)
        self._logprobs += [math.nan] * len(ids) if logprobs is None else logprobs

    def add_sampled(self, completion: Completion, message: Message, text: str) -> None:
        """Append an assistant turn; its closing is trained but was not sampled."""
        ids, logprobs, closing = _closed(self._renderer, completion, text)
        self._extend(ids, loss=1, sampled=1, logprobs=logprobs)
        self._extend(closing, loss=1, sampled=0)
        self.turns.append(
            Turn(
                role="assistant",
                text=text,
                ids=tuple(ids + list(closing)),
                kind="sampled",
                finish_reason=completion.finish_reason,
            )
        )

    def add_environment(self, messages: Sequence[Message]) -> None:
        """Append user or tool messages and open the next assistant turn."""
        ids = self._renderer.environment_ids(messages)
        self._extend(ids, loss=0, sampled=0)
        self.turns.append(_environment_turn(messages, ids))

    def keep_last(self, count: int) -> int:
        """Forgets all but the last ``count`` ids, with their masks (spec Q48).

        Returns how many were forgotten.
        """
        dropped = max(len(self._ids) - count, 0)
        self._prompt_tokens = max(self._prompt_tokens - dropped, 0)
        for kept in (self._ids, self._loss, self._sampled, self._logprobs):
            del kept[:dropped]
        return dropped

    def rows(self, uid: str, *, max_response: int) -> tuple[Datum, ...]:
        """One row: prompt and up to ``max_response`` tokens after it."""
        end = self._prompt_tokens + max_response
        return (
            Datum(
                uid=uid,
                turn=0,
                ids=tuple(self._ids[:end]),
                loss_mask=tuple(self._loss[:end]),
                sampled_mask=tuple(self._sampled[:end]),
                logprobs=tuple(self._logprobs[:end]),
            ),
        )


class RerenderedTranscript:
    """Every turn rendered from the whole conversation so far; a row a turn."""

    def __init__(self, renderer, messages, tools):
        self._renderer = renderer
        self._messages = list(messages)
        self._tools = tools
        self._rows: list[tuple[list[int], list[int], list[int], list[float]]] = []
        self._prompt = tuple(renderer.prompt_ids(self._messages, tools))
        self.turns: list[Turn] = []

    def prompt(self) -> tuple[int, ...]:
        """Token ids that the next completion continues."""
        return self._prompt

    def add_sampled(self, completion: Completion, message: Message, text: str) -> None:
        """Record the turn's row: as sampled, or as the template writes it instead."""
        ids, logprobs, closing = _closed(self._renderer, completion, text)
        self._messages.append(message)
        written = self._renderer.turn_ids(self._messages, self._tools)
        end = self._renderer.decode(self._renderer.turn_end_ids())
        sampled = [1] * len(ids)
        if self._renderer.decode(written) != text + end:
            # the template writes the turn otherwise: trained, but not as sampled
            ids, closing = list(written), []
            logprobs, sampled = [math.nan] * len(ids), [0] * len(ids)
        response = ids + list(closing)
        self._rows.append(
            (
                list(self._prompt),
                response,
                sampled + [0] * len(closing),
                logprobs + [math.nan] * len(closing),
            )
        )
        self.turns.append(
            Turn(
                role="assistant",
                text=text,
                ids=tuple(response),
                kind="sampled",
                finish_reason=completion.finish_reason,
            )
        )

    def add_environment(self, messages: Sequence[Message]) -> None:
        """Append user or tool messages and render the prompt of the next turn."""
        self._messages.extend(messages)
        self._prompt = tuple(self._renderer.prompt_ids(self._messages, self._tools))
        ids = self._renderer.environment_ids(messages)
        self.turns.append(_environment_turn(messages, ids))

    def rows(self, uid: str, *, max_response: int) -> tuple[Datum, ...]:
        """A row a turn; spec 12.4 cuts none of them, so ``max_response`` is unused."""
        del max_response
        return tuple(
            Datum(
                uid=uid,
                turn=turn,
                ids=tuple(prompt + response),
                loss_mask=(0,) * len(prompt) + (1,) * len(response),
                sampled_mask=(0,) * len(prompt) + tuple(sampled),
                logprobs=(math.nan,) * len(prompt) + tuple(logprobs),
            )
            for turn, (prompt, response, sampled, logprobs) in enumerate(self._rows)
        )


def _environment_turn(messages: Sequence[Message], ids: Sequence[int]) -> Turn:
    return Turn(
        role=messages[-1]["role"],
        text="\n".join(str(message["content"]) for message in messages),
        ids=tuple(ids),
        kind="environment",
    )
