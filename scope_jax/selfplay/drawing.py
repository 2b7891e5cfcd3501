"""Which of a step's groups are trained on, and when others are drawn in their place.

A group whose rewards are all equal teaches nothing. With ``dynamic_sampling`` it is
left out of the update, and prompts are drawn until the step has as many groups as it
began with. What is drawn depends on the step alone: a resumed step draws the same.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scope_jax.method.transcript import TrainedTurn
from scope_jax.selfplay.rollouts import Rollout

log = logging.getLogger("scope_jax")

MAX_DRAWS = 10
SPREAD = 1e-6  # of rewards; means of rubrics that are equal may differ by rounding

Worth = Callable[[Rollout], float]
"""What sets a rollout apart from others of its group."""
Play = Callable[[Sequence[Any], int], list[Rollout]]
"""Plays and rewards groups of prompts; the first group has this number."""


def until_full(
    prompts: Sequence[Any],
    play: Play,
    more: Callable[[int, int], Sequence[Any]],
    *,
    step: int,
    worth: Worth,
) -> tuple[list[Rollout], dict[str, float]]:
    """A step's rollouts, as many groups of them with spread as it has prompts.

    Args:
      prompts: of the first draw.
      play: plays them.
      more: other prompts of the step: from the n-th one on, at most so many.
      step: for the warning.
      worth: a rollout's r.

    Returns:
      (all rollouts, metrics). Groups that are not trained on have no datum left.

    Formula:
      a group is trained on if max(r) - min(r) > 1e-6; others are drawn until there are
      as many as prompts, at most 10 draws, or until no prompt is left

    References:
      Yu et al., DAPO (arXiv 2503.14476), section 3.2
    """
    full, played, draws = len(prompts), len(prompts), 1
    rollouts = play(prompts, 0)
    kept = differing(rollouts, worth)
    while len(kept) < full and draws < MAX_DRAWS:
        # As many as are likely to give what is missing, at the rate so far.
        wanted = math.ceil((full - len(kept)) * played / max(len(kept), 1))
        others = more(played - full, min(wanted, full))
        if not others:
            break
        rollouts += play(others, played)
        played, draws = played + len(others), draws + 1
        kept = differing(rollouts, worth)
    if len(kept) < full:
        why = "no prompt is left" if draws < MAX_DRAWS else f"{draws} draws were made"
        log.warning(
            "step %d: %d of %d groups have rewards that differ, and %s: it trains on "
            "these",
            step,
            len(kept),
            full,
            why,
        )
    metrics = {
        "rollout/draws": float(draws),
        "rollout/groups_flat": float(played - len(kept)),
        "rollout/groups_trained": float(min(len(kept), full)),
    }
    trained = set(kept[:full])
    return [one if _belongs(one, trained) else untrained(one) for one in rollouts], (
        metrics
    )


def differing(rollouts: Sequence[Rollout], worth: Worth) -> list[int]:
    """Numbers of the prompts' groups whose rollouts differ, in order."""
    rewards = np.array([worth(one) for one in rollouts])
    groups = np.array([one.group for one in rollouts])
    return [
        int(group)
        for group in np.unique(groups[groups >= 0])
        if np.ptp(rewards[groups == group]) > SPREAD
    ]


def untrained(rollout: Rollout) -> Rollout:
    """The rollout with nothing of it trained on."""
    turns = ((i, TrainedTurn(turn.tokens, 0, 0, 0)) for i, turn in rollout.trained)
    return replace(rollout, datums=(), trained=tuple(turns))


def _belongs(rollout: Rollout, groups: set[int]) -> bool:
    """Whether its group is among them, or the group that it was sampled again for.

    Those have the number -1 - g of the other.
    """
    group = rollout.group
    return (group if group >= 0 else -1 - group) in groups
