"""Why a rollout got its reward, and a task its place, in lines that a person can read.

Every line states what was found and what it counts, so that the reward can be added up
again with a pencil. The numbers come from the reward; nothing is computed twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from scope_jax.challenger import ChallengerConfig
from scope_jax.formats import Reward
from scope_jax.judge import JudgeConfig, RubricsParse
from scope_jax.solver import SolverConfig

Outcome = Literal[
    "kept",
    "bad_format",
    "too_long",
    "gates_failed",
    "no_rubrics",
    "too_hard",
    "too_easy",
    "another_of_its_prompt",
]


class Graded(Protocol):
    """What the lines need of a difficulty rollout (``rewards.Attempt``)."""

    @property
    def scores(self) -> Sequence[float | None] | None:
        """Its grades, None for an unreadable one; None if none was given."""

    @property
    def match(self) -> bool | None:
        """Whether it gave the known answer; None: no answer, or none is known."""


def challenger(
    config: ChallengerConfig,
    judge: JudgeConfig,
    reward: Reward,
    *,
    searches: int,
    rubrics: RubricsParse | None,
    attempts: Sequence[Graded],
) -> list[str]:
    """Lines for a Challenger's reward (spec 9).

    Args:
      config: weights and the difficulty function.
      judge: how unreadable grades count, and what gates must sum to.
      reward: of ``scope_jax.challenger.reward``.
      searches: N that its prompt asks for.
      rubrics: what the judge wrote; None if it was not asked.
      attempts: the previous Solver's rollouts on its task.
    """
    parts, trace = reward.parts, reward.trace
    asked = f"{_count(searches, 'search', 'searches')} asked for"
    lines = [_format_line(parts, f"searching {_n(parts['tool'])} ({asked})", "task")]
    counted = f"format counts {_n(parts['format'])}"
    if "short_answer" in parts:
        short = _n(parts["short_answer"])
        lines.append(f"the short question's reference answer {short}: {counted}")
    if not trace["task"]:
        lines.append(f"no task can be read ({'; '.join(reward.errors)}): {counted}")
    elif rubrics is None:
        lines.append(f"the judge is not asked: {counted}")
    else:
        lines.append(_rubrics_line(rubrics, f": {counted}"))
        lines += gates_lines(trace["gates"], judge)
        lines += attempts_lines(attempts, judge)
        lines += _difficulty_lines(config, reward)
    weighed = [
        (config.format_weight, "format", parts["format"]),
        (config.difficulty_weight, "difficulty", parts["difficulty"]),
    ]
    return [*lines, _sum_line(reward.value, weighed)]


def solver(
    config: SolverConfig,
    judge: JudgeConfig,
    reward: Reward,
) -> list[str]:
    """Lines for a Solver's reward (spec 10)."""
    parts, trace = reward.parts, reward.trace
    calls = f"searching before the last turn {_n(parts['tool'])}"
    lines = [_format_line(parts, calls, "answer")]
    branch, grades = trace["branch"], trace["grades"]
    if branch == "exact match":
        is_it = "is" if parts["rubric_score"] else "is not"
        lines.append(f"the answer {is_it} a known answer")
    elif grades:
        lines.append(f"rubrics: {_met(grades, judge, parts['rubric_score'])}")
    else:
        errors = f" ({'; '.join(reward.errors)})" if reward.errors else ""
        lines.append(f"not graded: {branch.removesuffix(': not graded')}{errors}")
    if trace["answer"]:
        limits = config.length
        lines.append(
            f"answer of {_n(parts['answer_tokens'])} tokens (loses from {limits.soft} "
            f"on, all but {_n(limits.floor)} from {limits.hard} on): length factor "
            f"{_n(parts['length_factor'])}"
        )
        lines.append(
            f"accuracy {_n(parts['accuracy'])} = {_n(parts['rubric_score'])} x "
            f"{_n(parts['length_factor'])}"
        )
    lines.append(
        f"{_count(int(parts['searches']), 'search call', 'search calls')}, "
        f"{config.search_target} wanted: search {_n(parts['search'])}"
    )
    weighed = [
        (config.format_weight, "format", parts["format"]),
        (config.accuracy_weight, "accuracy", parts["accuracy"]),
        (config.search_weight, "search", parts["search"]),
    ]
    return [*lines, _sum_line(reward.value, weighed)]


