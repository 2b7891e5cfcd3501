"""A benchmark's notes, which may lie in one another, as lines and tables for people."""

from collections.abc import Mapping
from typing import Any

SPREAD = ("median", "lowest", "highest")


def lines(name: str, value: Any) -> list[str]:
    """What is said of one note: a line, or several of which the further are indented.

    Mappings with the same names in each become a table, one of median, lowest and
    highest a line.
    """
    if not isinstance(value, Mapping) or not value:
        return [f"{name}: {said(value)}"]
    if tuple(value) == SPREAD:
        median, lowest, highest = (said(value[part]) for part in SPREAD)
        return [f"{name}: {median} ({lowest} to {highest})"]
    return [f"{name}:", *(f"  {line}" for line in _inner(value))]


def said(value: Any) -> str:
    """A number with four digits that count, or all before the point; else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _inner(value: Mapping[Any, Any]) -> list[str]:
    rows = list(value.values())
    if not all(isinstance(row, Mapping) for row in rows):
        return [line for item in value.items() for line in lines(*item)]
    names = list(rows[0])
    flat = not any(isinstance(x, Mapping) for row in rows for x in row.values())
    if not names or not flat or any(list(row) != names for row in rows):
        return [line for item in value.items() for line in lines(*item)]
    cells = [["", *map(str, names)]]
    cells += [[str(name), *map(said, row.values())] for name, row in value.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [first.ljust(widths[0])]
            + [cell.rjust(wide) for cell, wide in zip(rest, widths[1:], strict=True)]
        )
        for first, *rest in cells
    ]
