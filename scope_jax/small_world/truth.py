"""What is true of tasks, rubrics, answers and grades of the small world.

Every fact is known there, so whatever the method can only ask a judge is a number here:
whether a task can be done, whether a rubric is right, what an answer is worth, whether
a grade is deserved. Nothing is trained on it; it goes to metrics and to people.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from scope_jax.small_world.tasks import (
    Blank,
    read_task,
    rubric_facts,
    stated_facts,
    true_score,
)
from scope_jax.small_world.world import Fact, World

RubricKind = Literal["true", "unwanted", "false", "generic"]
"""A true fact that the task wants, one that it does not want, a fact that is none;
``generic`` states no fact, or several."""

GradeKind = Literal["met", "two_values", "wrong_value", "value_elsewhere", "absent"]
"""What an answer says of a rubric's fact: exactly its value; its value and another one;
another one only; nothing, though it gives the value to something else; nothing."""

_SENTENCE = re.compile(r"[^.!?]*\w[^.!?]*")
_NAME = re.compile(r"([A-Z]\w*)'s ")


@dataclass(frozen=True)
class AnswerTruth:
    """What an answer and its grades are worth.

    Attributes:
      wanted: the facts that the task wants, as far as they exist.
      score: the share of them that the answer states; 0 where there are none.
      sentences: of the answer; 0 of none.
      grades: by rubric: what the answer says of it, and whether its grade is right;
        None for a rubric without a fact.
      rubrics: of which kind each is.
    """

    wanted: tuple[Fact, ...]
    score: float
    sentences: int
    grades: tuple[tuple[GradeKind, bool] | None, ...]
    rubrics: tuple[RubricKind, ...] = ()

    @property
    def flaws(self) -> tuple[str, ...]:
        """Why a judge's score may differ from the true one."""
        found = {
            "unanswerable": not self.wanted,
            "wrong rubric": any(kind != "true" for kind in self.rubrics),
            "wrong grade": any(not right for _, right in filter(None, self.grades)),
        }
        return tuple(name for name, there in found.items() if there)

    def json(self) -> dict[str, Any]:
        """As a person reads it in a trace."""
        why = [f"wanted: {fact.sentence()}" for fact in self.wanted]
        why = why or ["no blank of the task can be filled: score 0"]
        for number, grade in enumerate(self.grades, 1):
            if grade:
                verdict = "right" if grade[1] else "wrong"
                why.append(f"rubric {number}: {grade[0]}, so its grade is {verdict}")
        why.append(f"true score {self.score:.4g}")
        return {"score": self.score, "why": why, "flaws": list(self.flaws)}


@dataclass(frozen=True)
class TaskTruth:
    """What a task and its rubrics are worth.

    Attributes:
      blanks: of the task.
      described: whether it asks about an entity that it describes and does not name.
      off_document: whether the first entity named is not the source document's.
      rubrics: of which kind each is.
      scores: true scores of the attempts at it.
    """

    blanks: tuple[Blank, ...]
    described: bool
    off_document: bool
    rubrics: tuple[RubricKind, ...]
    scores: tuple[float, ...]

    @property
    def answerable(self) -> bool:
        """Whether it has blanks, and every one can be filled."""
        return bool(self.blanks) and not any(blank.flaw for blank in self.blanks)

    @property
    def flaws(self) -> tuple[str, ...]:
        """What is wrong with the task and its rubrics, each once."""
        found = [f"{blank.flaw} blank" for blank in self.blanks if blank.flaw]
        found += [] if self.blanks else ["no blank"]
        found += ["off its document"] if self.off_document else []
        found += [f"{kind} rubric" for kind in self.rubrics if kind != "true"]
        return tuple(dict.fromkeys(found))

    def json(self) -> dict[str, Any]:
        """As a person reads it in a trace."""
        why = [
            f"blank {number}: "
            + (f"{b.fact.sentence()} ({b.hops} to read)" if b.fact else b.flaw)
            for number, b in enumerate(self.blanks, 1)
        ]
        if self.off_document:
            why.append("starts at an entity that the document is not about")
        why += [
            f"rubric {number}: {kind}" for number, kind in enumerate(self.rubrics, 1)
        ]
        if self.scores:
            shown = ", ".join(f"{score:.4g}" for score in self.scores)
            why.append(f"true scores of the attempts: {shown}")
        flaws = list(self.flaws)
        return {"scores": list(self.scores), "why": why, "flaws": flaws}


def answer_truth(
    world: World,
    task: str,
    answer: str,
    rubrics: Sequence[str] = (),
    grades: Sequence[float | None] = (),
    *,
    graded: str | None = None,
) -> AnswerTruth:
    """The truth about an answer to a task.

    Args:
      world: what is true.
      task: its text.
      answer: the empty string if there was none.
      rubrics: their texts.
      grades: the judge's, one per rubric, None where unreadable, which is never right;
        empty if nothing was graded.
      graded: what the judge has read, if not all of the answer.
    """
    wanted = _wanted(read_task(world, task))
    stated = stated_facts(answer if graded is None else graded)
    found: list[tuple[GradeKind, bool] | None] = []
    for rubric, grade in zip(rubrics, grades, strict=False):
        fact = rubric_fact(rubric)
        kind = grade_kind(stated, fact) if fact else None
        right = grade is not None and (grade > 0.5) == (kind == "met")
        found.append((kind, right) if kind else None)
    return AnswerTruth(
        wanted=wanted,
        score=_score(answer, wanted),
        sentences=sentences(answer),
        grades=tuple(found),
        rubrics=tuple(rubric_kind(world, rubric, wanted) for rubric in rubrics),
    )


