"""From an answer to its score: which calls of the judge it takes, what they come to.

Both are pure: ``calls`` says what is still to be asked, given what was said, and
``score`` adds up what was said. An empty answer scores 0 and is not shown to a judge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scope_jax.method import judge
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import Message
from scope_jax.method.prompts import PromptSet
from scope_jax.method.types import Rubric
from scope_jax.suite import judge_prompts, ratings, scores
from scope_jax.suite.rows import Row

Calls = dict[str, tuple[Message, ...]]
"""Name of a call among those about an answer -> the conversation to be sent."""

Said = Mapping[str, str | None]
"""Name of a call -> what the judge said; None where every attempt failed."""

BASELINE_FIRST, MODEL_FIRST = "baseline_first", "model_first"
VERDICT = "verdict"
"""The name of a call that is the only one."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a judge is asked and read.

    Attributes:
      prompts: for the equivalence of short answers, the family's own judge prompt.
      thinking: the judge is a thinking model.
      retry: an equivalence that could not be read is asked for once more.
      compat: ``mean_over_lines`` and ``verdicts_in_thinking``.
    """

    prompts: PromptSet
    thinking: bool = False
    retry: bool = True
    compat: Compat = OFF


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer, as the judge and the formulas see it.

    Attributes:
      text: the answer; empty if there is none.
      graded: what of it the judge sees; empty: nothing, and the score is 0.
      length: the length factor, of short-form questions (spec 10).
    """

    text: str
    graded: str
    length: float = 1.0


@dataclass(frozen=True)
class Score:
    """A score and how it came about.

    Attributes:
      value: from 0 to 1.
      parts: other numbers about the answer.
      labels: by call, what was read, as a category; for the agreement of two judges.
      unreadable: calls in whose answer there was no verdict.
      failed: calls that were not answered.
    """

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0
    failed: int = 0


def calls(row: Row, answer: Answer, said: Said, asking: Asking) -> Calls:
    """The calls that are still to be made about an answer; empty when all are."""
    if not answer.graded:
        return {}
    wanted = _CALLS.get(row.judge, _single)(row, answer.graded, asking)
    if row.judge in ("rubrics", "equivalence") and asking.retry:
        wanted |= {
            again(name): asking.prompts.grade_retry(messages, first)
            for name, messages in wanted.items()
            if (first := said.get(name)) is not None
            and judge.parse_grade(first, compat=asking.compat) is None
        }
    return {name: messages for name, messages in wanted.items() if name not in said}


def again(name: str) -> str:
    """The name of a call that is made once more, because no grade could be read."""
    return f"{name}, again"


def _single(row: Row, graded: str, asking: Asking) -> Calls:
    if row.judge == "coverage":
        if not row.items:
            return {}
        questions = [item.text for item in row.items]
        return {VERDICT: ratings.ask(row.prompt, graded, questions)}
    ask = {
        "quality": judge_prompts.quality,
        "report": judge_prompts.report,
        "checklist": judge_prompts.checklist,
    }[row.judge]
    return {VERDICT: ask(row, graded)}


def _criteria(row: Row, graded: str, asking: Asking) -> Calls:
    if not any(item.weight > 0 for item in row.items):
        return {}  # whatever is met, the score is 0
    dialogue = row.judge == "dialogue_criteria"
    ask = judge_prompts.turn_criterion if dialogue else judge_prompts.criterion
    return {str(n): ask(row, graded, item) for n, item in enumerate(row.items)}


def _pair(row: Row, graded: str, asking: Asking) -> Calls:
    return {
        BASELINE_FIRST: judge_prompts.pair(row, row.baseline, graded),
        MODEL_FIRST: judge_prompts.pair(row, graded, row.baseline),
    }


def _rubrics(row: Row, graded: str, asking: Asking) -> Calls:
    if not row.short and not any(item.weight > 0 for item in row.items):
        return {}
    asked = judge.grade_prompts(
        asking.prompts,
        row.prompt,
        graded,
        [Rubric(text) for text, _ in _weighted(row)],
        thinking=asking.thinking,
    )
    return {str(n): messages for n, messages in enumerate(asked)}


