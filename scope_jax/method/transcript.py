"""The tokens of one conversation as they grow: token in, token out.

A sampled token is never decoded and encoded again. Text of the environment is encoded
once and appended. Masks grow with the tokens. There are two kinds, by chat template:

- ``RunningTranscript``: templates that only append (Qwen2.5, the small world). One list
  of ids, one datum.
- ``RerenderedTranscript``: templates that rewrite history (Qwen3 drops earlier
  thinking). Every turn is rendered anew and is a datum of its own (spec 12.4). A turn
  that was cut inside its thinking is none: the template puts an empty thinking block
  before it, and what is trained on then is not what was sampled (spec Q53). Where a
  template drops thinking even from a last turn (R1), a datum is the prompt and the
  turn as sampled: nothing else of the turn is ever written.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from models.chat import ChatRenderer
from models.errors import UserError
from rl.records import Completion, Datum
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import (
    Message,
    after_thinking,
    message_text,
    opens_with_thinking,
)


@dataclass(frozen=True)
class TrainedTurn:
    """How much of one sampled turn the training data has.

    Attributes:
      tokens: of the turn, those that close it included.
      trained: how many of them are trained on.
      start, end: the characters of its text that these spell; ``end`` is None where
        they reach to its end.
    """

    tokens: int
    trained: int
    start: int = 0
    end: int | None = None


class Transcript(Protocol):
    """The tokens of a conversation, as its driver uses them."""

    response_tokens: int
    left_out: int
    """Turns that are no part of any datum."""

    def prompt(self) -> tuple[int, ...]:
        """Token ids that the next completion continues."""

    def add_sampled(self, completion: Completion, message: Message, text: str) -> None:
        """Append an assistant turn.

        Args:
          completion: the sample.
          message: what a template that writes the turn anew is given.
          text: the part of the sample that is kept.
        """

    def add_environment(self, messages: Sequence[Message]) -> None:
        """Append user or tool messages and open the next assistant turn."""

    def datums(self, uid: str) -> tuple[Datum, ...]:
        """The training data, advantages still 0."""

    def turns(self) -> tuple[TrainedTurn, ...]:
        """What of each sampled turn is in it, in order."""


def start(
    renderer: ChatRenderer,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    *,
    compat: Compat = OFF,
) -> Transcript:
    """An empty transcript of the kind that ``renderer``'s template needs."""
    if renderer.append_only:
        return RunningTranscript(renderer, messages, tools)
    return RerenderedTranscript(
        renderer, messages, tools, train_cut=compat.cut_thinking_trained
    )


def check_calls(renderer: ChatRenderer) -> None:
    """Refuses a template that leaves out what the format ``tool_call`` has in messages.

    Such a model would not see its own searches (R1's, SmolLM2's).

    Raises:
      UserError: one line for the user.
    """
    call = {"name": "search", "arguments": {"query_list": ["zq query"]}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "zq result"},
    ]
    text = renderer.render(messages, add_generation_prompt=True)
    if "zq query" not in text or "zq result" not in text:
        raise UserError(
            "model.template: the chat template shows no tool calls, so a model would "
            "not see its own searches: name one that does, such as "
            "qwen3_strip_thinking or chatml, or use --tool-format search_r1"
        )


def writes_thinking(renderer: ChatRenderer) -> bool:
    """Whether the template gives a turn without thinking an empty block (spec Q31)."""
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    prompt = renderer.render(turn[:1], add_generation_prompt=True)
    written = renderer.render(turn)
    return written.startswith(prompt) and opens_with_thinking(
        written.removeprefix(prompt)
    )


