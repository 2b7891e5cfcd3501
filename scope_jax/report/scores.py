"""Scores of several Solvers side by side, with 95% intervals.

They are as an evaluation stores them in ``scores.json``: name of a Solver -> metrics,
in which ``x_stderr`` and ``x_n`` belong to ``x``. Benchmarks have ``x_low`` and
``x_high`` instead of the error: a bootstrap interval, which need not be symmetric.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from scope_jax.run.numbers import format_number

Scores = Mapping[str, Mapping[str, float]]

ENDS = ("_stderr", "_n", "_low", "_high")
"""Of names that belong to a metric, and have no row of their own."""

Z = 1.96
"""Standard errors on each side of a mean that 95 of 100 intervals need."""


def interval(metrics: Mapping[str, float], name: str) -> str:
    """A metric as people read it.

    ``0.573 ± 0.031`` where its error is known, ``0.573 [0.541, 0.603]`` where its
    interval is.
    """
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    if low is not None and high is not None:
        return f"{metrics[name]:.3f} [{low:.3f}, {high:.3f}]"
    error = metrics.get(f"{name}_stderr")
    if error is None:
        return format_number(metrics.get(name))
    return f"{metrics[name]:.3f} ± {Z * error:.3f}"


def score_rows(scores: Scores) -> list[tuple[str, str, list[str]]]:
    """(metric, number of tasks, its value for every Solver).

    Errors and numbers are in their places, and a part of a metric (``x_2_hops``) has
    its own name only (``  2 hops``).
    """
    names = list(dict.fromkeys(n for metrics in scores.values() for n in metrics))
    names = [name for name in names if not _is_about_another(name, names)]
    rows = []
    for name in names:
        sizes = [metrics.get(f"{name}_n") for metrics in scores.values()]
        sizes = [format_number(size) for size in dict.fromkeys(sizes) if size]
        wholes = [whole for whole in names if name.startswith(f"{whole}_")]
        shown = name.removeprefix("eval/")
        for whole in wholes[:1]:
            shown = "  " + name.removeprefix(f"{whole}_").replace("_", " ")
        values = [interval(metrics, name) for metrics in scores.values()]
        rows.append((shown, ", ".join(sizes), values))
    return rows


def _is_about_another(name: str, names: Sequence[str]) -> bool:
    """Whether a metric is the error, interval or number of another one."""
    return any(name.endswith(end) and name.removesuffix(end) in names for end in ENDS)


def score_table(scores: Scores, title: str) -> Table:
    """The scores for a terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for name in ("n", *scores):
        table.add_column(name, justify="right")
    for metric, size, values in score_rows(scores):
        table.add_row(metric, size, *values)
    return table


def paired_gain(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """By mode, the mean gain in true score and half of its 95% interval.

    Both Solvers were given the same tasks, so the gain is taken task by task: how much
    harder one task is than another is then no part of its error.

    Args:
      before, after: records of an evaluation, by task; others are left out.
    """
    gains: dict[str, list[float]] = {}
    for old, new in zip(before, after, strict=False):
        for mode, answer in new.items():
            known = old.get(mode) if old.get("task") == new.get("task") else None
            if isinstance(answer, dict) and isinstance(known, dict):
                scores = answer.get("true_score"), known.get("true_score")
                if all(isinstance(score, int | float) for score in scores):
                    gains.setdefault(mode, []).append(scores[0] - scores[1])
    return {
        mode: (statistics.fmean(each), Z * statistics.stdev(each) / len(each) ** 0.5)
        for mode, each in gains.items()
        if len(each) > 1
    }
