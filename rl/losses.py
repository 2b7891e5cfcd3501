"""The clipped policy loss, the penalty towards the reference, and how tokens weigh.

All functions are per token and shape-preserving; "rows" below may be datums or packed
rows. Masked positions may hold anything, NaN included: they give 0, and no gradient.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from models.errors import UserError

# Bounds of a log-ratio before exp, and of the k3 estimate, as in the method: beyond
# them the term is constant and gives no gradient.
LOG_RATIO_BOUND = 20.0
K3_BOUND = 10.0

Aggregation = Literal["token_mean", "row_mean", "constant_length", "micro_batch_mean"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The GRPO loss (clipped surrogate plus a penalty towards the reference)."""

    clip_low: float = 0.2
    """The probability ratio is clipped below at 1 - clip_low."""
    clip_high: float = 0.2
    """The probability ratio is clipped above at 1 + clip_high."""
    dual_clip: float = 3.0
    """Largest loss of a token with negative advantage, in units of -advantage."""
    kl_coefficient: float = 0.001
    """Weight of the penalty towards the reference policy; 0 runs no reference pass."""
    kl_kind: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the penalty; k3 is exp(d) - d - 1 with d = ref - policy log-prob."""
    aggregation: Aggregation = "token_mean"
    """How tokens weigh: the mean over all tokens of the optimizer batch, the mean over
    rows of each row's token mean, the mean over rows of each row's sum divided by
    constant_length, or the mean over groups of group_rows rows of each group's token
    mean (the reference's micro-batches)."""
    group_rows: int = 2
    """Rows a group under aggregation "micro_batch_mean"; otherwise unused."""
    constant_length: int = 8192
    """Divisor of each row's sum under aggregation "constant_length"; else unused."""
    importance_cap: float = 0.0
    """Sampled tokens' policy losses are weighed by the probability ratio of trainer to
    sampler before the update, at most this (2 is usual); 0 is off."""

    def __post_init__(self):
        for name in ("clip_low", "clip_high", "kl_coefficient", "importance_cap"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)}: must not be negative")
        if not self.dual_clip > 1:
            raise UserError(
                f"dual_clip={self.dual_clip}: bounds the loss of tokens that did not "
                "change as well: make it greater than 1"
            )
        for name in ("group_rows", "constant_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")


def policy_loss(
    logprobs: Float[Array, "rows T"],
    old_logprobs: Float[Array, "rows T"],
    advantages: Float[Array, " rows"] | Float[Array, "rows T"],
    mask: Float[Array, "rows T"] | Int[Array, "rows T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 3.0,
) -> Float[Array, "rows T"]:
    """Returns the clipped surrogate loss of each token.

    Args:
      logprobs: log-probs of the policy that is differentiated.
      old_logprobs: log-probs of the policy before the update; treated as constant by
        the caller.
      advantages: one a row, or one a token where a row holds several datums.
      mask: non-zero where the token counts.
      clip_low: the ratio is clipped below at ``1 - clip_low``.
      clip_high: the ratio is clipped above at ``1 + clip_high``.
      dual_clip: with a negative advantage, loss at most ``-advantage * dual_clip``.

    References:
      Schulman et al., PPO (2017), eq. 7; Ye et al., dual-clip PPO (2020), eq. 5.
    """
    advantages = _per_token(advantages, logprobs)
    unclipped, clipped, bound = _surrogates(
        logprobs, old_logprobs, advantages, mask, clip_low, clip_high, dual_clip
    )
    loss = jnp.maximum(unclipped, clipped)
    loss = jnp.where(advantages < 0, jnp.minimum(bound, loss), loss)
    return jnp.where(mask != 0, loss, 0.0)


def clip_indicators(
    logprobs: Float[Array, "rows T"],
    old_logprobs: Float[Array, "rows T"],
    advantages: Float[Array, " rows"] | Float[Array, "rows T"],
    mask: Float[Array, "rows T"] | Int[Array, "rows T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 3.0,
) -> tuple[Float[Array, "rows T"], Float[Array, "rows T"]]:
    """Returns 1.0 where the ratio clip acts, and 1.0 where the dual clip does.

    Arguments as for ``policy_loss``; masked positions give 0.
    """
    advantages = _per_token(advantages, logprobs)
    unclipped, clipped, bound = _surrogates(
        logprobs, old_logprobs, advantages, mask, clip_low, clip_high, dual_clip
    )
    counts = mask != 0
    ratio_clip = counts & (clipped > unclipped)
    dual = counts & (advantages < 0) & (jnp.maximum(unclipped, clipped) > bound)
    return ratio_clip.astype(jnp.float32), dual.astype(jnp.float32)


def kl_penalty(
    logprobs: Float[Array, "rows T"],
    reference_logprobs: Float[Array, "rows T"],
    *,
    kind: Literal["k1", "k2", "k3"] = "k3",
) -> Float[Array, "rows T"]:
    """Returns an estimate of KL(policy || reference) at each sampled token.

    Args:
      logprobs: log-probs of the policy.
      reference_logprobs: log-probs of the reference policy.
      kind: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 ("low_var_kl"), where d is
        ``reference_logprobs - logprobs`` bounded to +-20; k3 is bounded to +-10.

    References:
      Schulman, Approximating KL divergence (2020).
    """
    d = jnp.clip(reference_logprobs - logprobs, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    if kind == "k1":
        return -d
    if kind == "k2":
        return 0.5 * jnp.square(d)
    if kind == "k3":
        return jnp.clip(jnp.exp(d) - d - 1.0, -K3_BOUND, K3_BOUND)
    raise ValueError(f"kl kind {kind!r} is none of k1, k2, k3")


def importance_weights(
    old_logprobs: Float[Array, "rows T"],
    sampler_logprobs: Float[Array, "rows T"],
    sampled_mask: Float[Array, "rows T"] | Int[Array, "rows T"],
    *,
    cap: float,
) -> Float[Array, "rows T"]:
    """Returns the truncated weight of each token's policy loss, a constant.

    The sampler runs another program than the trainer, and so another policy: its tokens
    stand for the trainer's with weight ``min(exp(old - sampler), cap)``. Tokens that
    were not sampled weigh 1.

    References:
      Ionides, Truncated Importance Sampling (2008).
    """
    log_ratio = jnp.where(sampled_mask != 0, old_logprobs - sampler_logprobs, 0.0)
    log_ratio = jnp.clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio), cap))


