"""A request on its way through the engine, from its arrival to its Completion."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rl.records import Completion, FinishReason, Request
from rl.stopping import decode, find_stop, first_stop


@dataclass(eq=False)
class Row:
    """A request: waiting, then in a slot, until it has a Completion.

    Attributes:
      digests: of its prompt, see ``rl.pages``.
      keep: a prefix: prefilled and retained, never decoded.
      slot: -1 while it waits; ``order``: when it was let in, in the order of all.
      pages: of the cache, on the slot's device, in the order of the row's positions.
      done: prompt tokens in the cache; ``ready``: all, and the last hidden state too.
      cached: prompt tokens that were found in the cache.
      page_from: page whose beginning is copied into the row's first page that is not
        shared; ``hidden_from``: slot whose hidden state is copied.
    """

    id: int
    request: Request
    prompt: np.ndarray
    digests: tuple[bytes, ...] = ()
    keep: bool = False
    slot: int = -1
    order: int = -1
    pages: list[int] = field(default_factory=list)
    done: int = 0
    ready: bool = False
    cached: int = 0
    page_from: int | None = None
    hidden_from: int | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def restart(self) -> None:
        """Forget all progress; the same tokens will be sampled again."""
        self.done, self.ready = 0, False
        self.ids.clear()
        self.logprobs.clear()


def refusal(
    request: Request, *, vocab: int, max_length: int, max_stop_ids: int
) -> FinishReason | None:
    """Why it cannot run: "error" (malformed), "length" (no room), or None."""
    s = request.sampling
    if (
        not request.ids
        or not 0 <= min(request.ids) <= max(request.ids) < vocab
        or len(request.stop_ids) > max_stop_ids
        or s.problem()
    ):
        return "error"
    if len(request.ids) >= max_length or s.max_new_tokens < 1:
        return "length"
    return None


def refused(reason: FinishReason) -> Completion:
    """The completion of a request that cannot run."""
    return Completion(ids=(), logprobs=(), text="", finish_reason=reason)


def end(
    tokenizer: Any, row: Row, before: int, *, room: bool
) -> tuple[FinishReason, str | None] | None:
    """How the row ends by its tokens from ``before`` on: (reason, stop string) or None.

    Tokens behind the one that completes a stop string are dropped from the row.

    Args:
      room: whether it may go on, by its limit of tokens.
    """
    request = row.request
    by_id = row.ids[-1] in request.stop_ids
    text_ids = row.ids[:-1] if by_id else row.ids
    found = find_stop(tokenizer, text_ids, before, request.stop)
    if found:
        count, stop = found
        del row.ids[count:], row.logprobs[count:]
        return "stop", stop
    if by_id:
        return "stop", None
    return None if room else ("length", None)


def completion(
    tokenizer: Any, row: Row, reason: FinishReason, stop: str | None
) -> Completion:
    """What the row has, as the completion that it gets."""
    by_id = reason == "stop" and stop is None
    text = decode(tokenizer, row.ids[:-1] if by_id else row.ids)
    if stop is not None:
        length, stop = first_stop(text, row.request.stop)
        text = text[:length]
    return Completion(
        ids=tuple(row.ids),
        logprobs=tuple(row.logprobs),
        text=text,
        finish_reason=reason,
        stop_string=stop,
        prompt_tokens=len(row.prompt),
        cached_tokens=row.cached,
    )
