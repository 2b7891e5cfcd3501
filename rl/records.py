"""What passes between engine, learner and the program: requests, completions, data.

Fields may be added; none is ever reused for another meaning. Masks and log-probs are
made with the tokens and carried along: nothing derives them again from text or order.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from models.ranges import (
    TEMPERATURE,
    Count,
    CountOrZero,
    Range,
    Share,
    problem_of,
)

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one completion is sampled."""

    temperature: Annotated[float, TEMPERATURE] = 1.0
    """Divides the logits; 0 is greedy."""
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0
    """Sample only from the most likely tokens that together have this probability; 1 is
    off."""
    top_k: CountOrZero = 0
    """Sample only from this many most likely tokens; 0 is off."""
    min_p: Share = 0.0
    """Sample only tokens with at least this share of the most likely token's
    probability; 0 is off."""
    max_new_tokens: Count = 256
    """Most tokens to sample; the completion then ends with reason `length`."""

    def problem(self) -> str:
        """What is wrong with a field, and what it may be; empty if all are valid.

        Not that there is no room for a token: such a request has an empty completion.
        """
        return problem_of(self, but=("max_new_tokens",))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion to sample.

    Attributes:
      ids: prompt token ids.
      stop: strings; generation ends with the token that completes one of them, and the
        text is cut just after it (the stop string is kept).
      stop_ids: token ids that end generation; the id itself is kept in
        ``Completion.ids`` but not in its text.
      seed64: 64-bit seed of this completion (``rl.engine.sampling.seed64``).
      deadline: time on the clock of ``time.monotonic()``, in seconds, after which it
        ends as "cancelled".
      adapter: of the engine's adapters the one that samples it, from 1; 0: none, the
        model itself does.
    """

    ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed64: int = 0
    deadline: float | None = None
    adapter: int = 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What was sampled for one request.

    Attributes:
      ids: sampled token ids, up to and including the one that completed a stop string
        or the stop id.
      finish_reason: "error" where the request is malformed, or a log-prob was not
        finite: ``ids`` are those before it.
      problem: what is malformed about the request; empty where it is not.
      logprobs: float32 log-probability of each id under the untruncated,
        temperature-scaled policy; same length as ``ids``.
      text: decoded ``ids``, cut just after the first completed stop string, without
        the stop id.
      stop_string: the stop string that ended it, else None.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    stop_string: str | None = None
    problem: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @classmethod
    def nothing(
        cls, reason: FinishReason, *, prompt_tokens: int = 0, problem: str = ""
    ) -> "Completion":
        """Not a single token."""
        return cls(
            ids=(),
            logprobs=(),
            text="",
            finish_reason=reason,
            problem=problem,
            prompt_tokens=prompt_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Datum:
    """One training example: ``ids`` and, aligned with them, masks and log-probs.

    Attributes:
      ids: prompt and response tokens [T].
      loss_mask: 1 where the token counts in the loss [T].
      sampled_mask: 1 where the sampler chose the token [T]; loss_mask 1 with
        sampled_mask 0 marks trained tokens that a template wrote (a closing
        ``<|im_end|>``, a re-rendered call).
      logprobs: the sampler's log-prob where sampled, NaN elsewhere [T].
      advantage: the rollout's advantage, the same on every loss token.
      advantages: of each token [T], in place of ``advantage``; what is not in the loss
        may have any.
      teacher_logprobs: the teacher's log-prob of each token [T], NaN where it has none;
        read with ``LossConfig.distillation`` only.
      teacher_weight: of the distillation term on this datum's tokens.
      old_logprobs: of each token [T] under the policy that ratios are taken to, NaN for
        the policy before the update; for rollouts of an earlier step.
      outcome: 1 for a rollout that is right, 0 for one that is wrong; read with
        ``LossConfig.policy`` "nft" only, as is the next one.
      group_rate: share of the group's rollouts that are right.
      likelihood_weight: of the datum's own likelihood; read with
        ``LossConfig.likelihood`` only. Datums with 0 have no part in the term.
      uid: of the rollout, ``iteration/stage/step/prompt/sample``.
      turn: which of the rollout's datums it is, from 0.
    """

    uid: str
    turn: int
    ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    sampled_mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float = 0.0
    advantages: tuple[float, ...] | None = None
    teacher_logprobs: tuple[float, ...] | None = None
    teacher_weight: float = 1.0
    old_logprobs: tuple[float, ...] | None = None
    outcome: float = 0.0
    group_rate: float = 0.0
    likelihood_weight: float = 0.0