def gates_lines(gates: Mapping[str, int | None], judge: JudgeConfig) -> list[str]:
    """A line about the gates, none if there are none."""
    if not gates:
        return []
    shown = ", ".join(
        f"{name} {'unreadable' if score is None else score}"
        for name, score in gates.items()
    )
    readable = [score for score in gates.values() if score is not None]
    total = sum(readable)
    if len(readable) < len(gates):
        verdict = "an unreadable one fails"
    else:
        verdict = "passed" if total >= judge.required_gates else "failed"
    return [f"gates: {shown}: sum {total} of {judge.required_gates} needed: {verdict}"]


def attempts_lines(attempts: Sequence[Graded], judge: JudgeConfig) -> list[str]:
    """A line per difficulty rollout of the previous Solver."""
    lines = []
    for number, attempt in enumerate(attempts, 1):
        if attempt.match is not None:
            what = f"answer {'right' if attempt.match else 'wrong'}"
        elif attempt.scores is None:
            what = "left out: no valid answer"
        else:
            what = _met(attempt.scores, judge, None)
        lines.append(f"Solver rollout {number}: {what}")
    return lines


def task_lines(
    outcome: Outcome,
    *,
    difficulty: float | None = None,
    window: tuple[float, float] = (0.0, 1.0),
) -> list[str]:
    """A line about what became of a written task (spec 11.4)."""
    low, high = window
    score = "" if difficulty is None else f"the Solver's mean score {_n(difficulty)} "
    because = {
        "kept": f"{score}lies within {_n(low)} to {_n(high)}: kept",
        "bad_format": "its conversation or its task has a wrong format: dropped",
        "too_long": "the Solver's prompt with it is over the limit: dropped",
        "gates_failed": "gates failed: dropped",
        "no_rubrics": "no rubrics: dropped",
        "too_hard": f"{score}is below {_n(low)}: too hard: dropped",
        "too_easy": f"{score}is above {_n(high)}: too easy: dropped",
        "another_of_its_prompt": f"{score}is fine, but enough tasks of its prompt "
        "were kept before: dropped",
    }
    return [because[outcome]]


def rubrics_line(rubrics: RubricsParse) -> str:
    """A line about what the judge wrote for a task of task creation."""
    return _rubrics_line(rubrics, "")


def _rubrics_line(rubrics: RubricsParse, so: str) -> str:
    if rubrics.valid:
        return f"rubrics: {len(rubrics.rubrics)} written by the judge"
    return f"rubrics: unusable ({'; '.join(rubrics.errors)}){so}"


def _difficulty_lines(config: ChallengerConfig, reward: Reward) -> list[str]:
    parts, trace = reward.parts, reward.trace
    used, found = trace["usable_rollouts"], _n(parts["difficulty"])
    if trace["branch"] == "exact match":
        return [f"{used} answers compared with the known one: difficulty {found}"]
    if trace["branch"] == "no usable rollout":
        return ["no Solver rollout can be graded: difficulty 0"]
    if trace["branch"] != "graded":
        return ["no Solver rollouts: difficulty 0"]
    how = config.difficulty
    if how == "tent":
        how += f" that is 1 at {_n(config.difficulty_target)}"
    return [
        f"mean score of {used} rollouts {_n(parts['rubric_score'])}: difficulty "
        f"{found} ({how})"
    ]


def _met(
    grades: Sequence[float | None], judge: JudgeConfig, score: float | None
) -> str:
    """Rubrics met, and what became of unreadable grades (spec 7)."""
    read = [grade for grade in grades if grade is not None]
    text = f"{_n(sum(read))} of {len(grades)} met"
    if len(read) < len(grades):
        text += f", {len(grades) - len(read)} unreadable"
        if not read or len(read) / len(grades) < judge.min_coverage:
            return f"{text}: left out, too few are readable"
        text += f" (counted {_n(judge.pad)} each)"
    return text if score is None else f"{text}: score {_n(score)}"


def _format_line(parts: Mapping[str, float], tool: str, what: str) -> str:
    value = (parts["think"] + parts["tool"] + parts["structure"]) / 3
    return (
        f"format {_n(value)}: the mean of thinking {_n(parts['think'])}, {tool}, "
        f"{what} {_n(parts['structure'])}"
    )


def _sum_line(value: float, weighed: Sequence[tuple[float, str, Any]]) -> str:
    terms = " + ".join(f"{_n(w)} x {name} {_n(x)}" for w, name, x in weighed)
    return f"reward {_n(value)} = {terms}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _n(value: float) -> str:
    """A number as short as it can be read: at most four digits."""
    return f"{value:.4g}"
