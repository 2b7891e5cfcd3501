"""Group-relative advantages: a rollout's reward against its siblings'."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

EPSILON = 1e-6  # added to the standard deviation


def group_advantages(
    rewards: Sequence[float] | Float[np.ndarray, " rollouts"],
    group_ids: Sequence[int],
) -> Float[np.ndarray, " rollouts"]:
    """Returns each rollout's reward relative to the rollouts of the same prompt.

    ``(r - mean) / (std + epsilon)`` with the sample standard deviation (divisor G - 1).
    A group of one keeps its reward (mean 0, standard deviation 1), as the method does.

    Args:
      rewards: one finite reward per rollout.
      group_ids: the prompt of each rollout; the ids need not be sorted.

    Returns:
      float64 advantages in the order of ``rewards``. Groups of equal rewards get
      exactly 0, so that callers can count them.

    Raises:
      ValueError: if lengths differ or a reward isn't finite.

    References:
      Shao et al., DeepSeekMath (2024), section 4.1.1.
    """
    rewards = np.asarray(rewards, np.float64)
    groups = np.asarray(group_ids)
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(
            f"rewards of shape {rewards.shape} and group ids of shape {groups.shape}: "
            "give one of each per rollout"
        )
    if not np.isfinite(rewards).all():
        bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"reward {rewards[bad]} of rollout {bad} is not finite")
    out = np.zeros_like(rewards)
    for group in np.unique(groups):
        members = groups == group
        own = rewards[members]
        if own.size == 1:
            out[members] = own / (1.0 + EPSILON)
        # Equal rewards: their mean can differ from them in the last bit, and that
        # difference over epsilon would be a small advantage made of rounding.
        elif np.ptp(own) > 0.0:
            out[members] = (own - own.mean()) / (own.std(ddof=1) + EPSILON)
    return out
