"""Errors and intervals against closed forms and SciPy, agreement by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from scope_jax.suite import agreement, statistics

RANDOM = np.random.default_rng(7)
EXACT = 1e-12


def close(value):
    return pytest.approx(value, abs=EXACT, rel=EXACT)


def test_mean_and_error_are_the_textbooks():
    found = statistics.estimate([0.0, 0.5, 1.0, 1.0])
    assert found.mean == close(2.5 / 4)
    variance = (0.625**2 + 0.125**2 + 2 * 0.375**2) / 3
    assert found.stderr == close(math.sqrt(variance / 4))
    values = RANDOM.random(57)
    assert statistics.estimate(values).stderr == close(stats.sem(values))
    single = statistics.estimate([0.25])
    assert (single.mean, single.stderr, single.low) == (0.25, None, None)


@pytest.mark.parametrize("n", [2, 30, 211])
def test_the_interval_is_scipys_on_the_same_resamples(n):
    values = RANDOM.random(n)
    ours = statistics.estimate(values, resamples=999, seed=5)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(5),
    )
    assert ours.low == close(theirs.confidence_interval.low)
    assert ours.high == close(theirs.confidence_interval.high)
    assert statistics.resampled(values, 999, 5) == close(theirs.bootstrap_distribution)


def test_resamples_are_the_same_in_parts(monkeypatch):
    whole = np.concatenate(list(statistics.indices(7, 100, 3)))
    monkeypatch.setattr(statistics, "_CHUNK", 21)
    parts = list(statistics.indices(7, 100, 3))
    assert len(parts) == 34 and (np.concatenate(parts) == whole).all()


def test_the_bootstrap_of_two_values_is_known_in_full():
    # Means of (0, 1) drawn twice: 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    means = statistics.resampled(np.array([0.0, 1.0]), 40_000, 1)
    shares = [np.mean(means == value) for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    found = statistics.estimate([0.0, 1.0])
    assert (found.low, found.high) == (0, 1)


def test_errors_are_over_questions_and_not_over_samples():
    two = [("a", 0.0), ("b", 1.0), ("c", 0.5)]
    many = [(question, value) for question, value in two for _ in range(100)]
    one, hundred = (
        statistics.estimate(list(statistics.by_question(s).values()))
        for s in (two, many)
    )
    assert one == hundred and one.n == 3
    spread = [("a", 0.0), ("a", 1.0), ("b", 0.0), ("b", 1.0)]
    assert statistics.estimate([*statistics.by_question(spread).values()]).stderr == 0


def test_a_paired_gain_is_of_the_same_questions():
    base = {"a": 0.0, "b": 0.5, "c": 1.0}
    better = {"c": 1.0, "a": 0.5, "b": 1.0, "d": 0.0}
    gains = statistics.paired(better, base)
    assert gains == {"c": 0.0, "a": 0.5, "b": 0.5}
    found = statistics.estimate(list(gains.values()))
    paired = stats.ttest_rel([1.0, 0.5, 1.0], [1.0, 0.0, 0.5])
    assert found.mean / found.stderr == close(paired.statistic)


def test_the_mean_of_sources_weighs_them_equally():
    one, two = RANDOM.random(40), RANDOM.random(9)
    found = statistics.over_sources([one, two], resamples=500, seed=11)
    assert found.mean == close((one.mean() + two.mean()) / 2)
    assert found.stderr == close(math.hypot(stats.sem(one), stats.sem(two)) / 2)
    drawn = [
        values[np.random.default_rng(seed).integers(0, len(values), (500, len(values)))]
        for values, seed in ((one, 11), (two, 12))
    ]
    means = (drawn[0].mean(axis=1) + drawn[1].mean(axis=1)) / 2
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.low, found.high) == (close(low), close(high))
    assert statistics.over_sources([one, [1.0]]).low is None


def test_kappa_by_hand():
    # Cohen's table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no of 50.
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    # agreement 35/50, chance (25*30 + 25*20)/50^2 = 1/2
    assert agreement.kappa(first, second) == close(0.4)
    assert agreement.kappa(["a", "b", "c"], ["a", "b", "c"]) == 1
    assert agreement.kappa(["a", "b"], ["b", "a"]) == close(-1)
    # three labels: same 3/4, chance (2*1 + 1*1 + 1*2)/16 = 5/16
    assert agreement.kappa([*"aabc"], [*"acbc"]) == close((3 / 4 - 5 / 16) / (11 / 16))
    assert agreement.kappa([*"aa"], [*"aa"]) is None and agreement.kappa([], []) is None


def test_ranks_of_two_judges():
    assert agreement.rank([0.1, 0.2, 0.9], [0.0, 0.5, 0.6]) == close(1)
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6*4/(4*15)
    assert agreement.rank([1, 2, 3, 4], [2, 1, 4, 3]) == close(0.6)
    assert agreement.rank([1, 1, 1], [1, 2, 3]) is None
    assert agreement.rank([1], [1]) is None
