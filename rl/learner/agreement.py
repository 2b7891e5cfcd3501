"""How far the trainer's log-probs are from those the sampler reported.

The two run different programs (cached decoding in one, packed rows in the other), so
they agree only up to rounding. A larger gap means wrong positions, masks, weights or
temperature, and shows here before it shows in any reward.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

ALARM = 1.05  # NeMo-RL's bound on the multiplicative probability error


def token_sums(
    logprobs: Float[Array, "B T"],
    sampler_logprobs: Float[Array, "B T"],
    sampled_mask: Int[Array, "B T"],
) -> dict[str, Float[Array, ""]]:
    """Returns sums over sampled tokens, to be added over micro-batches.

    ``gap_max`` is a maximum: combine it with ``max``.
    """
    counts = sampled_mask != 0
    gap = jnp.where(counts, jnp.abs(logprobs - sampler_logprobs), 0.0)
    return {
        "sampled": jnp.sum(counts, dtype=jnp.float32),
        "gap": jnp.sum(gap),
        "error": jnp.sum(jnp.where(counts, jnp.exp(jnp.minimum(gap, 20.0)), 0.0)),
        "gap_max": jnp.max(gap, initial=0.0),
    }


def summarize(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of ``token_sums``' totals.

    ``agree/mean`` and ``agree/max`` are of |trainer - sampler| log-prob;
    ``agree/prob_error`` is the mean of its exponential, 1 at perfect agreement.
    """
    sampled = float(sums["sampled"])
    return {
        "agree/mean": float(sums["gap"]) / max(sampled, 1.0),
        "agree/max": float(sums["gap_max"]),
        "agree/prob_error": float(sums["error"]) / sampled if sampled else 1.0,
    }


def alarm(metrics: Mapping[str, float]) -> str | None:
    """Returns one line for a person if sampler and trainer disagree, else None."""
    error = metrics["agree/prob_error"]
    if error <= ALARM:  # NaN falls through to the alarm
        return None
    return (
        f"sampler and trainer disagree: probability error {error:.3f} exceeds "
        f"{ALARM} (largest log-prob gap {metrics['agree/max']:.3f}): check the "
        "temperature, the chat template and which weights the sampler holds"
    )
