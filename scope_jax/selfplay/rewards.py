"""A rollout's reward: what to ask the judge and the previous Solver, and when.

The formulas are in ``method.challenger`` and ``method.solver``; here are the calls
between them (spec 9.2, 10).
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scope_jax.config import StageConfig
from scope_jax.method import challenger, challenger_shapes, judge, solver
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.challenger_output import TaskParse
from scope_jax.method.formats import Reward
from scope_jax.method.judge import RubricsParse
from scope_jax.method.rubric_weights import rubric_weights
from scope_jax.method.task_checks import Check
from scope_jax.method.types import Grade, Task
from scope_jax.selfplay.attempts import Attempt, play_attempts
from scope_jax.selfplay.checking import check_task
from scope_jax.selfplay.documents import ChallengerPrompt
from scope_jax.selfplay.estimates import with_overlong
from scope_jax.selfplay.judging import Judging, grade_json, grade_metrics
from scope_jax.selfplay.own_parts import score
from scope_jax.selfplay.rollouts import Rollout
from scope_jax.selfplay.world import World


@dataclass(frozen=True, kw_only=True)
class TaskReview:
    """What judge and previous Solver make of a task, as far as they were asked.

    Attributes:
      rubrics, rubrics_raw: what the judge wrote, parsed and in its own words.
      gates, gates_raw: each gate's score, and the judge's own words.
      checks: what else the task had to pass.
      attempts: graded rollouts of the previous Solver.
    """

    rubrics: RubricsParse | None = None
    rubrics_raw: str = ""
    gates: Mapping[str, int | None] = field(default_factory=dict)
    gates_raw: Mapping[str, str] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    attempts: Sequence[Attempt] = ()


async def reward_challenger(
    world: World,
    rollout: Rollout,
    prompt: ChallengerPrompt,
    recent: Sequence[str] = (),
) -> Rollout:
    """A Challenger's rollout with its reward (spec 9.2); asks only what it needs.

    Args:
      recent: tasks of earlier steps, which diversity is measured against.
    """
    config = world.config
    assessment = challenger.assess(
        rollout.scored,
        prompt.searches,
        config.tool_format,
        task_type=prompt.task_type,
        compat=config.compat,
    )
    review = TaskReview()
    if assessment.value > 0 and assessment.parse.valid:
        review = await _review(world, rollout, prompt, assessment.parse)
    attempts, rubrics = review.attempts, review.rubrics
    asks = config.judge.evidence > 0
    short = prompt.task_type == challenger.SHORT
    reward = challenger.reward(
        config.challenger,
        assessment,
        searches=prompt.searches,
        rubrics=rubrics,
        gates=review.gates,
        grades=[attempt.scores for attempt in attempts],
        matches=[a.match for a in attempts] if short and attempts else None,
        judge=config.judge,
        checks=review.checks,
        diversity=_diversity(config.challenger, assessment.parse, recent),
    )
    return _rewarded(
        rollout,
        reward,
        config.challenger_train,
        asked={
            "document": prompt.document.title,
            "task_type": prompt.task_type,
            "asked_searches": prompt.searches,
        },
        verdicts={
            "rubrics": [r.text for r in rubrics.rubrics] if rubrics else [],
            "rubrics_raw": review.rubrics_raw,
            "gates_raw": review.gates_raw,
            **({"evidence": list(rubrics.evidence)} if asks and rubrics else {}),
            "attempts": [attempt.json() for attempt in attempts],
        },
        metrics={
            "rollout/solver_turns": mean(a.turns for a in attempts),
            "rollout/solver_searches": mean(a.searches for a in attempts),
            **grade_metrics([g for a in attempts for g in a.grades or ()]),
        },
    )


def _diversity(
    config: ChallengerConfig, parse: TaskParse, recent: Sequence[str]
) -> float:
    """How unlike the recent tasks this one is; 0 if it says its own answer."""
    if config.difficulty != "paso_doble":
        return 1.0
    if challenger_shapes.leaked(parse.task, parse.reference_answer):
        return 0.0
    return challenger_shapes.diversity(parse.task, recent)


async def _review(
    world: World, rollout: Rollout, prompt: ChallengerPrompt, parse: TaskParse
) -> TaskReview:
    """Rubrics and gates together; attempts only at a task that has passed both."""
    config, seed = world.config, rollout.seed
    judging = Judging(world, "challenger")
    document, task_type = prompt.document.text, prompt.task_type
    documents = judge.documents_text(document, rollout.passages)
    (rubrics, rubrics_raw), (gates, gates_raw) = await asyncio.gather(
        judging.rubrics(parse.task, task_type, documents, seed),
        judging.gates(parse.task, task_type, document, seed),
    )
    attempts: Sequence[Attempt] = ()
    target = parse.reference_answer if task_type == challenger.SHORT else None
    passed = rubrics.valid and judge.gates_pass(gates, config.judge.required_gates)
    checks: Sequence[Check] = ()
    if passed:
        found = (document, *rollout.passages)
        checks = await check_task(
            world, judging, parse.task, rubrics, found, seed, target=target
        )
    if passed and all(check.passed for check in checks):
        attempts = await play_attempts(
            world,
            judging,
            parse.task,
            rubrics.rubrics,
            config.challenger.rollouts,
            seed,
            target=target,
        )
    return TaskReview(
        rubrics=rubrics,
        rubrics_raw=rubrics_raw,
        gates=gates,
        gates_raw=gates_raw,
        checks=checks,
        attempts=attempts,
    )


async def reward_solver(world: World, rollout: Rollout, task: Task) -> Rollout:
    """A Solver's rollout with its grades and its reward (spec 10)."""
    assessment = _assess_solver(world, rollout)
    grades: tuple[Grade, ...] = ()
    if assessment.graded is not None and task.target is None:
        grades = await Judging(world, "solver").grade(
            task.text, assessment.graded, task.rubrics, rollout.seed
        )
    own = await _own(world, rollout, task, assessment)
    graded = replace(rollout, grades=grades, own=own)
    return _solver_rewarded(world, graded, task, assessment)


