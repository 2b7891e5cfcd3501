"""The speed board's row: seconds on two cores until the Solver is good enough.

Rules: three seeds of the method as it is, each on two processor cores and no GPU; the
seconds from the start of the program to the end of the first iteration whose Solver has
a true score of 0.65 or more at T=1 on 450 held-out tasks. The evaluation's own time is
not counted, nor is anything after four iterations.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from models.errors import UserError

SCORE, COUNT, SEEDS, ITERATIONS, CORES = 0.65, 450, 3, 4, 2
HEAD = "| seconds (median) | each seed | commit | settings |\n| --- | --- | --- | --- |"


def seconds(summary: Mapping[str, Any]) -> float:
    """Seconds until a run's Solver is good enough; infinity if it never is.

    Raises:
      UserError: the time is not known, or the score was not measured as the rules say.
    """
    name = f"{summary['arm']} {summary['seed']}"
    for iteration in range(1, ITERATIONS + 1):
        score = summary["scores"].get(f"iter_{iteration}")
        if score is None:
            break
        if score.get("n") != COUNT or "sampled" not in score:
            raise UserError(f"{name}: was not scored at T=1 on {COUNT} tasks")
        if score["sampled"] >= SCORE:
            found = summary["seconds"]["until"].get(f"iter_{iteration}")
            if found is None:
                raise UserError(
                    f"{name}: was interrupted, so its time is not known: delete its "
                    "folder and summary, and start it again"
                )
            return found
    return math.inf


def row(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The board's row of three runs."""
    if len(summaries) != SEEDS:
        raise UserError(f"a row needs {SEEDS} runs: {len(summaries)} are here")
    each = [seconds(one) for one in sorted(summaries, key=lambda one: one["seed"])]
    commits = ", ".join(dict.fromkeys(one["commit"] for one in summaries))
    settings = {
        name: value
        for name, value in summaries[0]["settings"].items()
        if name not in ("seed", "iterations")
    }
    shown = ", ".join(f"`{name}={value}`" for name, value in settings.items())
    config = summaries[0]["config"]
    return (
        f"| {_shown(statistics.median(each))} | {', '.join(map(_shown, each))} | "
        f"{commits} | `{config}`{': ' if shown else ''}{shown} |"
    )


def _shown(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{value:.0f}"
