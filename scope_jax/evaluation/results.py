"""What a comparison comes to: scores by source and group, gains, agreement, tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scope_jax.evaluation.grading import Graded
from scope_jax.report.scores import score_rows
from scope_jax.suite import agreement
from scope_jax.suite.statistics import (
    by_question,
    estimate,
    over_sources,
    paired,
)
from scope_jax.suite.verdicts import Score

Scored = Sequence[tuple[Graded, Score]]
"""Answers with their scores, in the order of the rows."""

Results = Mapping[str, Mapping[str, Scored]]
"""By model and source."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made."""

    resamples: int
    seed: int

    def means(
        self, values: Mapping[str, Mapping[str, float]], short: set[str]
    ) -> dict[str, dict[str, Any]]:
        """Estimates by source, and of the means of sources: short-form, others, all.

        Args:
          values: by source and question.
          short: sources of the short form.
        """
        by = {source: list(each.values()) for source, each in values.items()}
        groups = {
            "avg": list(by.values()),
            "avg_short": [each for source, each in by.items() if source in short],
            "avg_long": [each for source, each in by.items() if source not in short],
        }
        return {
            "sources": {
                source: estimate(each, self.resamples, self.seed).json()
                for source, each in by.items()
            },
            "groups": {
                name: over_sources(each, self.resamples, self.seed).json()
                for name, each in groups.items()
                if each
            },
        }


def summary(results: Results, baseline: str, how: Bootstrap) -> dict[str, Any]:
    """Scores of every model and gains over the baseline, as they are stored.

    Args:
      results: of every model.
      baseline: the model over which gains are measured.
      how: intervals are made.
    """
    values = {
        model: {source: _values(scored) for source, scored in sources.items()}
        for model, sources in results.items()
    }
    short = {
        source
        for sources in results.values()
        for source, scored in sources.items()
        if scored[0][0].question.row.short
    }
    models, gains = {}, {}
    for model, sources in results.items():
        models[model] = how.means(values[model], short)
        for source, scored in sources.items():
            models[model]["sources"][source] |= _counts(scored)
        if model != baseline:
            differences = {
                source: paired(by, values[baseline][source])
                for source, by in values[model].items()
            }
            gains[model] = how.means(differences, short)
    return {"baseline": baseline, "models": models, "gains": gains}


def _values(scored: Scored) -> dict[str, float]:
    """The mean score of each question."""
    return by_question([(each.question.row.question, s.value) for each, s in scored])


def _counts(scored: Scored) -> dict[str, Any]:
    """What else is known of a source's answers."""
    each = [score for _, score in scored]
    counts: dict[str, Any] = {
        "answers": len(each),
        "empty": sum(not graded.answer.text for graded, _ in scored),
        "unreadable": sum(score.unreadable for score in each),
        "failed": sum(score.failed for score in each),
    }
    for name in each[0].parts:
        by = by_question([(g.question.row.question, s.parts[name]) for g, s in scored])
        counts[name] = math.fsum(by.values()) / len(by)
    return counts


def two_judges(first: Results, second: Results) -> dict[str, Any]:
    """How far two judges agree, on what both have judged.

    Args:
      first, second: of the same answers.

    Returns:
      for each source and for all: kappa of verdicts, rank correlation of answers'
      scores; and the rank correlation of the models' means over all answers.
    """
    labels: dict[str, tuple[list[str], list[str]]] = {}
    values: dict[str, tuple[list[float], list[float]]] = {}
    means: tuple[list[float], list[float]] = ([], [])
    for model, sources in first.items():
        both: tuple[list[float], list[float]] = ([], [])
        for source, scored in sources.items():
            for (_, one), (_, two) in zip(scored, second[model][source], strict=True):
                for name in (source, "all"):
                    said = labels.setdefault(name, ([], []))
                    shared = [call for call in one.labels if call in two.labels]
                    said[0].extend(one.labels[call] for call in shared)
                    said[1].extend(two.labels[call] for call in shared)
                    given = values.setdefault(name, ([], []))
                    given[0].append(one.value)
                    given[1].append(two.value)
                both[0].append(one.value)
                both[1].append(two.value)
        for mean, one in zip(means, both, strict=True):
            mean.append(math.fsum(one) / len(one))
    found = {
        name: {
            "verdicts": len(labels[name][0]),
            "kappa": agreement.kappa(*labels[name]),
            "answers": len(values[name][0]),
            "rank": agreement.rank(*values[name]),
        }
        for name in values
    }
    return {"sources": found, "rank_of_models": agreement.rank(*means)}


def metrics(part: Mapping[str, Any]) -> dict[str, float]:
    """Scores of one model, or its gains, flat, as tables show them."""
    flat: dict[str, float] = {}
    for name, each in {**part["sources"], **part["groups"]}.items():
        flat[name] = each["mean"]
        flat[f"{name}_n"] = each["n"]
        if each["low"] is not None:
            flat |= {f"{name}_low": each["low"], f"{name}_high": each["high"]}
        for extra in ("exact_match", "f1"):
            if extra in each:
                flat[f"{name}_{extra}"] = each[extra]
    return flat


def markdown(title: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """A table of scores or gains for a page."""
    lines = [f"| {title} | n | {' | '.join(scores)} |"]
    lines.append(f"| --- | ---: |{' ---: |' * len(scores)}")
    for name, size, values in score_rows(scores):
        shown = name.strip() if name == name.strip() else f"&nbsp;&nbsp;{name.strip()}"
        lines.append(f"| {shown} | {size} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def line(graded: Graded, score: Score) -> dict[str, Any]:
    """The score of one answer, as it is stored."""
    return {
        "source": graded.question.row.source,
        "question": graded.question.row.question,
        "sample": graded.question.sample,
        "answer": graded.answer.text,
        "score": score.value,
        **score.parts,
        "length": graded.answer.length,
        "labels": score.labels,
        "unreadable": score.unreadable,
        "failed": score.failed,
    }


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the table should know besides."""
    lines = []
    for model, part in found["models"].items():
        for source, each in part["sources"].items():
            said = [
                f"{each[what]} {words}"
                for what, words in (
                    ("empty", "without an answer (score 0)"),
                    ("unreadable", "verdicts without a grade"),
                    ("failed", "calls of the judge failed"),
                )
                if each[what]
            ]
            if said:
                answers = f"{each['answers']} answers"
                lines.append(f"{model}, {source}: {answers}, {', '.join(said)}")
    if agreed := found.get("agreement"):
        whole = agreed["sources"]["all"]
        lines.append(
            f"agreement with {agreed['with']}: kappa {_shown(whole['kappa'])} of "
            f"{whole['verdicts']} verdicts, rank correlation of {whole['answers']} "
            f"answers {_shown(whole['rank'])}, of the models "
            f"{_shown(agreed['rank_of_models'])}"
        )
    return lines


def cost_line(cost: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """What the judge has cost, and what of it its cache has saved."""
    each = [counted for by in cost.values() for counted in by.values()]
    calls, prompt, cached, written = (
        sum(counted[name] for counted in each)
        for name in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")
    )
    share = f" ({cached / prompt:.0%})" if prompt else ""
    return (
        f"judge: {calls:,} calls, {prompt:,} prompt tokens, of which {cached:,}{share} "
        f"were in its cache, {written:,} tokens written"
    )


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
