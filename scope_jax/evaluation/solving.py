"""Plays a Solver on given tasks; with forced answers (spec 13.2).

Greedily, or sampled as in training. Greedy answers show a policy's most probable ones
only: near one half a small shift of the policy turns many of them over at once, so they
overstate what was learned. Sampled answers show what the policy does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scope_jax.method import solver_output
from scope_jax.method.formats import Message
from scope_jax.selfplay.rollouts import Limits, Rollout, Seed, converse
from scope_jax.selfplay.training import Progress, gather
from scope_jax.selfplay.world import World

Mode = Literal["sampled", "greedy"]
MODES: tuple[Mode, ...] = ("sampled", "greedy")


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What a Solver made of one task; ``answer`` is empty if it gave none."""

    answer: str
    rollout: Rollout


async def converse_as_evaluated(
    world: World,
    opening: Sequence[Message],
    temperature: float,
    seed: Seed,
    turns: int | None = None,
) -> Rollout:
    """One conversation under the rules of evaluation, of at most ``turns`` if given."""
    stage, spec = world.config.solver_train, world.solver_spec("solver_eval")
    return await converse(
        world,
        replace(spec, max_turns=turns or spec.max_turns),
        opening,
        complete=world.policy,
        sampling=replace(stage.sampling, temperature=temperature),
        limits=Limits(
            context=stage.max_context_tokens, response=stage.max_response_tokens
        ),
        seed=seed,
    )


async def solve(
    world: World,
    tasks: Sequence[str],
    name: str,
    progress: Progress,
    *,
    mode: Mode = "greedy",
) -> list[Solution]:
    """One conversation per task, by the policy on the trainer's engine.

    Args:
      world: whose policy plays.
      tasks: their texts.
      name: of the policy; with the run's seed and a task's number it seeds the draws.
      progress: told of each task that is answered.
      mode: ``sampled`` as in Solver training (at temperature 1), or ``greedy``.
    """
    config = world.config
    temperature = 0.0 if mode == "greedy" else config.solver_train.sampling.temperature

    async def play(number: int, task: str) -> Solution:
        opening = world.prompts.solver(task, config.solver.max_searches_eval)
        seed = (config.seed, "evaluation", name, number)
        rollout = await converse_as_evaluated(world, opening, temperature, seed)
        parse = solver_output.parse_answer(rollout.played)
        return Solution(answer=parse.answer if parse.valid else "", rollout=rollout)

    return await gather((play(i, task) for i, task in enumerate(tasks)), progress)
