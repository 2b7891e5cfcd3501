"""From a step's rewarded rollouts to what is trained on: their advantages."""

import logging
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rl.learner.advantages import (
    group_advantages,
    leave_one_out_advantages,
    overlong_penalty,
    role_advantages,
    turn_advantages,
)
from rl.records import Datum
from scope_jax.config import StageConfig
from scope_jax.selfplay.drawing import untrained
from scope_jax.selfplay.rollouts import Rollout

log = logging.getLogger("scope_jax")

PLAIN = StageConfig()
BASELINES = "baselines"  # their name in what a checkpoint remembers
SCORES = {"solver": "reward/rubric_score", "challenger": "reward/difficulty"}
"""By role, the score that says whether a rollout is right."""

Advantage = float | tuple[float, ...]
"""Of a rollout, or of each of its sampled turns."""


def advantages(
    rollouts: Sequence[Rollout],
    settings: StageConfig = PLAIN,
    memory: MutableMapping[str, Any] | None = None,
    *,
    search_weight: float = 0.0,
) -> list[Advantage]:
    """Each rollout's advantage, by the stage's estimator.

    Args:
      rollouts: all of a step, in order.
      settings: of the stage.
      memory: of the stage; running means are read from it and left in it.
      search_weight: what the search score counts in the reward; that part is earned in
        the turns that search.
    """
    rewards = [rollout.compared for rollout in rollouts]
    groups = [rollout.group for rollout in rollouts]
    keys = [_kind_of(one) for one in rollouts]
    if settings.advantage == "rloo":
        return leave_one_out_advantages(rewards, groups).tolist()
    if settings.advantage == "role":
        memory = {} if memory is None else memory
        kept = memory.get(BASELINES, {})
        relative, memory[BASELINES] = role_advantages(rewards, keys, kept)
        return relative.tolist()
    if settings.advantage == "turn":
        split = [_turn_rewards(one, search_weight) for one in rollouts]
        tokens = [[turn.trained for _, turn in one.trained] for one in rollouts]
        roles = [one.role for one in rollouts]
        found = turn_advantages(split, keys, roles, tokens)
        return [tuple(own.tolist()) for own in found]
    std = settings.advantage_std
    return group_advantages(rewards, groups, std=std).tolist()


def with_advantages(
    rollouts: Sequence[Rollout],
    found: Sequence[Advantage] | None = None,
    settings: StageConfig = PLAIN,
) -> list[Datum]:
    """All that a step trains on, each datum with its rollout's advantage.

    Args:
      rollouts: all of a step, in order.
      found: from ``advantages``, which is asked if it is not given.
      settings: of the stage.
    """
    found = advantages(rollouts, settings) if found is None else found
    if settings.loss.policy == "nft":
        rollouts = _with_outcomes(rollouts, settings.right_from)
    out: list[Datum] = []
    for rollout, advantage in zip(rollouts, found, strict=True):
        if isinstance(advantage, tuple):
            out += _by_turn(rollout, advantage)
        else:
            out += [replace(datum, advantage=advantage) for datum in rollout.datums]
    return out


def masked(
    rollouts: Sequence[Rollout],
    found: Sequence[Advantage],
    settings: StageConfig = PLAIN,
) -> tuple[list[Rollout], dict[str, float]]:
    """The rollouts, with nothing trained of those that the stage leaves out; metrics.

    Rewards, advantages and running means stay as they are.

    Args:
      rollouts: all of a step, in order.
      found: from ``advantages``.
      settings: of the stage.

    Formula:
      [overlong filtering] loss_t = 0 for all t of a rollout that a limit of tokens cut
      off; its r stays in the mean of its group
      [SPIRAL's filter] loss_t = 0 for all t of a rollout with A = 0

    References:
      [overlong filtering] Yu et al., DAPO (arXiv 2503.14476), section 3.4
      [SPIRAL's filter] Liu et al., SPIRAL (arXiv 2506.24119), its published code
    """
    if not (settings.overlong.mask or settings.drop_zero):
        return list(rollouts), {}
    out = [
        untrained(one)
        if (settings.overlong.mask and one.cut_off)
        or (settings.drop_zero and advantage == 0)
        else one
        for one, advantage in zip(rollouts, found, strict=True)
    ]
    left = sum(bool(one.datums) for one in out)
    if not left:
        step = rollouts[0].step
        log.warning("step %d: no rollout is left to train on: all are masked", step)
    return out, {"rollout/unmasked": float(left)}


