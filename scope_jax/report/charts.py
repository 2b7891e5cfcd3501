"""Line charts as inline SVG: no script, no file of its own."""

import html
import math
from collections.abc import Mapping, Sequence

from scope_jax.run.tracking import format_number

Points = Sequence[tuple[float, float]]

COLOURS = (
    "#2a6fdb",
    "#d1495b",
    "#3d8b40",
    "#b07d1a",
    "#7b4fb5",
    "#1695a3",
    "#c2571a",
    "#5b6770",
)
WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 24


def line_chart(
    caption: str,
    series: Mapping[str, Points],
    *,
    marks: Sequence[float] = (),
    alarms: Sequence[float] = (),
) -> str:
    """A figure with one line per series; arguments as of ``lines``, and its title."""
    svg = lines(series, marks=marks, alarms=alarms)
    legend = " &middot; ".join(
        f'<span style="color:{colour}">{html.escape(name)}</span>'
        for name, colour in zip(series, COLOURS, strict=False)
    )
    return svg and (
        f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}"
        f'<div style="font-size:12px;max-width:{WIDTH}px">{legend}</div></figure>'
    )


def lines(
    series: Mapping[str, Points],
    *,
    marks: Sequence[float] = (),
    alarms: Sequence[float] = (),
) -> str:
    """An SVG drawing with one line per series; empty where there is no point.

    Args:
      series: name -> (x, y) points, as many series as there are `COLOURS` at most;
        non-finite points are left out.
      marks: x positions of vertical lines.
      alarms: the same, in red.
    """
    series = {
        name: [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        for name, points in series.items()
    }
    everything = [p for points in series.values() for p in points]
    if not everything:
        return ""
    x_low, x_high = _span([x for x, _ in everything])
    y_low, y_high = _span([y for _, y in everything])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = []
    for i in range(5):
        value = y_low + (y_high - y_low) * i / 4
        _, y = at(x_low, value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" '
            'stroke="#e3e8ec"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">'
            f"{format_number(float(f'{value:.3g}'))}</text>"
        )
    grey, red = 'stroke="#9aa7b4" stroke-dasharray="4 3"', 'stroke="#b3261e"'
    for value, look in [(v, grey) for v in marks] + [(v, red) for v in alarms]:
        x, _ = at(value, y_low)
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" {look}/>'
        )
    for value, anchor in ((x_low, "start"), (x_high, "end")):
        x, _ = at(value, y_low)
        parts.append(
            f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
            f"{format_number(value)}</text>"
        )
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        spots = [at(x, y) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in spots)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            'stroke-width="1.8"/>'
        )
        title = html.escape(name)
        for (x, y), (_, value) in zip(spots, points, strict=True):
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="2.2" fill="{colour}">'
                f"<title>{title}: {format_number(value)}</title></circle>"
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, apart even where they are equal."""
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.1 or 0.5
        return low - room, high + room
    return low, high
