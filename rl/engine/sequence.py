"""A request on its way through the engine, from its arrival to its Completion."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rl.engine.stopping import decode, find_stop, first_stop
from rl.records import Completion, FinishReason, Request
from rl.seeds import halves, is_seed


@dataclass(eq=False)
class SequenceState:
    """One request: waiting, then in a slot, until it has a Completion.

    Attributes:
      digests: of its prompt, see ``rl.engine.pages``.
      slot: -1 while it waits.
      order: when it was admitted, counted over all admissions.
      pages: of the cache, on the slot's device, in the order of the positions.
      done: prompt tokens in the cache.
      ready: all of the prompt is in the cache, and its last hidden state in the slot.
      cached: prompt tokens that were found in the cache.
      page_from: page whose beginning is copied into the first page that is not shared.
      hidden_from: slot whose hidden state is copied.
      ids, logprobs: of the tokens sampled so far.
    """

    id: int
    request: Request
    prompt: np.ndarray
    digests: tuple[bytes, ...] = ()
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

    def write_controls(self, controls: Any, max_length: int) -> None:
        """Tell the decode loop (``sampler.Controls``) of a sequence new in its slot."""
        c, slot, length = controls, self.slot, len(self.prompt)
        request, s = self.request, self.request.sampling
        c.positions[slot] = length
        c.remaining[slot] = min(s.max_new_tokens, max_length - length)
        c.seeds[slot] = halves(request.seed64)
        c.temperature[slot], c.min_p[slot] = s.temperature, s.min_p
        c.top_p[slot], c.top_k[slot] = s.top_p, s.top_k
        c.tables[slot, : len(self.pages)] = self.pages
        c.adapters[slot] = request.adapter
        c.stop_ids[slot] = -1
        c.stop_ids[slot, : len(request.stop_ids)] = request.stop_ids

    def finish_reason(
        self, tokenizer: Any, before: int, *, room: bool
    ) -> tuple[FinishReason, str | None] | None:
        """How the tokens from ``before`` on end it: (reason, stop string), or None.

        Tokens after the one that completes a stop string are dropped, and so is a last
        token whose log-prob is not finite: it was drawn from no distribution.

        Args:
          room: whether its limits allow more tokens.
        """
        request = self.request
        broken = not math.isfinite(self.logprobs[-1])
        if broken:
            del self.ids[-1], self.logprobs[-1]
        by_id = not broken and self.ids[-1] in request.stop_ids
        text_ids = self.ids[:-1] if by_id else self.ids
        found = find_stop(tokenizer, text_ids, before, request.stop)
        if found:
            count, stop = found
            del self.ids[count:], self.logprobs[count:]
            return "stop", stop
        if broken:
            return "error", None
        if by_id:
            return "stop", None
        return None if room else ("length", None)

    def completion(
        self, tokenizer: Any, reason: FinishReason, stop: str | None
    ) -> Completion:
        """What was sampled so far, as the completion of the request."""
        by_id = reason == "stop" and stop is None
        text = decode(tokenizer, self.ids[:-1] if by_id else self.ids)
        if stop is not None:
            length, stop = first_stop(text, self.request.stop)
            text = text[:length]
        return Completion(
            ids=tuple(self.ids),
            logprobs=tuple(self.logprobs),
            text=text,
            finish_reason=reason,
            stop_string=stop,
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached,
        )


def refusal(
    request: Request, *, vocab: int, max_length: int, max_stop_ids: int, adapters: int
) -> Completion | None:
    """The completion of a request that cannot run; None where it can.

    Its reason is "error" where the request is malformed, "length" where the engine has
    no room for a single token of it.
    """
    problem = _problem(request, vocab, max_stop_ids, adapters)
    full = len(request.ids) >= max_length or request.sampling.max_new_tokens < 1
    if not problem and not full:
        return None
    reason: FinishReason = "error" if problem else "length"
    return Completion.nothing(reason, problem=problem)


def _problem(request: Request, vocab: int, max_stop_ids: int, adapters: int) -> str:
    """What is malformed about a request, and what to do; empty if nothing is."""
    if not request.ids:
        return "the prompt has no tokens: it needs one at least"
    for beyond in (min(request.ids), max(request.ids)):
        if not 0 <= beyond < vocab:
            return (
                f"token id {beyond}: the model has {vocab} of them: use the tokenizer "
                "of this model"
            )
    if (count := len(request.stop_ids)) > max_stop_ids:
        return f"{count} stop ids: exceed engine.max_stop_ids={max_stop_ids}: raise it"
    if not 0 <= request.adapter <= adapters:
        return f"adapter={request.adapter}: the engine has {adapters} of them"
    if problem := request.sampling.problem():
        return problem
    if not is_seed(request.seed64):
        return f"seed64={request.seed64}: must be a whole number from 0 to 2**64 - 1"
    return ""