def with_overlong(rollout: Rollout, settings: StageConfig) -> Rollout:
    """The rollout with what it loses for its length, where the stage has such a term.

    Its length are the tokens that were sampled, over all turns; those that it was begun
    with are a part of its answer, too.
    """
    limits = settings.overlong
    if not limits.buffer:
        return rollout
    length = rollout.begun_tokens + rollout.sampled_tokens
    loss = overlong_penalty(length, limit=limits.limit, buffer=limits.buffer)
    line = (
        f"{length} tokens (loses from {limits.limit - limits.buffer} "
        f"on, 1 beyond {limits.limit}): {loss:.4g}"
    )
    told = {
        "reward": rollout.reward + loss,
        "why": [*rollout.trace.get("why", ()), line],
    }
    return replace(
        rollout,
        reward=rollout.reward + loss,
        metrics=rollout.metrics | {"reward/overlong": loss},
        trace=rollout.trace | told,
    )


def _kind_of(rollout: Rollout) -> str:
    """What a running mean of rewards is of: rollouts that were asked alike.

    Prompts with candidate answers, and searches sampled anew, have a mean of their own:
    they fail far more often, and would lower that of the others.
    """
    posed = "" if rollout.posed == "replay" else rollout.posed
    kind = f"{rollout.trace.get('task_type', '')}/{rollout.role}"
    return f"{kind}/{posed}" if posed else kind


def _turn_rewards(rollout: Rollout, search_weight: float) -> list[float]:
    """The reward cut into its turns' parts: what searching earned, and the rest last.

    The turns that search share what it earned; the last turn has all else.
    """
    count = len(rollout.trained)
    out = np.zeros(count)
    calls = [bool(line.get("calls")) for line in rollout.turn_log][:count]
    searching = np.flatnonzero(calls)
    if searching.size:
        earned = search_weight * rollout.metrics.get("reward/search", 0.0)
        out[searching] = earned / searching.size
    if count:
        out[-1] += rollout.compared - out.sum()
    return out.tolist()


def _by_turn(rollout: Rollout, turns: tuple[float, ...]) -> Iterator[Datum]:
    """The rollout's datums, each token in the loss with its turn's advantage."""
    counts = [turn.trained for _, turn in rollout.trained]
    each, start = np.repeat(turns, counts), 0
    for datum in rollout.datums:
        mask = np.asarray(datum.loss_mask, bool)
        stop = start + int(mask.sum())
        values = np.zeros(len(mask))
        values[mask] = each[start:stop]
        start = stop
        yield replace(datum, advantages=tuple(values.tolist()))


def is_right(rollout: Rollout, right_from: float) -> bool:
    """Whether its score is at least that; one that was never scored is wrong."""
    return rollout.metrics.get(SCORES.get(rollout.role, ""), 0.0) >= right_from


def worth(rollout: Rollout, settings: StageConfig) -> float:
    """What groups are told apart by: the reward; with policy "nft", the outcome."""
    if settings.loss.policy == "nft":
        return float(is_right(rollout, settings.right_from))
    return rollout.compared


def _with_outcomes(rollouts: Sequence[Rollout], right_from: float) -> list[Rollout]:
    """The rollouts, their datums with outcome and the group's share of right ones."""
    right = np.array([is_right(one, right_from) for one in rollouts], np.float64)
    groups = np.array([one.group for one in rollouts])
    out = []
    for one, outcome in zip(rollouts, right, strict=True):
        rate = float(right[groups == one.group].mean())
        fields = {"outcome": float(outcome), "group_rate": rate}
        out.append(replace(one, datums=tuple(replace(d, **fields) for d in one.datums)))
    return out
