"""The clipped policy loss, the penalty towards the reference, and token weights.

Losses are per token, over packed rows [R, T]. Masked positions may hold anything, NaN
included: they give 0, and no gradient.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from models.errors import UserError
from models.ranges import (
    NOT_NEGATIVE,
    POSITIVE,
    Count,
    Finite,
    Range,
    Share,
    check_fields,
)

# Bounds of a log-ratio before exp, and of the k3 estimate, as in the method: beyond
# them the term is constant and gives no gradient.
LOG_RATIO_BOUND = 20.0
K3_BOUND = 10.0
# Bound above of a sequence's log-ratio, as in GSPO's and NFT's published code.
UPPER_BOUND = 10.0

Aggregation = Literal["token_mean", "row_mean", "constant_length", "micro_batch_mean"]
KlKind = Literal["k1", "k2", "k3"]
Policy = Literal["clip", "nft", "sapo", "cispo"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The GRPO loss (clipped surrogate plus a penalty towards the reference)."""

    policy: Policy = "clip"
    """What the probability ratio does to a token's loss: clipped on the side where it
    would pay to go on (PPO); NFT's likelihood of right and of not-wrong answers, which
    reads no advantage; SAPO's soft gate; or CISPO's clipped weight of the log-prob."""
    ratio: Literal["token", "sequence"] = "token"
    """What a probability ratio belongs to: a token, or a training example as a whole,
    whose mean log-ratio all its tokens then have (GSPO)."""
    clip_low: Annotated[float, NOT_NEGATIVE] = 0.2
    """A token's probability ratio is clipped below at 1 - clip_low."""
    clip_high: Annotated[float, NOT_NEGATIVE] = 0.2
    """A token's probability ratio is clipped above at 1 + clip_high."""
    sequence_clip_low: Annotated[float, NOT_NEGATIVE] = 3e-4
    """As clip_low, with ratio "sequence"; a mean over tokens hardly moves."""
    sequence_clip_high: Annotated[float, NOT_NEGATIVE] = 4e-4
    """As clip_high, with ratio "sequence"."""
    dual_clip: Annotated[float, Range(above=1)] = 3.0
    """Largest loss of a token with negative advantage, in units of -advantage; at 1 or
    less it would bound the loss of unchanged tokens too. Not with ratio "sequence"."""
    nft_negative: Share = 1.0
    """Weight of wrong answers with policy "nft"; 0 trains on right ones only."""
    nft_balance: Literal["deviation", "rate"] = "deviation"
    """How policy "nft" weights a group with share q of right answers: sqrt((1 - q) / q)
    as GRPO with a standard deviation does, or 1 - q as without one."""
    sapo_positive: Annotated[float, POSITIVE] = 1.0
    """Temperature of the gate of policy "sapo" where the advantage is positive."""
    sapo_negative: Annotated[float, POSITIVE] = 1.05
    """And where it is not: a steeper gate."""
    kl_coefficient: Annotated[float, NOT_NEGATIVE] = 0.001
    """Weight of the penalty towards the reference policy; 0 runs no reference pass."""
    kl_kind: KlKind = "k3"
    """Estimator of the penalty; k3 is exp(d) - d - 1 with d = ref - policy log-prob."""
    entropy_coefficient: Finite = 0.0
    """Weight of the policy's entropy, which is raised (or, below 0, lowered)."""
    distillation: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the log-ratio of a teacher to the policy before the update, which is
    added to the advantage of tokens that have a teacher."""
    likelihood: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the negative log-likelihood of training examples that are given a
    weight of their own."""
    aggregation: Aggregation | None = None
    """How tokens are weighted: the mean over all tokens of the optimizer batch; the
    mean over training examples of each example's token mean; the mean over examples of
    each example's sum divided by constant_length; or the mean over chunks of group_rows
    examples of each chunk's token mean (the reference's micro-batches). None:
    token_mean, or row_mean with ratio "sequence"."""
    group_rows: Count = 2
    """Training examples (datums, not packed rows) per chunk under aggregation
    "micro_batch_mean"; otherwise unused."""
    constant_length: Count = 8192
    """Divisor of each training example's sum under aggregation "constant_length";
    otherwise unused."""
    importance_cap: Annotated[float, NOT_NEGATIVE] = 0.0
    """Sampled tokens' policy losses are weighted by the probability ratio of trainer to
    sampler before the update, capped at this (2 is usual); 0 is off."""

    def __post_init__(self):
        check_fields(self)
        if self.ratio == "sequence" and self.policy != "clip":
            raise UserError(
                f'ratio="sequence": has no meaning with policy="{self.policy}", whose '
                "formula is about tokens: leave one of them at its default"
            )
        if self.distillation and self.policy == "nft":
            raise UserError(
                f"distillation={self.distillation}: adds to advantages, which "
                'policy="nft" does not read: choose another policy, or 0'
            )

    @property
    def averaging(self) -> Aggregation:
        """The aggregation, chosen or by the kind of ratio."""
        by_ratio = "row_mean" if self.ratio == "sequence" else "token_mean"
        return self.aggregation or by_ratio


