"""What the page about a comparison shows: each answer with how its score came about."""

from collections.abc import Mapping, Sequence
from typing import Any

from scope_jax.evaluation import grading, results
from scope_jax.evaluation.comparison import Comparison
from scope_jax.evaluation.grading import Graded
from scope_jax.suite.rows import Row
from scope_jax.suite.verdicts import VERDICT, Asking, Score, again

BY_ITEM = ("criteria", "dialogue_criteria", "coverage", "rubrics", "equivalence")
"""Judges whose labels are those of a row's items, by number."""

Verdicts = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By model and source, the judge's calls by key."""


def about(found: Mapping[str, Any]) -> dict[str, Any]:
    """What ``scores.json`` holds, as the page takes it."""
    parts = {
        name: {model: results.metrics(one) for model, one in found[name].items()}
        for name in ("models", "gains")
    }
    noted = {"baseline": found["baseline"], "judge": found["judge"]}
    return parts | noted | {"remarks": results.remarks(found)}


def answers(
    told: Comparison, scored: results.Results, records: Verdicts, asking: Asking
) -> dict[str, list[list[dict[str, Any]]]]:
    """By source, of every question the records of all models and samples.

    Args:
      told: what is compared.
      scored: every answer's score.
      records: verdicts of the judge whose scores these are.
      asking: how it was asked.
    """
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for source in told.rows:
        places: dict[str, int] = {}
        groups: list[list[dict[str, Any]]] = []
        for model in told.names:
            kept = told.answers(model, source).records
            for graded, score in scored[model][source]:
                question = graded.question
                place = places.setdefault(question.row.question, len(groups))
                groups += [[]] if place == len(groups) else []
                heard, _ = grading.said_of(graded, records[model][source], asking)
                told_of = _record(graded, score, heard) | _played(kept[question.key])
                uid = f"eval/{source}/{model}/{place}"
                uid += f"/{question.sample + 1}" if told.samples > 1 else ""
                groups[place].append({"uid": uid, "model": model} | told_of)
        found[source] = groups
    return found


def _played(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a conversation."""
    return {
        "messages": answer["messages"],
        "task": answer["prompt"],
        "answer": answer["answer"],
        "searches": answer["searches"],
        "tokens": answer["sampled_tokens"],
        "errors": [],
    }


def _record(
    graded: Graded, score: Score, heard: Mapping[str, str | None]
) -> dict[str, Any]:
    """How an answer's score came about, in the form of a rollout's trace."""
    row = graded.question.row
    names, lines = _lines(row, score)
    judge = []
    for place, name in enumerate(names):
        first = heard.get(name, heard.get(VERDICT) if not place else None)
        grade: dict[str, Any] = {"label": score.labels.get(name, ""), "raw": first}
        if (second := heard.get(again(name))) is not None:
            grade |= {"asked_again_after": first, "raw": second}
        judge.append(grade)
    why = [f"{name} {value:.4g}" for name, value in score.parts.items()]
    if row.short:
        why.append(f"length factor {graded.answer.length:.4g}")
    if score.failed:
        why.append(f"{score.failed} calls of the judge failed")
    why.append(f"score {score.value:.4g}, judged by {row.judge.replace('_', ' ')}")
    wanted = [f"right: {gold}" for gold in row.golds]
    wanted += [f"the baseline's answer: {row.baseline}"] if row.baseline else []
    known = {"rubrics": lines, "judge": judge, "why": why, "wanted": wanted}
    return known | {"score": score.value}


def _lines(row: Row, score: Score) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the judge's labels, and what each is about."""
    if row.judge == "equivalence":
        return ["0"], ["means one of the right answers"]
    if row.judge in BY_ITEM:
        texts = [
            item.text + (f" (weight {item.weight:g})" if item.weight != 1 else "")
            for item in row.items
        ]
        return [str(n) for n in range(len(texts))], texts
    names = list(score.labels) or [VERDICT]
    return names, [name.replace("_", " ") for name in names]
