"""Plays a Solver on given tasks, greedily; an answer is demanded at the end (13.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from rl.records import SamplingParams
from scope_jax import solver
from scope_jax.rewards import Rewards
from scope_jax.rollouts import Episode, Limits, converse
from scope_jax.session import Session
from scope_jax.stages import gather
from scope_jax.training import Progress


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What a Solver made of one task; ``answer`` is empty if it gave none."""

    answer: str
    episode: Episode


async def solve(
    session: Session, tasks: Sequence[str], name: str, progress: Progress
) -> list[Solution]:
    """One greedy conversation per task, by the policy on the trainer's engine."""
    config = session.config
    stage = config.solver_train
    spec = Rewards(session, "solver").solver_spec("solver_eval")

    async def play(number: int, task: str) -> Solution:
        episode = await converse(
            spec,
            session.prompts.solver(task, config.solver.max_searches_eval),
            complete=session.policy,
            search=session.search,
            renderer=session.renderer,
            sampling=SamplingParams(
                temperature=0.0, max_new_tokens=stage.sampling.max_new_tokens
            ),
            limits=Limits(
                context=stage.max_context_tokens, response=stage.max_response_tokens
            ),
            uid=f"evaluation/{name}/{number}",
            seed=(config.seed, "evaluation", name, number),
        )
        parse = solver.parse_answer(episode.state.episode)
        return Solution(answer=parse.answer if parse.valid else "", episode=episode)

    return await gather((play(i, task) for i, task in enumerate(tasks)), progress)
