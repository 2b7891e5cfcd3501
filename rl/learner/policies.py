"""The policy losses beside the clipped one, and what a teacher adds to advantages.

Per token, over packed rows [R, T], as in ``losses``; ``policy_term`` chooses.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from rl.learner import losses
from rl.learner.losses import LOG_RATIO_BOUND, UPPER_BOUND, LossConfig, clip


def policy_term(
    logprobs: Float[Array, "R T"],
    old_logprobs: Float[Array, "R T"],
    micro: dict[str, Array],
    config: LossConfig,
) -> tuple[Float[Array, "R T"], Float[Array, "R T"], Float[Array, "R T"]]:
    """Returns each token's policy loss, and where ratio and dual clip act.

    Args:
      logprobs: log-probs of the policy that is differentiated.
      old_logprobs: those that ratios are taken to; constants.
      micro: [R, T] arrays of ``packing.PackedBatch``.
      config: its ``policy`` chooses the loss.
    """
    mask, advantages = micro["loss_mask"], micro["advantages"]
    if config.distillation:
        advantages = advantages + teacher_advantages(
            old_logprobs,
            micro["teacher_logprobs"],
            micro["teacher_weights"],
            config.distillation,
        )
    given = (logprobs, old_logprobs, advantages, mask, config)
    if config.policy == "clip":
        segments = {"segment_ids": micro["segment_ids"]}
        each = losses.policy_loss(*given, **segments)
        return each, *losses.clip_indicators(*given, **segments)
    outside = nothing = jnp.zeros_like(logprobs)
    if config.policy == "nft":
        rates = micro["group_rates"]
        each = nft_loss(*given[:2], micro["outcomes"], rates, mask, config)
    elif config.policy == "sapo":
        each = sapo_loss(*given)
    else:
        each = cispo_loss(*given)
        ratio = jnp.exp(_log_ratio(logprobs, old_logprobs, mask))
        clipped = (ratio < 1 - config.clip_low) | (ratio > 1 + config.clip_high)
        outside = clipped.astype(jnp.float32)
    return each, outside, nothing


def nft_loss(
    logprobs: Float[Array, "R T"],
    old_logprobs: Float[Array, "R T"],
    outcomes: Float[Array, "R T"],
    rates: Float[Array, "R T"],
    mask: Int[Array, "R T"],
    config: LossConfig,
) -> Float[Array, "R T"]:
    """Returns NFT's loss: likelihood of right answers, and of what wrong ones are not.

    Wrong answers train the policy that is left if the old one's wrong answers are taken
    out of it. That policy's ratio P is at least 1 in the loss; its gradient stays.
    Groups that are all right or all wrong give 0.

    Args:
      outcomes: 1 where the token's rollout is right, else 0.
      rates: q, share of right rollouts in its group; clipped to [0.02, 0.98].

    Formula:
      f(q) (-c log R - (1 - c) nft_negative log max(P, 1)), c outcome, q share of right
      ones, R = exp(min(log rho, 10)), P = (1 - q R) / (1 - q), f = sqrt((1 - q) / q)
      or 1 - q

    References:
      Chen et al., NFT (arXiv 2505.18116)
    """
    log_ratio = clip(_difference(logprobs, old_logprobs, mask), -jnp.inf, UPPER_BOUND)
    q = jnp.clip(rates, 0.02, 0.98)
    rest = (1.0 - q * jnp.exp(log_ratio)) / (1.0 - q)
    at_least_1 = rest + jax.lax.stop_gradient(jnp.maximum(rest, 1.0) - rest)
    negative = -config.nft_negative * jnp.log(at_least_1)
    balance = 1.0 - q if config.nft_balance == "rate" else jnp.sqrt((1.0 - q) / q)
    each = balance * (outcomes * -log_ratio + (1.0 - outcomes) * negative)
    return jnp.where((mask != 0) & (rates > 0) & (rates < 1), each, 0.0)


def sapo_loss(
    logprobs: Float[Array, "R T"],
    old_logprobs: Float[Array, "R T"],
    advantages: Float[Array, "R T"],
    mask: Int[Array, "R T"],
    config: LossConfig,
) -> Float[Array, "R T"]:
    """Returns the loss with a soft gate on the ratio in place of the clip.

    Arguments as for ``losses.policy_loss``.

    Formula:
      -A (4 / tau) sigmoid(tau (rho - 1)), tau sapo_positive where A > 0, else
      sapo_negative

    References:
      Gao et al., SAPO (arXiv 2511.20347)
    """
    ratio = jnp.exp(_log_ratio(logprobs, old_logprobs, mask))
    tau = jnp.where(advantages > 0, config.sapo_positive, config.sapo_negative)
    each = -advantages * (4.0 / tau) * jax.nn.sigmoid(tau * (ratio - 1.0))
    return jnp.where(mask != 0, each, 0.0)


def cispo_loss(
    logprobs: Float[Array, "R T"],
    old_logprobs: Float[Array, "R T"],
    advantages: Float[Array, "R T"],
    mask: Int[Array, "R T"],
    config: LossConfig,
) -> Float[Array, "R T"]:
    """Returns the log-prob, weighted by the clipped ratio: no token loses its gradient.

    Arguments as for ``losses.policy_loss``. The paper clips above only: ``clip_low`` 1.

    Formula:
      -sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi

    References:
      MiniMax-M1 (arXiv 2506.13585), eq. 4
    """
    ratio = jnp.exp(_log_ratio(logprobs, old_logprobs, mask))
    weight = jnp.clip(ratio, 1.0 - config.clip_low, 1.0 + config.clip_high)
    each = -jax.lax.stop_gradient(weight) * advantages
    return jnp.where(mask != 0, each * jnp.where(mask != 0, logprobs, 0.0), 0.0)


def teacher_advantages(
    old_logprobs: Float[Array, "R T"],
    teacher_logprobs: Float[Array, "R T"],
    weights: Float[Array, "R T"],
    coefficient: float,
) -> Float[Array, "R T"]:
    """Returns what a teacher adds to each token's advantage, a constant.

    The gradient of the policy loss is then that of the KL divergence of policy and
    teacher, sampled. That of the log-ratio itself, on sampled tokens, has mean 0: the
    teacher is not in it.

    Args:
      weights: of each token; 0 where it has no teacher.

    Formula:
      A_t + distillation w sg(log teacher - log old)

    References:
      Step-aligned critiques (arXiv 2606.11173); Schulman et al., Stochastic Computation
      Graphs (2015), for the gradient
    """
    away = jnp.where(weights != 0, teacher_logprobs - old_logprobs, 0.0)
    return jax.lax.stop_gradient(coefficient * weights * away)


def _difference(logprobs: Array, old_logprobs: Array, mask: Array) -> Array:
    """The log-ratio; inside where, so that NaN of masked tokens reaches no gradient."""
    return jnp.where(mask != 0, logprobs - old_logprobs, 0.0)


def _log_ratio(logprobs: Array, old_logprobs: Array, mask: Array) -> Array:
    log_ratio = _difference(logprobs, old_logprobs, mask)
    return clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
