"""Advantages: how much better a rollout, or a turn of it, was than what it stands by.

Each function is one estimator; float64, on the host, a step's whole batch at once.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

EPSILON = 1e-6  # added to the standard deviation
WHITENING = 1e-8  # added to the variance
BASELINE_DECAY = 0.95

Rewards = Sequence[float] | Float[np.ndarray, " rollouts"]
Advantages = Float[np.ndarray, " rollouts"]


def group_advantages(
    rewards: Rewards, group_ids: Sequence[int], *, std: bool = True
) -> Advantages:
    """Returns each rollout's reward relative to the rollouts of the same prompt.

    ``(r - mean) / (std + epsilon)`` with the sample standard deviation (divisor G - 1).
    A group of one keeps its reward (mean 0, standard deviation 1), as the method does.

    Args:
      rewards: one finite reward per rollout.
      group_ids: the prompt of each rollout; the ids need not be sorted.
      std: whether to divide by the standard deviation.

    Returns:
      float64 advantages in the order of ``rewards``. Groups of equal rewards get
      exactly 0, so that callers can count them.

    Raises:
      ValueError: if lengths differ or a reward isn't finite.

    Formula:
      [Dr. GRPO] A = r - mean(r of the group); loss: mean over examples of sum_t loss_t
      / constant_length

    References:
      Shao et al., DeepSeekMath (2024), section 4.1.1.
      [Dr. GRPO] Liu et al., Dr. GRPO (arXiv 2503.20783)
    """

    def relative(own: np.ndarray) -> np.ndarray:
        if own.size == 1:
            return own / (1.0 + EPSILON) if std else own
        scale = own.std(ddof=1) + EPSILON if std else 1.0
        return (own - own.mean()) / scale

    return _by_group(rewards, group_ids, relative)


def leave_one_out_advantages(rewards: Rewards, group_ids: Sequence[int]) -> Advantages:
    """Returns each reward relative to the mean of its group's other rewards.

    Arguments, result and errors as for ``group_advantages``.

    Raises:
      ValueError: and if a group has one rollout only.

    Formula:
      A_i = r_i - mean of r_j, j != i

    References:
      Ahmadian et al., Back to Basics (arXiv 2402.14740)
    """

    def relative(own: np.ndarray) -> np.ndarray:
        if own.size == 1:
            raise ValueError("a group of one rollout has no other: give two or more")
        return (own - own.mean()) * own.size / (own.size - 1)

    return _by_group(rewards, group_ids, relative)


def role_advantages(
    rewards: Rewards, keys: Sequence[str], baselines: Mapping[str, float]
) -> tuple[Advantages, dict[str, float]]:
    """Returns each reward relative to a running mean of its kind's, and those means.

    A rollout is compared with what came before it, itself not included, in the order
    given: also a group of one has an advantage.

    Args:
      rewards: one finite reward per rollout.
      keys: the kind of each rollout: task type and role.
      baselines: where each running mean stands; one that is missing starts at 0.

    Formula:
      A_i = r_i - b; then b <- 0.95 b + 0.05 r_i, b of its task type and role

    References:
      Liu et al., SPIRAL (arXiv 2506.24119), role-conditioned advantage estimation
    """
    means = dict(baselines)
    out = np.zeros(len(rewards))
    for i, (reward, key) in enumerate(zip(_checked(rewards), keys, strict=True)):
        mean = means.get(key, 0.0)
        out[i] = reward - mean
        means[key] = BASELINE_DECAY * mean + (1.0 - BASELINE_DECAY) * float(reward)
    return out, means


def turn_advantages(
    rewards: Sequence[Sequence[float]],
    kinds: Sequence[str],
    roles: Sequence[str],
    tokens: Sequence[Sequence[int]],
) -> list[np.ndarray]:
    """Returns the advantage of each turn of each rollout, by what followed from it.

    Four steps, in this order: the turns' rewards are centred within their kind, and
    whitened over the batch; a turn's return is the sum of its own and all later ones;
    returns are centred by the mean of their role's distinct values, so that a return
    that many rollouts share does not move it; and they are whitened over the batch's
    tokens. In a batch of one role this last step undoes the centring before it, and in
    any batch the scale of the first whitening.

    Args:
      rewards: of each rollout, one finite reward per turn.
      kinds: of each rollout: task type and role.
      roles: of each rollout.
      tokens: of each turn, how many of its tokens are in the loss.

    Formula:
      x = whiten(r_k - mean over the kind); R_k = sum of x_j, j >= k;
      A_k = whiten over tokens(R_k - mean of the role's distinct R)

    References:
      MARSHAL (arXiv 2510.15414)
    """
    counts = [len(own) for own in rewards]
    if counts != [len(own) for own in tokens] or not sum(counts):
        return [np.zeros(n) for n in counts]
    flat = _checked(np.concatenate([np.asarray(own, np.float64) for own in rewards]))
    for at in _members(kinds, counts):
        flat[at] -= flat[at].mean()
    flat = _whitened(flat, np.ones_like(flat))
    cuts = np.cumsum(counts)[:-1]
    returns = np.concatenate(
        [np.cumsum(own[::-1])[::-1] for own in np.split(flat, cuts)]
    )
    for at in _members(roles, counts):
        # Rounded, or sums that differ in their last bit would count as two values.
        returns[at] -= np.unique(returns[at].round(9)).mean()
    weights = np.concatenate([np.asarray(own, np.float64) for own in tokens])
    return np.split(_whitened(returns, weights), cuts)


def overlong_penalty(tokens: int, *, limit: int, buffer: int) -> float:
    """Returns what a long response loses: 0 up to ``limit - buffer``, 1 beyond limit.

    Args:
      tokens: of the response.
      limit: L, from which on the whole penalty is due.
      buffer: B, tokens before it over which the penalty grows; 0 is no penalty.

    Formula:
      r + min(0, max(-1, (L - B - n) / B)), n sampled tokens, L limit, B buffer

    References:
      Yu et al., DAPO (arXiv 2503.14476), eq. 13
    """
    if not buffer or tokens <= limit - buffer:
        return 0.0
    return (limit - buffer - tokens) / buffer if tokens <= limit else -1.0


def _by_group(
    rewards: Rewards,
    group_ids: Sequence[int],
    relative: Callable[[np.ndarray], np.ndarray],
) -> Advantages:
    """Applies an estimator group by group; equal rewards give exactly 0."""
    rewards, groups = np.asarray(rewards, np.float64), np.asarray(group_ids)
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(
            f"rewards of shape {rewards.shape} and group ids of shape {groups.shape}: "
            "give one of each per rollout"
        )
    _checked(rewards)
    out = np.zeros_like(rewards)
    for group in np.unique(groups):
        members = groups == group
        own = rewards[members]
        # Equal rewards: their mean can differ from them in the last bit, and that
        # difference over epsilon would be a small advantage made of rounding.
        if own.size == 1 or np.ptp(own) > 0.0:
            out[members] = relative(own)
    return out


def _members(names: Sequence[str], counts: Sequence[int]) -> list[np.ndarray]:
    """For each name, which turns are those of its rollouts."""
    each = np.repeat(np.asarray(names), counts)
    return [each == name for name in np.unique(each)]


def _checked(rewards: Rewards) -> np.ndarray:
    rewards = np.asarray(rewards, np.float64)
    if not np.isfinite(rewards).all():
        bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise ValueError(f"reward {rewards[bad]} of rollout {bad} is not finite")
    return rewards


def _whitened(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 (divisor n - 1) where each value counts ``weights`` times.

    All 0 where fewer than two values count.
    """
    total = weights.sum()
    if total < 2:
        return np.zeros_like(x)
    away = x - (x * weights).sum() / total
    variance = (away**2 * weights).sum() / (total - 1)
    return away / np.sqrt(variance + WHITENING)