def token_weights(
    tokens: Int[np.ndarray, " rows"],
    *,
    mode: Aggregation = "token_mean",
    group_rows: int = 2,
    constant_length: int = 8192,
    full_rows: int = 0,
) -> Float[np.ndarray, " rows"]:
    """Returns the weight of every loss token of each row; the loss is a weighted sum.

    Weights depend on the whole optimizer batch, and on nothing of how its rows are
    packed, cut into micro-batches or spread over devices.

    Args:
      tokens: number of loss tokens of each row of the optimizer batch, in data order.
      mode: "token_mean"; "row_mean"; "constant_length", the mean over rows of the sum
        divided by ``constant_length``; or "micro_batch_mean", the mean over groups of
        ``group_rows`` neighbouring rows of the token mean in each group.
      group_rows: see ``mode``.
      constant_length: see ``mode``.
      full_rows: rows of a full optimizer batch. "micro_batch_mean" divides by its
        groups also where the last batch has fewer, as the reference does; 0: by those
        that are there.

    References:
      Liu et al., Dr. GRPO (2025), for "constant_length".
    """
    tokens = np.asarray(tokens, np.float64)
    rows = tokens.size
    if rows == 0:
        return tokens
    if mode == "constant_length":
        return np.full(rows, 1.0 / (rows * constant_length))
    size = _group_size(mode, rows, group_rows)
    group = np.arange(rows) // size
    in_group = np.bincount(group, weights=tokens)[group]
    groups = group[-1] + 1
    if mode == "micro_batch_mean" and full_rows:
        groups = -(-full_rows // size)
    return 1.0 / (np.maximum(in_group, 1.0) * groups)


def aggregate(
    x: Float[Array, "rows T"],
    mask: Float[Array, "rows T"] | Int[Array, "rows T"],
    *,
    mode: Aggregation = "token_mean",
    group_rows: int = 2,
    constant_length: int = 8192,
) -> Float[Array, ""]:
    """Returns the scalar loss of per-token losses ``x`` where ``mask`` is 1.

    Args:
      x: per-token values, one datum a row.
      mask: non-zero where the token counts.
      mode: see ``token_weights``.
      group_rows, constant_length: see ``token_weights``.
    """
    rows = x.shape[0]
    if mode == "constant_length":
        return jnp.where(mask != 0, x, 0.0).sum() / (rows * constant_length)
    group = np.arange(rows) // _group_size(mode, rows, group_rows)
    groups = int(group[-1]) + 1
    counts = jnp.asarray(mask != 0, jnp.float32).sum(axis=1)
    sums = jnp.where(mask != 0, x, 0.0).sum(axis=1)
    counts = jnp.zeros(groups).at[group].add(counts)
    sums = jnp.zeros(groups).at[group].add(sums)
    return jnp.mean(sums / jnp.maximum(counts, 1.0))


def _group_size(mode: Aggregation, rows: int, group_rows: int) -> int:
    """Rows whose tokens are averaged together before the mean over groups."""
    sizes = {"token_mean": rows, "row_mean": 1, "micro_batch_mean": group_rows}
    if mode not in sizes:
        raise ValueError(
            f"aggregation {mode!r} is none of {', '.join(get_args(Aggregation))}"
        )
    return sizes[mode]


def _per_token(advantages: Array, logprobs: Array) -> Array:
    advantages = jnp.asarray(advantages)
    if advantages.ndim == logprobs.ndim - 1:
        advantages = advantages[:, None]
    return jnp.broadcast_to(advantages, logprobs.shape)


def _surrogates(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    mask: Array,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> tuple[Array, Array, Array]:
    """The unclipped and clipped losses, and the dual clip's bound."""
    # Inside where, so that NaN at masked positions reaches neither value nor gradient.
    log_ratio = jnp.where(mask != 0, logprobs - old_logprobs, 0.0)
    ratio = jnp.exp(jnp.clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    return -advantages * ratio, -advantages * clipped, -advantages * dual_clip
