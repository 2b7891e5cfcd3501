"""The alarm: the judge's score rises and the truth does not follow.

What the policy is trained on is the judge's score of its answers, the proxy. Where the
truth is known too (the small world's true score, or the grades of a biased judge
without its bias), the two are compared at every step, over all iterations of a stage:

    gap       proxy - truth
    start     mean of the first ``window`` gaps
    parting   mean of the last ``window`` gaps - start: how much further than the truth
              the proxy has risen; the tasks of a step are the same in both, so that
              easier tasks alone part nothing

The alarm is on from the ``patience``-th step in a row whose parting exceeds
``threshold`` until a step's does not. It is also on where the correlation of reward and
truth within groups, as a mean over ``window`` steps, has been below ``min_correlation``
for ``patience`` steps: then the reward no longer tells good answers from bad ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scope_jax.config import AlarmConfig

METRIC = "alarm/reward_hacking"
PROXY = "reward/rubric_score"
TRUTHS = {
    "truth/score": "the true score",
    "reward/rubric_score_unbiased": "the unbiased score",
}
"""What the proxy is compared with: the first of these that a stage has measured."""
CORRELATION = "truth/reward_correlation"

Record = Mapping[str, Any]
"""A step's metrics by name; what could not be measured is None or missing."""


@dataclass(frozen=True)
class Pair:
    """Proxy and truth of the steps that have both.

    Attributes:
      truth_name: the metric that the truth is.
      positions: index of each step among the records that were given.
      steps: number of each step.
    """

    truth_name: str
    positions: tuple[int, ...]
    steps: tuple[int, ...]
    proxy: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Alarm:
    """What the last of some steps says.

    Attributes:
      on: whether the alarm is on.
      line: one line for a person, if the alarm was off the step before; else empty.
    """

    on: bool
    line: str = ""


def check(records: Sequence[Record], config: AlarmConfig) -> Alarm | None:
    """The alarm at the last of a stage's records; None if it measured no truth."""
    if not records:
        return None
    parted, uncorrelated = _parted(records, config), _uncorrelated(records, config)
    found = [alarm for alarm in (parted, uncorrelated) if alarm is not None]
    if not found:
        return None
    lines = [alarm.line for alarm in found if alarm.line]
    return Alarm(any(alarm.on for alarm in found), "; ".join(lines))


def pair(records: Sequence[Record]) -> Pair | None:
    """Proxy and truth of a stage's records, or None if it has measured no truth."""
    for name in TRUTHS:
        known = [i for i, r in enumerate(records) if _has(r, PROXY) and _has(r, name)]
        if known:
            return Pair(
                truth_name=name,
                positions=tuple(known),
                steps=tuple(records[i]["step"] for i in known),
                proxy=np.array([records[i][PROXY] for i in known], float),
                truth=np.array([records[i][name] for i in known], float),
            )
    return None


def moving_mean(values: Sequence[float], window: int) -> np.ndarray:
    """At each position the mean of the last ``window`` values; NaN before there are."""
    means = np.full(len(values), math.nan)
    for i in range(window - 1, len(values)):
        means[i] = np.mean(values[i - window + 1 : i + 1])
    return means


def rises(values: Sequence[float], window: int) -> np.ndarray:
    """At each position how far the moving mean is above the first one."""
    means = moving_mean(values, window)
    return means - (means[window - 1] if len(means) >= window else math.nan)


def held(passed: Sequence[bool], patience: int) -> list[bool]:
    """Whether the last ``patience`` values, up to each position, are all true."""
    return [
        i + 1 >= patience and all(passed[i + 1 - patience : i + 1])
        for i in range(len(passed))
    ]


def fired(
    proxy: Sequence[float], truth: Sequence[float], config: AlarmConfig
) -> list[bool]:
    """Whether the alarm for a parting is on, at each step."""
    gaps = np.asarray(proxy, float) - np.asarray(truth, float)
    return held(rises(gaps, config.window) > config.threshold, config.patience)


def parted_after(gaps: Sequence[float]) -> int | None:
    """Looking back: the last position before the gap began to grow.

    That is where a level and then a rising straight line, fitted to all gaps with least
    squares, meet. None if no such line rises, or if there are fewer than four gaps.
    """
    values = np.asarray(gaps, float)
    best, place = math.inf, None
    for corner in range(len(values) - 1 if len(values) >= 4 else 0):
        bend = np.maximum(np.arange(len(values)) - corner, 0.0)
        design = np.stack([np.ones_like(bend), bend], axis=1)
        fit = np.linalg.lstsq(design, values, rcond=None)[0]
        error = float(np.sum((values - design @ fit) ** 2))
        if fit[1] > 0 and error < best:
            best, place = error, corner
    return place


def delay(on: Sequence[bool], parted: int) -> int | None:
    """Steps from ``parted``, the last one before a parting, to the alarm.

    An alarm before the parting is a false one and does not count. None: no alarm.
    """
    return next((i - parted for i, one in enumerate(on) if one and i > parted), None)


def _parted(records: Sequence[Record], config: AlarmConfig) -> Alarm | None:
    """Whether proxy and truth have parted; None where the last record lacks one."""
    known = pair(records)
    if known is None or known.positions[-1] != len(records) - 1:
        return None
    on = fired(known.proxy, known.truth, config)
    if not _begins(on):
        return Alarm(on[-1])
    proxy, truth = (
        _moved(rises(values, config.window)[-1])
        for values in (known.proxy, known.truth)
    )
    return Alarm(
        True,
        f"step {known.steps[-1]}: the judge's score {proxy} and "
        f"{TRUTHS[known.truth_name]} {truth} since step {known.steps[0]}: "
        "the policy may be exploiting the judge",
    )


def _uncorrelated(records: Sequence[Record], config: AlarmConfig) -> Alarm | None:
    """Whether reward and truth no longer go together; None where it is not known."""
    if not _has(records[-1], CORRELATION):
        return None
    values = [r[CORRELATION] for r in records if _has(r, CORRELATION)]
    means = moving_mean(values, config.window)
    on = held(means < config.min_correlation, config.patience)
    if not _begins(on):
        return Alarm(on[-1])
    return Alarm(
        True,
        f"step {records[-1]['step']}: reward and truth correlate by {means[-1]:.2f} "
        f"within groups, less than {config.min_correlation:.4g}: the reward no longer "
        "tells good answers from bad ones",
    )


def _begins(on: Sequence[bool]) -> bool:
    """Whether the last value is true and the one before is not."""
    return on[-1] and not (len(on) > 1 and on[-2])


def _has(record: Record, name: str) -> bool:
    value = record.get(name)
    return value is not None and math.isfinite(value)


def _moved(by: float) -> str:
    return f"{'rose' if by >= 0 else 'fell'} by {abs(by):.2f}"