def _kept_ids(renderer: ChatRenderer, completion: Completion, text: str) -> int:
    """How many sampled ids spell ``text``; the token that completes it counts.

    So does a stop id at the end of an uncut sample: it is trained on.
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
    """Sampled ids, their log-probabilities, and the ids that close the turn.

    Stop tags that were put back (spec 3.9.1, 3.9.3) are among the closing ids: they are
    trained on, but nobody sampled them.
    """
    added = ""
    if text.startswith(completion.text):
        added = text[len(completion.text) :]
    count = _kept_ids(renderer, completion, text.removesuffix(added))
    ids = list(completion.ids[:count])
    logprobs = list(completion.logprobs[:count])
    closing = renderer.turn_end_ids()
    if ids and ids[-1] in renderer.stop_ids:
        if not added and closing and closing[0] == ids[-1]:
            closing = closing[1:]
        else:  # not the template's end token, which takes its place
            ids, logprobs = ids[:-1], logprobs[:-1]
    return ids, logprobs, [*renderer.encode_text(added), *closing]


class RunningTranscript:
    """One growing list of ids, one datum; see the module docstring."""

    def __init__(self, renderer, messages, tools):
        self._renderer = renderer
        self._ids: list[int] = list(renderer.prompt_ids(messages, tools))
        self._prompt_tokens = len(self._ids)
        self._loss = [0] * self._prompt_tokens
        self._sampled = [0] * self._prompt_tokens
        self._logprobs = [math.nan] * self._prompt_tokens
        self._turns: list[tuple[int, int]] = []  # positions of each, end exclusive
        self._first = 0  # the first position that can be trained on
        self.response_tokens = self.left_out = 0

    def prompt(self) -> tuple[int, ...]:
        """Token ids that the next completion continues."""
        return tuple(self._ids)

    def _extend(self, ids, *, loss: int, sampled: int, logprobs=None) -> None:
        self._ids += ids
        self._loss += [loss] * len(ids)
        self._sampled += [sampled] * len(ids)
        self._logprobs += [math.nan] * len(ids) if logprobs is None else logprobs

    def add_sampled(self, completion: Completion, message: Message, text: str) -> None:
        """Append an assistant turn; its closing ids are trained on but not sampled."""
        ids, logprobs, closing = _closed(self._renderer, completion, text)
        start = len(self._ids)
        self._extend(ids, loss=1, sampled=1, logprobs=logprobs)
        self._extend(closing, loss=1, sampled=0)
        self._turns.append((start, len(self._ids)))
        self.response_tokens += len(ids) + len(closing)

    def add_environment(self, messages: Sequence[Message]) -> None:
        """Append user or tool messages and open the next assistant turn."""
        ids = self._renderer.environment_ids(messages)
        self._extend(ids, loss=0, sampled=0)
        self.response_tokens += len(ids)

    def keep_last(self, count: int) -> int:
        """Drops all but the last ``count`` ids, with their masks (spec Q48).

        Returns how many were dropped.
        """
        dropped = max(len(self._ids) - count, 0)
        self._prompt_tokens = max(self._prompt_tokens - dropped, 0)
        for kept in (self._ids, self._loss, self._sampled, self._logprobs):
            del kept[:dropped]
        if dropped:  # nothing is left that predicts the first one
            self._first = 1
            self._loss[0] = self._sampled[0] = 0
            self._logprobs[0] = math.nan
        self._turns = [(start - dropped, end - dropped) for start, end in self._turns]
        return dropped

    def cut_response(self, limit: int) -> None:
        """Drops what lies more than ``limit`` ids after the prompt."""
        for kept in (self._ids, self._loss, self._sampled, self._logprobs):
            del kept[self._prompt_tokens + limit :]

    def datums(self, uid: str) -> tuple[Datum, ...]:
        """One datum: prompt and response."""
        return (
            Datum(
                uid=uid,
                turn=0,
                ids=tuple(self._ids),
                loss_mask=tuple(self._loss),
                sampled_mask=tuple(self._sampled),
                logprobs=tuple(self._logprobs),
            ),
        )

    def turns(self) -> tuple[TrainedTurn, ...]:
        """What of each sampled turn is in it; its ends may be cut (spec 3.7, Q48)."""
        return tuple(self._turn(start, end) for start, end in self._turns)

    def _turn(self, start: int, end: int) -> TrainedTurn:
        first, last = max(start, self._first), min(end, len(self._ids))
        trained = max(last - first, 0)
        if trained == end - start or not trained:
            return TrainedTurn(end - start, trained, 0, None if trained else 0)
        if first > start:  # its beginning is gone, and with it the text's length
            return TrainedTurn(end - start, trained)
        text = self._renderer.decode(self._ids[first:last])
        return TrainedTurn(end - start, trained, 0, len(text))


class RerenderedTranscript:
    """Every turn rendered from the whole conversation so far; one datum per turn."""

    def __init__(self, renderer, messages, tools, *, train_cut=False):
        self._renderer = renderer
        self._messages = list(messages)
        self._tools = tools
        self._train_cut = train_cut
        self._datums: list[Datum] = []
        self._trained: list[TrainedTurn] = []
        self._prompt = tuple(renderer.prompt_ids(self._messages, tools))
        self._turns = self.response_tokens = self.left_out = 0

    def prompt(self) -> tuple[int, ...]:
        """Token ids that the next completion continues."""
        return self._prompt

    def add_sampled(self, completion: Completion, message: Message, text: str) -> None:
        """Append an assistant turn: as sampled, or as the template writes it."""
        ids, logprobs, closing = _closed(self._renderer, completion, text)
        self._messages.append(message)
        written = self._renderer.turn_ids(self._messages, self._tools)
        end = self._renderer.decode(self._renderer.turn_end_ids())
        sampled, cut = [1] * len(ids), False
        if written is not None and self._renderer.decode(written) != text + end:
            # The template writes the turn differently: trained on, but not as sampled.
            ids, closing = list(written), []
            logprobs, sampled = [math.nan] * len(ids), [0] * len(ids)
            cut = after_thinking(message_text(message)) is None
        prompt, response = self._prompt, (*ids, *closing)
        self.response_tokens += len(response)
        self._turns += 1
        if cut and not self._train_cut:
            self.left_out += 1
            self._trained.append(TrainedTurn(len(response), 0, 0, 0))
            return
        self._trained.append(TrainedTurn(len(response), len(response)))
        self._datums.append(
            Datum(
                uid="",  # set by ``datums``
                turn=self._turns - 1,
                ids=(*prompt, *response),
                loss_mask=(0,) * len(prompt) + (1,) * len(response),
                sampled_mask=(*[0] * len(prompt), *sampled, *[0] * len(closing)),
                logprobs=(
                    *[math.nan] * len(prompt),
                    *logprobs,
                    *[math.nan] * len(closing),
                ),
            )
        )

    def add_environment(self, messages: Sequence[Message]) -> None:
        """Append user or tool messages and render the prompt of the next turn."""
        self._messages.extend(messages)
        self._prompt = tuple(self._renderer.prompt_ids(self._messages, self._tools))
        ids = self._renderer.environment_ids(messages)
        self.response_tokens += len(ids)

    def datums(self, uid: str) -> tuple[Datum, ...]:
        """One datum per turn that counts; none is cut to a limit (spec 12.4)."""
        return tuple(replace(datum, uid=uid) for datum in self._datums)

    def turns(self) -> tuple[TrainedTurn, ...]:
        """What of each sampled turn is in it: all or, of one that is cut, nothing."""
        return tuple(self._trained)
