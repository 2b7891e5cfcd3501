"""How hard a task is: rollouts of the previous Solver on it, graded (spec 3.8)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scope_jax.method import challenger, solver, solver_output
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.judge import JudgeConfig
from scope_jax.method.types import Grade, Rubric
from scope_jax.selfplay.judging import Judging, grade_json
from scope_jax.selfplay.rollouts import Limits, Seed, converse
from scope_jax.selfplay.world import World


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One difficulty rollout of the previous Solver, graded.

    ``grades`` is None where there was no valid answer to grade; ``match`` says whether
    a valid answer is the known one, where one is known and the judge is not asked.
    """

    answer: str
    grades: tuple[Grade, ...] | None
    searches: int
    turns: int
    finish: str
    match: bool | None = None

    @property
    def scores(self) -> tuple[float | None, ...] | None:
        """The grades' scores, None for an unreadable one."""
        return None if self.grades is None else tuple(g.score for g in self.grades)

    def json(self) -> dict[str, Any]:
        """The attempt as a person reads it in a trace."""
        shown: dict[str, Any] = {
            "answer": self.answer,
            "scores": None if self.scores is None else list(self.scores),
            "judge": [grade_json(grade) for grade in self.grades or ()],
            "searches": self.searches,
            "turns": self.turns,
            "finish": self.finish,
        }
        if self.match is not None:
            shown["match"] = self.match
        return shown


def context_tokens(config: ChallengerConfig, max_position: int) -> int:
    """Most tokens of such a rollout: the setting, or the model's own limit."""
    return min(config.rollout_context_tokens, max_position)


async def play_attempts(
    world: World,
    judging: Judging,
    task: str,
    rubrics: Sequence[Rubric],
    count: int,
    seed: Seed,
    *,
    target: str | None = None,
) -> list[Attempt]:
    """``count`` graded difficulty rollouts of the previous Solver.

    Where the answer is known (``target``), answers are compared with it and the judge
    is not asked.
    """
    config = world.config
    sampling = config.challenger.rollout_sampling
    if judging.stage == "tasks":
        sampling = replace(
            sampling, max_new_tokens=config.challenger.rollout_tokens_tasks
        )

    context = world.solver_context
    limits = Limits(context=context, response=context)

    async def play(number: int) -> Attempt:
        own = (*seed, "attempt", number)
        rollout = await converse(
            world,
            world.solver_spec("difficulty"),
            world.prompts.solver(task, config.solver.max_searches),
            complete=world.solver,
            sampling=sampling,
            limits=limits,
            seed=own,
        )
        # Only the last turn's answer counts here (spec 3.8).
        spoken = [m for m in rollout.played if m["role"] == "assistant"]
        parse = solver_output.parse_answer(spoken[-1:])
        grades, match = None, None
        if parse.valid and target is not None:
            match = solver.exact_match(parse.answer, [target])
        elif parse.valid:
            grades = await judging.grade(task, parse.answer, rubrics, own)
        return Attempt(
            answer=parse.answer,
            grades=grades,
            searches=rollout.searches,
            turns=rollout.turns,
            finish=rollout.finish_reason,
            match=match,
        )

    return list(await asyncio.gather(*map(play, range(count))))


def mean_score(
    attempts: Sequence[Attempt], n_rubrics: int, config: JudgeConfig
) -> tuple[float, int]:
    """Mean rubric score of the attempts that count, 0 if none does, and their number.

    For a question whose answer is known: the share of right answers.
    """
    matches = [attempt.match for attempt in attempts if attempt.match is not None]
    if matches:
        return sum(matches) / len(matches), len(matches)
    grades = [attempt.scores for attempt in attempts]
    sums = challenger.usable_sums(grades, n_rubrics, config)
    mean = sum(sums) / len(sums) if sums else 0.0
    return challenger.difficulty(mean, n_rubrics, kind="normalized"), len(sums)