def task_truth(
    world: World,
    task: str,
    title: str,
    rubrics: Sequence[str] = (),
    answers: Sequence[str] = (),
) -> TaskTruth:
    """The truth about a task.

    Args:
      world: what is true.
      task: its text.
      title: of its source document.
      rubrics: their texts.
      answers: of the attempts at it; the empty string where one gave none.
    """
    blanks = read_task(world, task)
    wanted = _wanted(blanks)
    named = [name for name in _NAME.findall(task) if name in world.by_name]
    return TaskTruth(
        blanks=blanks,
        described=any(blank.hops > 1 for blank in blanks),
        off_document=bool(named) and named[0] != title,
        rubrics=tuple(rubric_kind(world, rubric, wanted) for rubric in rubrics),
        scores=tuple(_score(answer, wanted) for answer in answers),
    )


def sentences(answer: str) -> int:
    """How many sentences an answer has."""
    return len(_SENTENCE.findall(answer))


def rubric_fact(rubric: str) -> Fact | None:
    """The fact that a rubric asks for; None if it states none, or several."""
    facts = rubric_facts(rubric)
    return facts[0] if len(facts) == 1 else None


def rubric_kind(world: World, rubric: str, wanted: Sequence[Fact]) -> RubricKind:
    """Of which kind a rubric is, for a task that wants these facts."""
    fact = rubric_fact(rubric)
    if fact is None:
        return "generic"
    if world.values.get((fact.entity, fact.relation)) != fact.value:
        return "false"
    return "true" if fact in wanted else "unwanted"


def grade_kind(stated: dict[tuple[str, str], set[str]], fact: Fact) -> GradeKind:
    """What an answer that states these facts says of a rubric's fact."""
    values = stated.get((fact.entity, fact.relation))
    if values is None:
        elsewhere = any(fact.value in others for others in stated.values())
        return "value_elsewhere" if elsewhere else "absent"
    if fact.value not in values:
        return "wrong_value"
    return "met" if len(values) == 1 else "two_values"


def answer_metrics(
    truths: Sequence[AnswerTruth], rewards: Sequence[float], groups: Sequence[int]
) -> dict[str, float]:
    """Metrics of a Solver's step; what was not measured is left out.

    Args:
      truths: of every rollout.
      rewards: of every rollout.
      groups: of every rollout: the number of its prompt.
    """
    scores = [truth.score for truth in truths]
    grades = [grade for truth in truths for grade in truth.grades if grade]
    found = {
        "score": _mean(scores),
        "unanswerable": _mean(not truth.wanted for truth in truths),
        "reward_correlation": within_groups_correlation(rewards, scores, groups),
        "answer_sentences": _mean(t.sentences for t in truths if t.sentences),
        "grades_right": _mean(right for _, right in grades),
    }
    for kind in get_args(GradeKind):
        found[f"grades_right_{kind}"] = _mean(r for k, r in grades if k == kind)
    return _named("truth", found)


def task_metrics(
    truths: Sequence[TaskTruth], prefix: str = "truth"
) -> dict[str, float]:
    """Metrics of tasks that a Challenger wrote; what was not measured is left out."""
    blanks = [blank for truth in truths for blank in truth.blanks]
    rubrics = [kind for truth in truths for kind in truth.rubrics]
    found = {
        "impossible": _mean(blank.flaw == "impossible" for blank in blanks),
        "vague": _mean(blank.flaw == "vague" for blank in blanks),
        "repeated": _mean(blank.flaw == "repeated" for blank in blanks),
        "answerable": _mean(truth.answerable for truth in truths),
        "blanks": _mean(len(truth.blanks) for truth in truths),
        "hops": _mean(blank.hops for blank in blanks if blank.fact),
        "described": _mean(truth.described for truth in truths),
        "off_document": _mean(truth.off_document for truth in truths),
        "rubrics_true": _mean(kind == "true" for kind in rubrics),
        "rubrics_generic": _mean(kind == "generic" for kind in rubrics),
        "difficulty": _mean(score for truth in truths for score in truth.scores),
    }
    return _named(prefix, found)


def within_groups_correlation(
    ones: Sequence[float], others: Sequence[float], groups: Sequence[int]
) -> float:
    """Pearson's correlation of two numbers, each minus its group's mean.

    A policy gradient with a baseline per group follows nothing but these differences:
    at 0, a reward teaches nothing true. NaN where either does not vary.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)

    def centred(values: Sequence[float]) -> np.ndarray:
        array = np.asarray(values, np.float64)
        means = np.bincount(group, array) / np.bincount(group)
        return array - means[group]

    a, b = centred(ones), centred(others)
    # Rounding leaves about 1e-16 where a group's values are all equal.
    if min(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0)) < 1e-9:
        return float("nan")
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _wanted(blanks: Sequence[Blank]) -> tuple[Fact, ...]:
    return tuple(blank.fact for blank in blanks if blank.fact)


def _score(answer: str, wanted: Sequence[Fact]) -> float:
    return true_score(answer, wanted) if wanted else 0.0


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else float("nan")


def _named(prefix: str, found: dict[str, float]) -> dict[str, float]:
    """The metrics that were measured, by their full names."""
    return {
        f"{prefix}/{name}": float(value)
        for name, value in found.items()
        if np.isfinite(value)
    }
