"""Line charts as inline SVG: no script, no file of its own."""

import html
import math
from collections.abc import Callable, Mapping, Sequence

from scope_jax.run.numbers import format_number

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
    ranges: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
) -> str:
    """An SVG drawing with one line per series; empty where there is no point.

    Args:
      series: name -> (x, y) points, as many series as there are `COLOURS` at most;
        non-finite points are left out.
      marks: x positions of vertical lines.
      alarms: the same, in red.
      ranges: of some series, intervals (x, low, high) that are drawn as bars.
    """
    ranges = ranges or {}
    series = {
        name: [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        for name, points in series.items()
    }
    everything = [p for points in series.values() for p in points]
    if not everything:
        return ""
    ends = [(x, y) for name in ranges for x, *both in ranges[name] for y in both]
    everything += ends
    across = _span([x for x, _ in everything])
    up = _span([y for _, y in everything])

    def at(x: float, y: float) -> tuple[float, float]:
        right = (x - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)
        high = (y - up[0]) / (up[1] - up[0]) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + right, 1), round(HEIGHT - BOTTOM - high, 1)

    parts = _frame(at, across, up)
    grey, red = 'stroke="#9aa7b4" stroke-dasharray="4 3"', 'stroke="#b3261e"'
    for value, look in [(v, grey) for v in marks] + [(v, red) for v in alarms]:
        x, _ = at(value, up[0])
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" {look}/>'
        )
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        parts += _line(at, name, points, colour)
        for x, low, high in ranges.get(name, ()):
            (place, bottom), (_, top) = at(x, low), at(x, high)
            parts.append(
                f'<line x1="{place}" x2="{place}" y1="{bottom}" y2="{top}" '
                f'stroke="{colour}" stroke-opacity=".6"/>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    )


Place = Callable[[float, float], tuple[float, float]]
"""Values of a point -> where it is drawn."""


def _frame(
    at: Place, across: tuple[float, float], up: tuple[float, float]
) -> list[str]:
    """Five horizontal lines with their values, and the ends of the x axis."""
    parts = []
    for i in range(5):
        value = up[0] + (up[1] - up[0]) * i / 4
        _, y = at(across[0], value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" '
            'stroke="#e3e8ec"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">'
            f"{format_number(float(f'{value:.3g}'))}</text>"
        )
    for value, anchor in zip(across, ("start", "end"), strict=True):
        x, _ = at(value, up[0])
        parts.append(
            f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
            f"{format_number(round(value))}</text>"
        )
    return parts


def _line(at: Place, name: str, points: Points, colour: str) -> list[str]:
    """A series: its line, and a spot at each point that says its value."""
    spots = [at(x, y) for x, y in points]
    path = " ".join(f"{x},{y}" for x, y in spots)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    ]
    title = html.escape(name)
    for (x, y), (_, value) in zip(spots, points, strict=True):
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="2.2" fill="{colour}">'
            f"<title>{title}: {format_number(value)}</title></circle>"
        )
    return parts


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, apart even where they are equal."""
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.1 or 0.5
        return low - room, high + room
    return low, high
