"""AXPO played: more rollouts of a group in which all who searched have failed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from rl.records import Completion
from scope_jax.method import axpo
from scope_jax.method.transcript import TrainedTurn
from scope_jax.selfplay.reposing import PLAIN
from scope_jax.selfplay.rollouts import Rollout, Seed
from scope_jax.selfplay.world import World

Play = Callable[[Seed, Completion], Awaitable[Rollout]]
"""Plays and rewards a rollout that goes on behind a beginning."""


async def with_resamples(
    world: World,
    group: list[Rollout],
    play: Play,
    together: Callable[[list[Rollout]], list[Rollout]],
) -> list[Rollout]:
    """The group, its source masked and credited, and the source's continuations.

    The group itself where nothing is sampled anew.

    Args:
      group: rewarded rollouts of one prompt.
      play: of the same prompt.
      together: what rewards become that depend on the grades of the whole group; for
        the continuations, too: they are compared with the source.
    """
    config = world.config.solver.resampling
    wanted = config.count and group[0].posed in PLAIN
    found = _source(world, group) if wanted else None
    if found is None:
        return group
    place, start = found
    source, size = group[place], len(group)
    work = (
        play((*source.seed[:5], size + number), start.begun)
        for number in range(config.count)
    )
    more = together(await asyncio.gather(*work))
    count = len(start.begun.ids)
    rewards = [one.reward for one in more]
    credited = axpo.credit(source.reward, rewards, config.gain)
    told = {
        "begun_tokens": count,
        "sureness": start.sureness,
        "resampled": rewards,
        "credit": credited,
    }
    kept = replace(
        source,
        datums=axpo.only_prefix(source.datums, count),
        credit=credited,
        trained=_cut(source, count, len(start.begun.text)),
        trace=source.trace | {"axpo": told},
    )
    continued = [_continuation(one, source, count, start.begun) for one in more]
    return [*group[:place], kept, *group[place + 1 :], *continued]


def _source(world: World, group: Sequence[Rollout]) -> tuple[int, axpo.Prefix] | None:
    """The rollout whose first call is least sure, and its beginning."""
    searched = [one.metrics["rollout/searches"] > 0 for one in group]
    scores = [one.metrics["reward/rubric_score"] for one in group]
    if not axpo.triggered(searched, scores, world.config.solver.resampling.fail):
        return None
    decode, tool_format = world.renderer.decode, world.config.tool_format
    starts = [
        (place, start)
        for place, (one, tool) in enumerate(zip(group, searched, strict=True))
        if tool and (start := axpo.prefix(one.datums, tool_format, decode))
    ]
    return min(starts, key=lambda found: found[1].sureness, default=None)


def _continuation(
    one: Rollout, source: Rollout, count: int, begun: Completion
) -> Rollout:
    """A continuation as a rollout of a group of its own, its beginning not trained."""
    trained = list(one.trained)
    if trained:
        index, turn = trained[0]
        left = max(turn.trained - count, 0)
        trained[0] = (index, replace(turn, trained=left, start=len(begun.text)))
    return replace(
        one,
        datums=axpo.without_prefix(one.datums, count),
        group=-1 - source.group,
        role=source.role,
        posed="resampled",
        trained=tuple(trained),
    )


def _cut(
    source: Rollout, count: int, characters: int
) -> tuple[tuple[int, TrainedTurn], ...]:
    """What is trained on of a source's turns: the beginning of the first."""
    first = TrainedTurn(source.trained[0][1].tokens, count, 0, characters)
    others = (
        (index, TrainedTurn(turn.tokens, 0, 0, 0)) for index, turn in source.trained[1:]
    )
    return ((source.trained[0][0], first), *others)
