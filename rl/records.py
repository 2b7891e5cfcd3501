"""The records that cross rooms: all that leaves a rollout, all that enters an update.

Fields may be added; none is ever re-used for another meaning. Masks, groups and uids
are born with the tokens and carried: nothing re-derives them from text or from order.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one completion is sampled."""

    temperature: float = 1.0
    """Logits are divided by it; 0 is greedy."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability; 1 is off."""
    top_k: int = 0
    """Only so many likeliest tokens; 0 is off."""
    min_p: float = 0.0
    """Only tokens with this share of the likeliest token's probability; 0 is off."""
    max_new_tokens: int = 256
    """Tokens after which it ends, with reason `length`."""

    def problem(self) -> str:
        """What is wrong with a field, and what it may be; empty when nothing is."""
        checks = (
            ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0, and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("min_p", 0 <= self.min_p <= 1, "within 0..1"),
        )
        for name, holds, allowed in checks:
            if not holds:
                return f"{name}={getattr(self, name)}: must be {allowed}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion to sample.

    Attributes:
      ids: prompt token ids.
      stop: strings; generation ends with the token that completes one of them, and the
        text is cut just behind it (the stop string is kept).
      stop_ids: token ids that end generation; the id itself is kept in
        ``Completion.ids`` but not in its text.
      seed64: 64-bit seed of this completion (``rl.sampling.seed64``).
      deadline: seconds of ``time.monotonic()`` after which it ends "cancelled".
      fork_of: id of a submitted request or retained prefix whose cache may be copied.
    """

    ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed64: int = 0
    deadline: float | None = None
    fork_of: int | None = None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What was sampled for one Request.

    Attributes:
      ids: sampled token ids, up to and including the one that completed a stop string
        or the stop id.
      logprobs: float32 log-probability of each id under the untruncated,
        temperature-scaled policy; same length as ``ids``.
      text: decoded ``ids``, cut just behind the first completed stop string, without
        the stop id.
      stop_string: the stop string that ended it, else None.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    stop_string: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a trajectory. ``ids`` are exactly its tokens in the trajectory."""

    role: str
    text: str
    ids: tuple[int, ...]
    kind: Literal["sampled", "environment"]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, kw_only=True)
class Datum:
    """One row of an update: ``ids`` and, aligned with them, masks and log-probs.

    Attributes:
      ids: prompt and response tokens [T].
      loss_mask: 1 where the token counts in the loss [T].
      sampled_mask: 1 where the sampler chose the token [T]; loss_mask 1 with
        sampled_mask 0 marks trained tokens that a template wrote (a closing
        ``<|im_end|>``, a re-rendered call).
      logprobs: the sampler's log-prob where sampled, NaN elsewhere [T].
      advantage: the rollout's advantage, the same on every loss token.
      uid: ``iteration/stage/step/prompt/sample``; ``turn``: row within the rollout.
    """

    uid: str
    turn: int
    ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    sampled_mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One finished rollout: its conversation for people, its rows for the update.

    Attributes:
      uid: ``iteration/stage/step/prompt/sample``.
      group: index of the prompt within the step; the G rollouts of a group share it.
      role: "challenger" or "solver".
      messages: the conversation as role/content dictionaries, prompt included.
      turns: every message after the prompt, in order, with its tokens.
      rows: what an update trains on, one row for append-only chat templates, one a turn
        where a template rewrites history (spec 12.4). Advantages are filled in later.
      finish_reason: "done" (ended by its own rules), "turns", "length", "error".
      trace: how it went, in words and numbers, for people.
    """

    uid: str
    group: int
    role: str
    messages: tuple[dict[str, Any], ...]
    turns: tuple[Turn, ...]
    rows: tuple[Datum, ...]
    finish_reason: Literal["done", "turns", "length", "error"]
    trace: dict[str, Any] = field(default_factory=dict)
