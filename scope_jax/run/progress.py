"""How far a run is: time left, and the few numbers of a stage that people watch."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scope_jax.run.records import STAGES, position

Record = Mapping[str, Any]

WATCHED: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "challenger": (
        ("reward", ("reward/mean",)),
        ("difficulty", ("reward/difficulty",)),
        ("true difficulty", ("truth/difficulty", "reward/quality")),
        ("searches", ("rollout/ran_searches",)),
    ),
    "tasks": (
        ("kept", ("tasks/kept",)),
        ("Solver's score", ("reward/rubric_score",)),
        ("answerable", ("truth/kept/answerable", "tasks/written")),
        ("gates failed", ("tasks/gates_failed",)),
    ),
    "solver": (
        ("reward", ("reward/mean",)),
        ("accuracy", ("reward/accuracy",)),
        ("true score", ("truth/score", "reward/format")),
        ("searches", ("rollout/ran_searches",)),
        ("pairs in order", ("preference/accuracy",)),
        ("margin", ("preference/margin",)),
    ),
    "evaluation": (
        ("sampled", ("eval/sampled/true_score",)),
        ("greedy", ("eval/greedy/true_score",)),
    ),
}
"""Of each stage, labels and metrics; of several metrics the first that is measured."""

SPARKS = "▁▂▃▄▅▆▇█"


def watched(stage: str, records: Sequence[Record]) -> list[tuple[str, list[float]]]:
    """(label, its values so far) of the numbers of a stage that are shown."""
    found = []
    for label, names in WATCHED.get(stage, ()):
        for name in names:
            values = [r[name] for r in records if r.get(name) is not None]
            if values:
                shown = label if name == names[0] else name.partition("/")[2]
                found.append((shown.replace("_", " "), values))
                break
    return found


def spark(values: Sequence[float], width: int) -> str:
    """The last values as a line of blocks, from the lowest to the highest of them."""
    last = list(values)[-width:] if width > 0 else []
    if not last:
        return ""
    low, high = min(last), max(last)
    if high == low:
        return SPARKS[3] * len(last)
    top = len(SPARKS) - 1
    return "".join(SPARKS[round((value - low) / (high - low) * top)] for value in last)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as on a clock: ``1:02:03``, ``4:05``."""
    whole = max(round(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def stage_left(times: Sequence[float], done: int, total: int) -> float | None:
    """Seconds that a stage still takes, by its last steps; None before there are any.

    Args:
      times: when it began, and when each of its steps since then had ended.
      done: steps (or tasks) that these were.
      total: those of the stage still to come, and ``done``.
    """
    if len(times) < 2 or done <= 0:
        return None
    if done == len(times) - 1:  # one at a time: the middle is not moved by a slow one
        each = [b - a for a, b in itertools.pairwise(times)]
        return statistics.median(each[-8:]) * (total - done)
    return (times[-1] - times[0]) / done * (total - done)


def run_left(
    records: Sequence[Record], iteration: int, stage: str, left: float | None, last: int
) -> float | None:
    """Seconds that the run still takes: other stages as long as they took before.

    Args:
      records: of the run so far, in order.
      iteration, stage: that are being run.
      left: of this stage.
      last: the run's iterations.

    Returns:
      None while a stage that is to come has never been run.
    """
    took = stage_seconds(records)
    stages = [name for name in STAGES if name != "evaluation" or name in took]
    if left is None and (left := took.get(stage)) is None:
        return None
    coming = [
        name
        for number in range(iteration, last + 1)
        for name in stages
        if (number, STAGES.index(name)) > (iteration, STAGES.index(stage))
    ]
    if any(name not in took for name in coming):
        return None
    return left + sum(took[name] for name in coming)


def stage_seconds(records: Sequence[Record]) -> dict[str, float]:
    """What each stage took when it was finished last, what came before it included."""
    found: dict[str, float] = {}
    began = None
    for at, record in enumerate(records):
        unix = record.get("time/unix")
        if unix is None:
            continue
        if began is None:
            began = unix
        following = records[at + 1] if at + 1 < len(records) else None
        if following and position(following)[:2] != position(record)[:2]:
            found[record["stage"]] = unix - began
            began = unix
    return found
