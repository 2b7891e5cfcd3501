"""The Challenger: what it is asked for and what it earns (spec 3.2, 3.3, 9).

    R = 0.5 format + 1.0 difficulty

The difficulty of a task comes from K rollouts of the previous Solver, graded by the
judge. ``assess`` (in ``challenger_text``) reads a conversation; then rubrics are
written, gates asked, rollouts played and graded, as far as ``reward`` would count them;
``reward`` adds up.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.errors import UserError
from rl.records import SamplingParams
from scope_jax.challenger_text import (
    SHORT,
    Assessment,
    TaskParse,
    assess,
    format_score,
    parse_task,
    short_answer_score,
)
from scope_jax.formats import FormatScore, Reward
from scope_jax.judge import RubricsParse, gates_pass, rubric_score, unreadable_gates
from scope_jax.prompts import TASK_TYPES

__all__ = [
    "Assessment",
    "ChallengerConfig",
    "FormatScore",
    "TaskParse",
    "assess",
    "difficulty",
    "format_score",
    "match_difficulty",
    "parse_task",
    "reward",
    "search_schedule",
    "short_answer_score",
    "task_types",
]

DifficultyKind = Literal["tent", "continuous", "normalized"]


@dataclass(frozen=True, kw_only=True)
class ChallengerConfig:
    """Challenger: conversation and reward."""

    schedule: str = "4:3:2"
    """How many searches tasks are asked to need: `2` for two always, `4:3:2` for shares
    of one, two and three."""
    short_form_qa_ratio: float = 0.0
    """Probability of the task type `short_form_qa`; the other four share the rest."""
    max_turns: int = 5
    """Assistant turns of a conversation in training."""
    style: Literal["chain2", "chain2_xml", "none"] = "chain2"
    """Guidance from search to search; `chain2_xml` names the task tags at the end."""
    tool_tokens: int = 500
    """A search result is cut to so many tokens, in every role's conversations."""
    format_weight: float = 0.5
    """Weight of the format score."""
    difficulty_weight: float = 1.0
    """Weight of the difficulty."""
    difficulty: DifficultyKind = "tent"
    """How the mean rubric score becomes difficulty: `tent` peaks at the target,
    `continuous` falls with the score, `normalized` is the score itself."""
    difficulty_target: float = 0.5
    """Mean rubric score at which `tent` is 1."""
    rollouts: int = 8
    """K, rollouts of the previous Solver per task."""
    rollout_sampling: SamplingParams = SamplingParams(
        temperature=0.7, top_p=0.9, max_new_tokens=8192
    )
    """How those rollouts are sampled; `max_new_tokens` is per turn."""
    rollout_tokens_tasks: int = 2048
    """The same limit per turn in task creation."""


def difficulty(
    mean_rubric_sum: float,
    n_rubrics: int,
    *,
    kind: DifficultyKind = "tent",
    target: float = 0.5,
) -> float:
    """How hard a task is, from the mean rubric sum A of n rubrics (spec 9.3)."""
    if n_rubrics <= 0:
        return 0.0
    share = mean_rubric_sum / n_rubrics
    if kind == "normalized":
        return min(max(share, 0.0), 1.0)
    if mean_rubric_sum <= 0 or mean_rubric_sum >= n_rubrics:
        return 0.0
    if kind == "continuous":
        if n_rubrics == 1:
            return 0.0
        return min((n_rubrics - mean_rubric_sum) / (n_rubrics - 1), 1.0)
    if not 0 < target < 1:
        return 0.0
    return share / target if share <= target else (1 - share) / (1 - target)


def usable_sums(
    grades: Sequence[Sequence[float | None] | None],
    n_rubrics: int,
    *,
    min_coverage: float = 0.5,
    pad: float = 0.0,
) -> list[float]:
    """Rubric sums of the Solver's rollouts that count (spec 9.2).

    Left out are a rollout without a valid answer (None) and one of whose grades too
    few could be read.
    """
    sums = (
        rubric_score(rollout, n_rubrics, min_coverage=min_coverage, pad=pad)
        for rollout in grades
        if rollout is not None
    )
    return [total for total in sums if total is not None]


def match_difficulty(matches: Sequence[bool]) -> float:
    """Difficulty of a short question from the exact match of K answers (spec 9.2)."""
    rollouts, correct = len(matches), sum(matches)
    if rollouts <= 1 or correct in (0, rollouts):
        return 0.0
    return (rollouts - correct) / (rollouts - 1)


