"""The judge's score against the truth: one chart, and what became of the alarm."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from scope_jax.report.charts import line_chart
from scope_jax.run import alarm


def chart(records: Sequence[Mapping[str, Any]], marks: Sequence[float]) -> str:
    """A figure for a stage's records; empty where no truth was measured.

    Args:
      records: of one stage, over all iterations.
      marks: where iterations change, as of ``charts.lines``.
    """
    known = alarm.pair(records)
    if known is None:
        return ""
    places = [position + 1 for position in known.positions]
    series = {
        alarm.PROXY: list(zip(places, known.proxy.tolist(), strict=True)),
        known.truth_name: list(zip(places, known.truth.tolist(), strict=True)),
    }
    caption = f"The judge's score and {alarm.TRUTHS[known.truth_name]}"
    figure = line_chart(
        caption, series, marks=marks, alarms=[i + 1 for i in _beginnings(records)]
    )
    words = f'<div style="font-size:12px">{html.escape(told(records))}</div></figure>'
    return figure.removesuffix("</figure>") + words


def told(records: Sequence[Mapping[str, Any]]) -> str:
    """Whether and when the alarm went on, and how long after the parting that was."""
    begun = _beginnings(records)
    if not begun:
        return "No alarm."
    steps = [str(records[i]["step"]) for i in begun]
    text = f"Alarm (red) at step {', '.join(steps)}: the judge may be exploited."
    known = alarm.pair(records)
    if known is None:
        return text
    corner = alarm.parted_after(known.proxy - known.truth)
    if corner is None or known.positions[corner] >= begun[0]:
        return text
    later = begun[0] - known.positions[corner]
    return (
        f"{text} Looking back, the gap between the two grew after step "
        f"{known.steps[corner]} (a level and then a straight line, fitted to all "
        f"steps): the first alarm came {later} {'step' if later == 1 else 'steps'} "
        "later."
    )


def _beginnings(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Positions of the records at which the alarm went on."""
    on = [bool(record.get(alarm.METRIC)) for record in records]
    return [i for i, one in enumerate(on) if one and not (i and on[i - 1])]