def policy_loss(
    logprobs: Float[Array, "R T"],
    old_logprobs: Float[Array, "R T"],
    advantages: Float[Array, "R T"],
    mask: Int[Array, "R T"],
    config: LossConfig,
    *,
    segment_ids: Int[Array, "R T"] | None = None,
) -> Float[Array, "R T"]:
    """Returns the clipped surrogate loss of each token.

    The ratio is clipped to [1 - clip_low, 1 + clip_high]; with a negative advantage the
    loss is at most ``-advantage * dual_clip``. With ratio "sequence" it is that of
    ``sequence_log_ratio``, and there is no such bound.

    Args:
      logprobs: log-probs of the policy that is differentiated.
      old_logprobs: log-probs of the policy before the update; treated as constant by
        the caller.
      advantages: of each token's datum.
      mask: non-zero where the token counts.
      segment_ids: of each token's datum, for ratio "sequence".

    Formula:
      max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high))

    References:
      Schulman et al., PPO (2017), eq. 7; Ye et al., dual-clip PPO (2020), eq. 5.
      [clip-higher] Yu et al., DAPO (arXiv 2503.14476), section 3.1
    """
    unclipped, clipped, bound = _surrogates(
        logprobs, old_logprobs, advantages, mask, config, segment_ids
    )
    loss = jnp.maximum(unclipped, clipped)
    loss = jnp.where(advantages < 0, jnp.minimum(bound, loss), loss)
    return jnp.where(mask != 0, loss, 0.0)


def clip_indicators(
    logprobs: Float[Array, "R T"],
    old_logprobs: Float[Array, "R T"],
    advantages: Float[Array, "R T"],
    mask: Int[Array, "R T"],
    config: LossConfig,
    *,
    segment_ids: Int[Array, "R T"] | None = None,
) -> tuple[Float[Array, "R T"], Float[Array, "R T"]]:
    """Returns 1.0 where the ratio clip acts, and 1.0 where the dual clip does.

    Arguments as for ``policy_loss``; masked positions give 0.
    """
    unclipped, clipped, bound = _surrogates(
        logprobs, old_logprobs, advantages, mask, config, segment_ids
    )
    counts = mask != 0
    ratio_clip = counts & (clipped > unclipped)
    dual = counts & (advantages < 0) & (jnp.maximum(unclipped, clipped) > bound)
    return ratio_clip.astype(jnp.float32), dual.astype(jnp.float32)


def kl_penalty(
    logprobs: Float[Array, "R T"],
    reference_logprobs: Float[Array, "R T"],
    *,
    kind: KlKind,
) -> Float[Array, "R T"]:
    """Returns an estimate of KL(policy || reference) at each sampled token.

    Args:
      logprobs: log-probs of the policy.
      reference_logprobs: log-probs of the reference policy.
      kind: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 ("low_var_kl"), where d is
        ``reference_logprobs - logprobs`` clipped to +-20; k3 is clipped to +-10.

    References:
      Schulman, Approximating KL divergence (2020).
    """
    d = clip(reference_logprobs - logprobs, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    if kind == "k1":
        return -d
    if kind == "k2":
        return 0.5 * jnp.square(d)
    return clip(jnp.exp(d) - d - 1.0, -K3_BOUND, K3_BOUND)


def sequence_log_ratio(
    log_ratio: Float[Array, "R T"],
    mask: Int[Array, "R T"],
    segment_ids: Int[Array, "R T"],
) -> Float[Array, "R T"]:
    """Returns, for each token, the mean log-ratio of its datum.

    Its value is that of the datum, its gradient that of the token's own log-ratio.

    Args:
      log_ratio: of each token; 0 where ``mask`` is.
      mask: non-zero where the token counts.
      segment_ids: of each token's datum; a row holds several.

    Formula:
      max(-A s, -A clip(s, 1 - sequence_clip_low, 1 + sequence_clip_high)),
      log s_t = min(sg(mean_t log rho - log rho_t) + log rho_t, 10)

    References:
      Zheng et al., GSPO (arXiv 2507.18071), eq. 5 and 12
    """
    fixed = jax.lax.stop_gradient(log_ratio)
    starts = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1] - 1) != 0
    both = jnp.stack([fixed, (mask != 0).astype(fixed.dtype)])
    total = _segment_sums(both, jnp.broadcast_to(starts, both.shape))
    mean = total[0] / jnp.maximum(total[1], 1.0)
    return mean + (log_ratio - fixed)