def reward(
    config: ChallengerConfig,
    assessment: Assessment,
    *,
    rubrics: RubricsParse | None = None,
    gates: Mapping[str, int | None] | None = None,
    required_gates: int = 2,
    grades: Sequence[Sequence[float | None] | None] = (),
    matches: Sequence[bool] | None = None,
    min_coverage: float = 0.5,
    pad: float = 0.0,
) -> Reward:
    """The Challenger's reward (spec 9.2).

    Args:
      config: weights and the difficulty function.
      assessment: of ``assess``.
      rubrics: what the judge wrote; None if it was not asked.
      gates: the gates' scores; None or empty if none was asked.
      required_gates: least sum of them.
      grades: per rollout of the Solver its grades, or None: it gave no valid answer.
      matches: of a short question, per rollout whether its answer is right; takes the
        place of ``grades``.
      min_coverage: see ``judge.rubric_score``.
      pad: see ``judge.rubric_score``.
    """
    value_format, value_difficulty = assessment.value, 0.0
    mean, used = float("nan"), 0
    passed = gates_pass(gates or {}, required_gates if gates else 0)
    if not assessment.parse.valid:
        branch = "no task"
    elif value_format == 0:
        branch = "format score 0"
    elif rubrics is None or not rubrics.valid:
        branch, value_format = "no rubrics: format score set to 0", 0.0
    elif not passed:
        branch = "gates failed: no difficulty"
    elif matches is not None:
        branch, value_difficulty = "exact match", match_difficulty(matches)
        used = len(matches)
    else:
        n = len(rubrics.rubrics)
        sums = usable_sums(grades, n, min_coverage=min_coverage, pad=pad)
        branch, used = "graded" if sums else "no usable rollout", len(sums)
        if sums:
            mean = sum(sums) / len(sums)
            value_difficulty = difficulty(
                mean, n, kind=config.difficulty, target=config.difficulty_target
            )
            mean /= n
    value = (
        config.format_weight * value_format
        + config.difficulty_weight * value_difficulty
    )
    short = {} if assessment.short is None else {"short_answer": assessment.short}
    parts = {
        "format": value_format,
        "think": assessment.format.think,
        "tool": assessment.format.tool,
        "structure": assessment.format.structure,
        "difficulty": value_difficulty,
        "rubric_score": mean,
        "quality": float(passed and bool(rubrics and rubrics.valid)),
        **short,
        **{f"gate_{name}": float(score or 0) for name, score in (gates or {}).items()},
    }
    errors = (
        *assessment.errors,
        *(rubrics.errors if rubrics else ()),
        *unreadable_gates(gates or {}),
    )
    trace: dict[str, Any] = {
        "branch": branch,
        "task": assessment.parse.task,
        "gates": dict(gates or {}),
        "usable_rollouts": used,
        "grades": [None if rollout is None else list(rollout) for rollout in grades],
    }
    return Reward(value, parts, trace, errors)


def search_schedule(spec: str, rows: int, seed: int) -> list[int]:
    """How many searches each of ``rows`` prompts asks for (spec 3.3).

    Args:
      spec: ``"2"``: two for every row; ``"4:3:2"``: shares of one, two and three, by
        largest remainder, shuffled.
      rows: how many.
      seed: of the shuffle.
    """
    if not re.fullmatch(r"[0-9]{1,9}(:[0-9]{1,9})*", spec):
        raise UserError(
            f"challenger.schedule {spec!r}: not a number of searches or shares: "
            "write 2, or 4:3:2"
        )
    weights = [int(weight) for weight in spec.split(":")]
    if len(weights) == 1:
        return weights * rows
    total = sum(weights)
    if total == 0:
        raise UserError(f"challenger.schedule {spec!r}: all shares are 0: raise one")
    counts = [rows * weight // total for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda i: (-(rows * weights[i] % total), i)
    )
    for i in by_remainder[: rows - sum(counts)]:
        counts[i] += 1
    schedule = [n for n, count in enumerate(counts, 1) for _ in range(count)]
    random.Random(seed).shuffle(schedule)
    return schedule


def task_types(rows: int, seed: int, *, short_form_qa_ratio: float = 0.0) -> list[str]:
    """The task type of each of ``rows`` prompts (spec 3.2)."""
    rng = random.Random(seed)
    others = [name for name in TASK_TYPES if name != SHORT]
    return [
        # No draw is spent on a ratio of 0, so that the sequence is the reference's.
        SHORT
        if short_form_qa_ratio > 0 and rng.random() < short_form_qa_ratio
        else rng.choice(others)
        for _ in range(rows)
    ]