def _weighted(row: Row) -> list[tuple[str, float]]:
    """Rubrics and weights; right answers make one rubric."""
    if row.short:
        return [(judge_prompts.equivalent(row.golds), 1.0)]
    return [(item.text, item.weight) for item in row.items]


_CALLS = {
    "criteria": _criteria,
    "dialogue_criteria": _criteria,
    "pairwise": _pair,
    "rubrics": _rubrics,
    "equivalence": _rubrics,
}


def score(row: Row, answer: Answer, said: Said, asking: Asking) -> Score:
    """What an answer is worth, given all that was said of it.

    A call that failed counts like one without a verdict; both are counted.
    """
    parts = scores.short_form(answer.text, row.golds) if row.short else {}
    if not answer.graded:
        return Score(0.0, parts)
    value, labels, readable = _SCORES[row.judge](row, answer, said, asking)
    answered = sum(text is not None for text in said.values())
    return Score(
        value,
        parts,
        labels,
        unreadable=max(answered - readable, 0),
        failed=len(said) - answered,
    )


Read = tuple[float, dict[str, str], int]
"""The value, the labels, and how many of the calls had a verdict."""


def _score_criteria(row: Row, answer: Answer, said: Said, asking: Asking) -> Read:
    texts = {str(n): said.get(str(n)) or "" for n in range(len(row.items))}
    verdicts = {n: scores.met(text, asking.compat) for n, text in texts.items()}
    weights = [item.weight for item in row.items]
    readable = [
        n
        for n, text in texts.items()
        if "criteria_met" in scores.json_object(text, asking.compat)
    ]
    labels = {n: "met" if verdicts[n] else "not met" for n in readable}
    return scores.criteria(list(verdicts.values()), weights), labels, len(readable)


def _score_coverage(row: Row, answer: Answer, said: Said, asking: Asking) -> Read:
    if not row.items:
        return 0.0, {}, 0
    text, count = said.get(VERDICT) or "", len(row.items)
    lines = ratings.phrases(text, asking.compat)[:count]
    value = ratings.score(text, count, compat=asking.compat)
    labels = {str(n): phrase for n, phrase in enumerate(lines)}
    return value, labels if len(lines) == count else {}, bool(lines)


def _score_marks(row: Row, answer: Answer, said: Said, asking: Asking) -> Read:
    formula, names = {
        "quality": (scores.quality, ("content_quality",)),
        "report": (scores.report, scores.DIMENSIONS),
        "checklist": (scores.checklist, ("score",)),
    }[row.judge]
    text = said.get(VERDICT) or ""
    found = scores.json_object(text, asking.compat)
    marks: dict[str, Any] = {name: scores.mark(found, name) for name in names}
    labels = {name: f"{mark:g}" for name, mark in marks.items() if mark is not None}
    return formula(text, asking.compat), labels, bool(labels)


def _score_pair(row: Row, answer: Answer, said: Said, asking: Asking) -> Read:
    read = {
        name: scores.label(said.get(name) or "", asking.compat)
        for name in (BASELINE_FIRST, MODEL_FIRST)
    }
    labels = {name: label for name, label in read.items() if label}
    value = scores.pairwise(read[BASELINE_FIRST], read[MODEL_FIRST])
    return value, labels, len(labels)


def _score_rubrics(row: Row, answer: Answer, said: Said, asking: Asking) -> Read:
    weighted = _weighted(row)
    grades = []
    for name in map(str, range(len(weighted))):
        texts = [said[n] or "" for n in (name, again(name)) if n in said]
        read = [judge.parse_grade(text, compat=asking.compat) for text in texts]
        grades.append(read[-1] if read else None)
    labels = {str(n): f"{g:g}" for n, g in enumerate(grades) if g is not None}
    value = scores.criteria([g or 0.0 for g in grades], [w for _, w in weighted])
    # The first of two calls had no grade, or there would be no second.
    return value * answer.length, labels, len(labels)


_SCORES = {
    "criteria": _score_criteria,
    "dialogue_criteria": _score_criteria,
    "coverage": _score_coverage,
    "quality": _score_marks,
    "report": _score_marks,
    "checklist": _score_marks,
    "pairwise": _score_pair,
    "rubrics": _score_rubrics,
    "equivalence": _score_rubrics,
}