def importance_weights(
    old_logprobs: Float[Array, "R T"],
    sampler_logprobs: Float[Array, "R T"],
    sampled_mask: Int[Array, "R T"],
    *,
    cap: float,
) -> Float[Array, "R T"]:
    """Returns the truncated weight of each token's policy loss, a constant.

    The sampler's program differs from the trainer's, and so does its policy: a sampled
    token gets the weight ``min(exp(old - sampler), cap)``, any other token 1.

    Formula:
      loss_t * sg(min(old / sampler, cap))

    References:
      Ionides, Truncated Importance Sampling (2008)
    """
    log_ratio = jnp.where(sampled_mask != 0, old_logprobs - sampler_logprobs, 0.0)
    log_ratio = jnp.clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio), cap))


def token_weights(
    tokens: Int[np.ndarray, " datums"], config: LossConfig, *, full_batch: int = 0
) -> Float[np.ndarray, " datums"]:
    """Returns the weight of every loss token of each datum; the loss is a weighted sum.

    Weights depend on the whole optimizer batch, and not at all on how its datums are
    packed, cut into micro-batches or spread over devices.

    Args:
      tokens: number of loss tokens of each datum of the optimizer batch, in data order.
      config: its ``aggregation`` says how, see there.
      full_batch: datums of a full optimizer batch. "micro_batch_mean" divides by the
        number of its chunks even if the last batch has fewer, as the reference does; 0
        means the actual number of chunks.

    Formula:
      [constant length] mean over examples of sum_t loss_t / constant_length

    References:
      [constant length] Liu et al., Dr. GRPO (arXiv 2503.20783)
    """
    tokens = np.asarray(tokens, np.float64)
    datums = tokens.size
    if datums == 0:
        return tokens
    if config.averaging == "constant_length":
        return np.full(datums, 1.0 / (datums * config.constant_length))
    # Datums per chunk, whose tokens are averaged before the mean over chunks.
    sizes = {"token_mean": datums, "row_mean": 1, "micro_batch_mean": config.group_rows}
    size = sizes[config.averaging]
    chunk = np.arange(datums) // size
    in_chunk = np.bincount(chunk, weights=tokens)[chunk]
    chunks = chunk[-1] + 1
    if config.averaging == "micro_batch_mean" and full_batch:
        chunks = -(-full_batch // size)
    return 1.0 / (np.maximum(in_chunk, 1.0) * chunks)


def clip(x: Array, low: float, high: float) -> Array:
    """``jnp.clip`` whose derivative at a bound is 1, as torch's is, and not 1/2.

    With a clip range of 0, every token of a first update is at both bounds. NaN is
    beyond no bound, so its derivative is NaN: the update that it would ruin is skipped.
    """
    beyond = (x < low) | (x > high)
    return jnp.where(beyond, jax.lax.stop_gradient(jnp.clip(x, low, high)), x)


def _segment_sums(x: Array, starts: Array) -> Array:
    """The sum of each segment, along the last axis, at each of its positions.

    As scans, which add in the same order on every device and in every run; a GPU's
    scatter does not.
    """

    def add(left: tuple[Array, Array], right: tuple[Array, Array]):
        (a, a_starts), (b, b_starts) = left, right
        return jnp.where(b_starts, b, a + b), a_starts | b_starts

    def scan(x: Array, starts: Array, *, reverse: bool) -> Array:
        axis = x.ndim - 1
        return jax.lax.associative_scan(add, (x, starts), axis=axis, reverse=reverse)[0]

    ends = jnp.roll(starts, -1, axis=-1).at[..., -1].set(True)
    before, after = scan(x, starts, reverse=False), scan(x, ends, reverse=True)
    return before + after - x


def _surrogates(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    mask: Array,
    c: LossConfig,
    segment_ids: Array | None,
) -> tuple[Array, Array, Array]:
    """The unclipped and clipped losses, and the dual clip's bound."""
    # Inside where, so that NaN at masked positions reaches neither value nor gradient.
    log_ratio = jnp.where(mask != 0, logprobs - old_logprobs, 0.0)
    if c.ratio == "sequence":
        log_ratio = sequence_log_ratio(log_ratio, mask, segment_ids)
        ratio = jnp.exp(clip(log_ratio, -jnp.inf, UPPER_BOUND))
        low, high = c.sequence_clip_low, c.sequence_clip_high
        clipped = clip(ratio, 1.0 - low, 1.0 + high)
        return -advantages * ratio, -advantages * clipped, jnp.full_like(ratio, jnp.inf)
    ratio = jnp.exp(clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))
    clipped = clip(ratio, 1.0 - c.clip_low, 1.0 + c.clip_high)
    return -advantages * ratio, -advantages * clipped, -advantages * c.dual_clip
