"""Group-relative advantages: a rollout's reward against its siblings'."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float


def group_advantages(
    rewards: Sequence[float] | Float[np.ndarray, " rows"],
    group_ids: Sequence[int],
    *,
    normalize: Literal["std", "none"] = "std",
    epsilon: float = 1e-6,
) -> Float[np.ndarray, " rows"]:
    """Returns each rollout's reward relative to the rollouts of the same prompt.

    ``(r - mean) / (std + epsilon)`` with the sample standard deviation (divisor G - 1).
    A group of one keeps its reward (mean 0, standard deviation 1), as the method does.

    Args:
      rewards: one finite reward a rollout.
      group_ids: the prompt that each rollout answers; any hashable order of ids.
      normalize: "std" (GRPO), or "none" to leave out the division (Dr. GRPO).
      epsilon: added to the standard deviation.

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
            "give one of each a rollout"
        )
    if not np.isfinite(rewards).all():
        row = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"reward {rewards[row]} of rollout {row} is not finite")
    out = np.zeros_like(rewards)
    for group in np.unique(groups):
        rows = groups == group
        members = rewards[rows]
        single = members.size == 1
        # Equal rewards: their mean can differ from them in the last bit, and that
        # difference over epsilon would be a small advantage made of rounding.
        if not single and np.ptp(members) == 0.0:
            continue
        centred = members - (0.0 if single else members.mean())
        if normalize == "std":
            centred = centred / ((1.0 if single else members.std(ddof=1)) + epsilon)
        out[rows] = centred
    return out
