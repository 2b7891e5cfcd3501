"""The rooms of the code, drawn: what each is for, what it imports, how large it is."""

import ast
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from statistics import fmean
from textwrap import wrap

from pages.source import INSTALLED, File, between_rooms, direct, floors

HUES = dict(zip((*INSTALLED, "scripts"), (212, 265, 325, 150, 40, 15), strict=True))
"""Colour of each top folder."""
WIDE, HIGH, FLOOR = 224, 76, 126
"""Size of a box, and from one floor to the next, in pixels."""
STYLE = """text{font:10.5px system-ui,sans-serif;fill:#46525e}
.name{font-size:12.5px;font-weight:600;fill:#1d2733}.page{fill:#fff}
.way{fill:none;stroke:#8a97a5;stroke-width:1.3}.tip{fill:#8a97a5}
@media(prefers-color-scheme:dark){text{fill:#b3bdc8}.name{fill:#eef2f6}
.page{fill:#14191f}.way{stroke:#66727f}.tip{fill:#66727f}}"""
INTRODUCTION = """# The rooms of the code

Written by `python scripts/docs.py` from the imports of the code; a test fails when it
is out of date. A room stands on the floor above all that it imports. The picture leaves
out imports that a longer way down implies; the table has all of them.

![The rooms and their imports](rooms.svg)

| floor | room | what it is for | lines of code | imports |
| --- | --- | --- | --- | --- |
"""


def facts(files: Mapping[str, File]) -> dict[str, tuple[str, int]]:
    """What each room is for, and its lines of code."""
    found = {}
    for room in between_rooms(files):
        inside = [file for file in files.values() if file.room == room]
        own = [f for f in inside if f.path in (room, f"{room}/__init__.py")]
        if own:
            about = ast.get_docstring(own[0].tree).split("\n")[0].replace("`", "")
        else:
            about = "Commands: " + ", ".join(f.path[8:-3] for f in inside if f.lines)
        found[room] = about, sum(len(file.lines) for file in inside)
    return found


def page(files: Mapping[str, File]) -> str:
    """The rooms as Markdown, from the top floor down."""
    below, about = between_rooms(files), facts(files)
    rows = sorted(((-n, room) for room, n in floors(below).items()))
    return INTRODUCTION + "".join(
        f"| {-n} | `{room}` | {about[room][0]} | {about[room][1]:,} | "
        f"{', '.join(sorted(below[room]))} |\n"
        for n, room in rows
    )


Spot = str | tuple[str, str, int]
"""A room, or (from, to, floor) where an arrow passes a floor."""


def places(
    below: Mapping[str, set[str]],
) -> tuple[dict[Spot, tuple[float, int]], list[list[Spot]]]:
    """Centre and floor of every box and of every passing arrow; each arrow's spots.

    Everything is drawn to the middle of what it is linked to, and rows are spread until
    nothing overlaps; sixty times, downwards and upwards in turn.
    """
    height = floors(below)
    ways: list[list[Spot]] = [
        [a, *((a, b, n) for n in range(height[a] - 1, height[b], -1)), b]
        for a, b in direct(below)
    ]
    spots = dict.fromkeys(spot for way in ways for spot in way)
    level = {s: height[s] if isinstance(s, str) else s[2] for s in spots}
    links: dict[Spot, list[Spot]] = {spot: [] for spot in spots}
    for one, other in (pair for way in ways for pair in pairwise(way)):
        links[one].append(other)
        links[other].append(one)
    x = dict.fromkeys(spots, 0.0)
    for sweep in range(60):
        for n in sorted(set(level.values()), reverse=bool(sweep % 2)):
            wanted = {s: fmean(x[o] for o in links[s]) for s in spots if level[s] == n}
            row = sorted(wanted, key=lambda spot: (wanted[spot], str(spot)))
            at = [wanted[row[0]]]
            for pair in pairwise(row):
                apart = sum(WIDE / 2 + 8 if s in height else 10 for s in pair)
                at.append(max(wanted[pair[1]], at[-1] + apart))
            shift = fmean(at) - fmean(wanted.values())
            x |= {spot: a - shift for a, spot in zip(at, row, strict=True)}
    return {spot: (x[spot], level[spot]) for spot in spots}, ways


def draw(files: Mapping[str, File]) -> str:
    """The rooms as an SVG picture that needs nothing else."""
    spots, ways = places(between_rooms(files))
    left = min(x for x, _ in spots.values()) - WIDE / 2 - 16
    width = round(max(x for x, _ in spots.values()) + WIDE / 2 + 16 - left)
    top = max(n for _, n in spots.values())
    at = {s: (round(x - left), (top - n) * FLOOR + 26) for s, (x, n) in spots.items()}
    height = (top + 1) * FLOOR + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        f"<style>{STYLE}</style><defs><marker id='tip' viewBox='0 0 8 8' refX='7' "
        "refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        "<path class='tip' d='M0,0L8,4L0,8z'/></marker></defs>"
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    for way in ways:
        path = f"M{at[way[0]][0]},{at[way[0]][1] + HIGH}"
        for one, other in pairwise(way):
            (x, y), (to, down) = at[one], at[other]
            middle = (y + HIGH + down) // 2
            path += f"V{y + HIGH}C{x},{middle} {to},{middle} {to},{down}"
        parts.append(f'<path class="way" d="{path}" marker-end="url(#tip)"/>')
    for room, (about, lines) in facts(files).items():
        x, y = at[room][0] - WIDE // 2, at[room][1]
        colour = f"hsl({HUES[room.split('/')[0]]},55%,50%)"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="8" '
            f'fill="{colour}" fill-opacity=".14" stroke="{colour}"/>'
            f'<text class="name" x="{x + 10}" y="{y + 18}">{room}</text>'
            f'<text x="{x + WIDE - 10}" y="{y + 18}" text-anchor="end">{lines:,}</text>'
        )
        parts += [
            f'<text x="{x + 10}" y="{y + 35 + 13 * i}">{escape(row)}</text>'
            for i, row in enumerate(wrap(about, 37))
        ]
    return "\n".join([*parts, "</svg>\n"])
