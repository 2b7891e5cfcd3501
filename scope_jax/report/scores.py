"""Scores of several Solvers side by side, with 95% intervals.

They are as an evaluation stores them in ``scores.json``: name of a Solver -> metrics,
in which ``x_stderr`` and ``x_n`` belong to ``x``.
"""

from collections.abc import Mapping

from rich.table import Table

from scope_jax.report.charts import line_chart
from scope_jax.report.rollout import escape
from scope_jax.run.tracking import format_number

Scores = Mapping[str, Mapping[str, float]]

Z = 1.96
"""Standard errors on each side of a mean that 95 of 100 intervals need."""


def interval(metrics: Mapping[str, float], name: str) -> str:
    """A metric as people read it: ``0.573 ± 0.031`` where its error is known."""
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
    names = [name for name in names if not name.endswith(("_stderr", "_n"))]
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


def score_table(scores: Scores, title: str) -> Table:
    """The scores for a terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for name in ("n", *scores):
        table.add_column(name, justify="right")
    for metric, size, values in score_rows(scores):
        table.add_row(metric, size, *values)
    return table


def scores_html(kind: str, scores: Scores) -> list[str]:
    """Scores for the report: curves from Solver to Solver, and a table."""
    modes = {
        name: [
            (number, metrics[name])
            for number, metrics in enumerate(scores.values())
            if name in metrics
        ]
        for name in ("eval/sampled/true_score", "eval/greedy/true_score")
    }
    chart = line_chart("True score after each iteration (0: base model)", modes)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("n", *scores))
    rows = ""
    for metric, size, values in score_rows(scores):
        cells = "".join(f"<td>{escape(value)}</td>" for value in (size, *values))
        rows += f"<tr><td>{escape(metric)}</td>{cells}</tr>"
    return [
        f"<h3>{escape(kind)}</h3>",
        chart,
        f"<table><tr><th>metric, ± 95% interval</th>{head}</tr>{rows}</table>",
    ]
