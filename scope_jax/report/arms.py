"""Several runs on one page: which are one arm, and what differs between them."""

from collections.abc import Mapping, Sequence
from typing import Any

from scope_jax.run.resuming import HARMLESS

NAMES = ("name", "seed", "model.date")
"""Settings in which runs of an arm may differ, besides those that change nothing."""


def arms(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs of the same settings but for the seed, each arm with a name.

    Args:
      runs: as ``runs.load`` gives them.
    """
    found: dict[frozenset[tuple[str, str]], list[int]] = {}
    for number, run in enumerate(runs):
        found.setdefault(frozenset(_settings(run).items()), []).append(number)
    return [
        {"name": _name([runs[i] for i in members]), "runs": members}
        for members in found.values()
    ]


def differences(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings that are not the same in all runs, with the value of each."""
    names = dict.fromkeys(name for run in runs for name in run["config"])
    found = []
    for name in names:
        values = [run["config"].get(name) for run in runs]
        if len(set(values)) > 1:
            found.append({"name": name, "values": values})
    return found


def _settings(run: Mapping[str, Any]) -> dict[str, str]:
    ignored = tuple(f"{name}." for name in (*NAMES, *HARMLESS))
    return {
        name: value
        for name, value in run["config"].items()
        if not f"{name}.".startswith(ignored)
    }


def _name(runs: Sequence[Mapping[str, Any]]) -> str:
    if len(runs) == 1:
        return runs[0]["folder"]
    seeds = ", ".join(run["config"].get("seed", "?") for run in runs)
    stem = _common([run["folder"] for run in runs]).rstrip("_-. ")
    return f"{stem or runs[0]['name']} (seeds {seeds})"


def _common(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    for place, letter in enumerate(first):
        if place >= len(last) or last[place] != letter:
            return first[:place]
    return first
