"""Means over questions with errors and intervals, paired gains, means of sources.

The unit is the question: samples of one question are averaged first, so that more
samples make no error smaller than the questions allow. Resampling draws questions, with
a seed of its own; sources are drawn independently of one another.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
_CHUNK = 1 << 22
"""Indices that are drawn at a time: 32 MiB of them."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
      mean: over questions (or sources).
      stderr: standard error; None with one question.
      low, high: percentile bootstrap interval of ``LEVEL``; None with one question.
      n: questions (or sources).
    """

    mean: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int

    def json(self) -> dict[str, float | int | None]:
        """As it is stored."""
        return dict(vars(self))


def by_question(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Mean score of each question, in the order of their first appearance."""
    found: dict[str, list[float]] = {}
    for question, value in scores:
        found.setdefault(question, []).append(value)
    return {question: math.fsum(v) / len(v) for question, v in found.items()}


def indices(
    n: int, resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[Int[np.ndarray, "some n"]]:
    """Questions of each resample, a part of them at a time."""
    draws = np.random.default_rng(seed)
    step = max(_CHUNK // n, 1)
    for first in range(0, resamples, step):
        yield draws.integers(0, n, (min(step, resamples - first), n))


def resampled(
    values: Float[np.ndarray, " n"], resamples: int = RESAMPLES, seed: int = SEED
) -> Float[np.ndarray, " resamples"]:
    """The mean of each resample."""
    parts = [values[i].mean(axis=1) for i in indices(len(values), resamples, seed)]
    return np.concatenate(parts)


def estimate(
    values: Sequence[float], resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """Mean over questions, its standard error, and its bootstrap interval.

    Args:
      values: one per question; for a paired gain, their differences.
      resamples: of the bootstrap.
      seed: of the bootstrap.
    """
    array = np.asarray(values, float)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Estimate(mean=mean, stderr=None, low=None, high=None, n=n)
    low, high = interval(resampled(array, resamples, seed))
    error = float(array.std(ddof=1) / math.sqrt(n))
    return Estimate(mean=mean, stderr=error, low=low, high=high, n=n)


def interval(means: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """The middle ``LEVEL`` of resampled means."""
    rest = (1 - LEVEL) / 2
    low, high = np.quantile(means, [rest, 1 - rest])
    return float(low), float(high)


def over_sources(
    sources: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """The mean of the means of sources, each of which counts the same.

    Args:
      sources: for each, a value per question.
      resamples: of the bootstrap.
      seed: of the first source's draws; each further one has the next.
    """
    means = [float(np.mean(values)) for values in sources]
    mean, n = math.fsum(means) / len(means), len(sources)
    if any(len(values) < 2 for values in sources):
        return Estimate(mean=mean, stderr=None, low=None, high=None, n=n)
    errors = [np.var(values, ddof=1) / len(values) for values in sources]
    drawn = sum(
        resampled(np.asarray(values, float), resamples, seed + number)
        for number, values in enumerate(sources)
    )
    low, high = interval(drawn / n)
    stderr = math.sqrt(math.fsum(errors)) / n
    return Estimate(mean=mean, stderr=stderr, low=low, high=high, n=n)


def paired(one: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """By how much one model is better, on each question that both answered."""
    return {name: value - base[name] for name, value in one.items() if name in base}
