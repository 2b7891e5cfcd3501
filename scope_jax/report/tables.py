"""A stage's metrics as a table: first, last and mean value of each."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from scope_jax.run.numbers import format_number

TABLE = (
    *("reward/", "truth/", "tasks/", "judge/", "bias/", "alarm/"),
    *("errors/", "rollout/", "retrieval/", "preference/", "loss/", "agree/"),
)
"""Prefixes of the metrics in a stage's table, in this order."""


def stage_table(records: list[dict[str, Any]], title: str) -> Table:
    """A table of a stage's records: first, last and mean value of each metric."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for heading in ("first", "last", "mean"):
        table.add_column(heading, justify="right")
    for name, *values in table_rows(records):
        table.add_row(name, *map(format_number, values))
    return table


def table_rows(
    records: list[dict[str, Any]],
) -> Iterator[tuple[str, float | None, float | None, float]]:
    """(name, first, last, mean) of each metric that is worth a line in a table.

    First and last are None where that step has no value, as a share of nothing.
    """
    for name in table_names(records):
        # A step without an error has no count of it: there the count is 0.
        absent = 0.0 if name.startswith("errors/") else None
        found = [record.get(name, absent) for record in records]
        values = [value for value in found if value is not None]
        yield name, found[0], found[-1], sum(values) / len(values)


def table_names(records: list[dict[str, Any]]) -> list[str]:
    """Metrics worth a line in a table, ordered by `TABLE`, the mean reward first."""
    names = {k for r in records for k, v in r.items() if v is not None and "/" in k}
    spread = ("/min", "/max", "/std")
    chosen = [
        n
        for n in names
        if not n.endswith(spread)
        and (n.startswith(TABLE) or "tokens_per_s" in n or n.endswith("_share"))
    ]
    prefixes = [*TABLE, "perf/"]

    def rank(name: str) -> tuple[int, bool, str]:
        prefix = name.split("/")[0] + "/"
        return prefixes.index(prefix), name != "reward/mean", name

    return sorted(chosen, key=rank)
