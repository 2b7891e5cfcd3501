"""Plays a Solver on given tasks, greedily, with forced answers (spec 13.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from rl.records import SamplingParams
from scope_jax.method import solver_output
from scope_jax.selfplay.rollouts import Limits, Rollout, converse
from scope_jax.selfplay.training import Progress, gather
from scope_jax.selfplay.world import World


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What a Solver made of one task; ``answer`` is empty if it gave none."""

    answer: str
    rollout: Rollout


async def solve(
    world: World, tasks: Sequence[str], name: str, progress: Progress
) -> list[Solution]:
    """One greedy conversation per task, by the policy on the trainer's engine."""
    config = world.config
    stage = config.solver_train
    spec = world.solver_spec("solver_eval")

    async def play(number: int, task: str) -> Solution:
        rollout = await converse(
            world,
            spec,
            world.prompts.solver(task, config.solver.max_searches_eval),
            complete=world.policy,
            sampling=SamplingParams(
                temperature=0.0, max_new_tokens=stage.sampling.max_new_tokens
            ),
            limits=Limits(
                context=stage.max_context_tokens, response=stage.max_response_tokens
            ),
            seed=(config.seed, "evaluation", name, number),
        )
        parse = solver_output.parse_answer(rollout.played)
        return Solution(answer=parse.answer if parse.valid else "", rollout=rollout)

    return await gather((play(i, task) for i, task in enumerate(tasks)), progress)