def reweighted(
    world: World,
    group: Sequence[Rollout],
    task: Task,
    *,
    by: Sequence[Rollout] | None = None,
) -> list[Rollout]:
    """A group's rollouts, rewarded again with weights that its grades give.

    Args:
      world: whose rewards and weights.
      group: rewarded rollouts.
      task: of all of them.
      by: rollouts whose grades give the weights, where these are others: rewards are
        comparable only if their weights are the same.
    """
    config = world.config.judge.weights
    if config.kind == "equal" or task.target is not None or not task.rubrics:
        return list(group)
    weights = rubric_weights(
        [[grade.score for grade in rollout.grades] for rollout in by or group],
        [config.of(rubric) for rubric in task.rubrics],
        config,
    )
    return [
        _solver_rewarded(world, one, task, _assess_solver(world, one), weights)
        for one in group
    ]


def _assess_solver(world: World, rollout: Rollout) -> solver.Assessment:
    """What the conversation alone is worth."""
    return solver.assess(
        world.config.solver,
        rollout.scored,
        world.config.tool_format,
        encode=world.renderer.encode_text,
        cut=world.renderer.cut_text,
        writes_thinking=world.writes_thinking,
    )


def _solver_rewarded(
    world: World,
    rollout: Rollout,
    task: Task,
    assessment: solver.Assessment,
    weights: Sequence[float] | None = None,
) -> Rollout:
    """The graded rollout with its reward; without ``weights`` rubrics count alike."""
    config, grades = world.config, rollout.grades
    decays = config.solver.search_decay != "none"
    reward = solver.reward(
        config.solver,
        assessment,
        [grade.score for grade in grades],
        len(task.rubrics),
        judge=config.judge,
        targets=() if task.target is None else (task.target,),
        unbiased=[g.unbiased for g in grades] if config.judge.bias.on else None,
        weights=weights,
        decay=solver.search_decay(config.solver, rollout.step) if decays else 1.0,
    )
    if rollout.own is not None:
        reward = solver.with_own(config.solver, reward, rollout.own)
    cut = assessment.graded not in (None, assessment.answer.answer)
    return _rewarded(
        rollout,
        reward,
        config.solver_train,
        asked={"task_uid": task.uid, "task_type": task.type},
        verdicts={
            "task": task.text,
            **({"graded": assessment.graded} if cut else {}),
            "rubrics": [rubric.text for rubric in task.rubrics],
            "judge": [grade_json(grade) for grade in grades],
        },
        metrics=grade_metrics(grades),
    )


async def _own(
    world: World, rollout: Rollout, task: Task, assessment: solver.Assessment
) -> float | None:
    """The user's own part of the reward, if there is one; asked for every rollout."""
    if world.own_reward is None:
        return None
    answer = assessment.answer.answer if assessment.answer.valid else ""
    return await score(world.own_reward, world.judge, rollout, task, answer)


_BEHAVIOUR = ("searches", "valid_actions", "answer_tokens", "answer_truncated")


def _rewarded(
    rollout: Rollout,
    reward: Reward,
    stage: StageConfig,
    *,
    asked: Mapping[str, Any],
    verdicts: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Rollout:
    """The rollout with its reward, its parts as metrics, and all that led to it.

    Args:
      stage: its overlong term comes on top.
      asked: what the prompt asked for.
      verdicts: what the judge and the previous Solver said.
      metrics: what else was measured.
    """
    parts = {
        f"{'rollout' if key in _BEHAVIOUR else 'reward'}/{key}": value
        for key, value in reward.parts.items()
    }
    rewarded = replace(
        rollout,
        reward=reward.value,
        metrics=parts | {"rollout/ran_searches": rollout.searches, **metrics},
        errors=reward.errors,
        trace={
            **asked,
            "reward": reward.value,
            "parts": reward.parts,
            "errors": list(reward.errors),
            "why": list(reward.why),
            **reward.trace,
            **verdicts,
            "conversation": list(rollout.turn_log),
        },
    )
    return with_overlong(rewarded, stage)


def mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else math.nan
