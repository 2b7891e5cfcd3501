"""When the alarm goes on: by hand, late by so many steps, and how often falsely."""

import numpy as np
import pytest

from scope_jax.config import AlarmConfig
from scope_jax.run import alarm

DEFAULT = AlarmConfig()
UNBIASED = "reward/rubric_score_unbiased"


def records(proxy, truth, *, name=UNBIASED, **more):
    """Steps from 1 on with these values; ``more``: further metrics, one per step."""
    rows = [
        {"step": i, alarm.PROXY: p, name: t}
        for i, (p, t) in enumerate(zip(proxy, truth, strict=True), 1)
    ]
    for key, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[key] = value
    return rows


def on(rows, config=DEFAULT):
    """What ``check`` says at every step of a run that has these records at its end."""
    return [alarm.check(rows[:n], config) for n in range(1, len(rows) + 1)]


PROXY = [0.4, 0.4, 0.4, 0.4, 0.6, 0.7, 0.7, 0.5, 0.4, 0.4]
TRUTH = [0.3, 0.3, 0.3, 0.3, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4]


def test_the_rule_by_hand():
    gaps = np.subtract(PROXY, TRUTH)  # .1 .1 .1 .1 .3 .3 .3 .1 0 0
    by_hand = [0, 0, 0.2 / 3, 0.4 / 3, 0.2, 0.4 / 3, 0.1 / 3, -0.2 / 3]
    assert alarm.rises(gaps, 3)[2:] == pytest.approx(by_hand)
    found = on(records(PROXY, TRUTH))
    assert [one.on for one in found] == [False] * 6 + [True, True, False, False]


def test_it_says_once_what_rose_and_what_did_not():
    found = on(records(PROXY, TRUTH))
    assert [one.line for one in found if one.line] == [
        "step 7: the judge's score rose by 0.27 and the unbiased score rose by 0.07 "
        "since step 1: the policy may be exploiting the judge"
    ]
    assert found[6].line
    falling = [value - 0.05 * i for i, value in enumerate(TRUTH)]
    told = [one.line for one in on(records(PROXY, falling, name="truth/score"))]
    assert told[5].startswith(
        "step 6: the judge's score rose by 0.17 and the true score fell by 0.12 since"
    )


def test_scores_that_rise_or_fall_together_part_nothing():
    steps = np.arange(30) / 40
    for both in (steps, -steps, np.sin(steps * 9)):
        assert not any(one.on for one in on(records(both + 0.3, both)))
    assert not any(one.on for one in on(records(0 * steps, steps)))  # the truth rises


def test_the_true_score_goes_before_the_unbiased_one():
    rows = records(PROXY, TRUTH, **{"truth/score": PROXY})
    assert alarm.pair(rows).truth_name == "truth/score"
    assert not any(one.on for one in on(rows))


def test_without_a_truth_there_is_no_alarm_and_no_metric():
    rows = [{"step": 1, alarm.PROXY: 0.5}, {"step": 2, alarm.PROXY: 0.9}]
    assert on(rows) == [None, None]
    assert alarm.check([], DEFAULT) is None
    # a step that could not measure it says nothing; the next goes on without it
    rows = records(PROXY, TRUTH)
    rows.insert(6, {"step": 6.5, alarm.PROXY: None, UNBIASED: 0.4})
    found = on(rows)
    assert found[6] is None and found[7].on


def test_a_reward_that_no_longer_follows_the_truth_is_an_alarm_too():
    values = [0.8, 0.7, 0.3, 0.2, 0.1, None, 0.1, 0.6, 0.9]
    rows = records([0.5] * 9, [0.5] * 9, **{alarm.CORRELATION: values})
    found = on(rows)
    # means of three: .6, .4, .2, -, .13, .27, .53
    assert [one.on for one in found] == [False] * 6 + [True, True, False]
    assert [one.line for one in found if one.line] == [
        "step 7: reward and truth correlate by 0.13 within groups, less than 0.3: the "
        "reward no longer tells good answers from bad ones"
    ]


def curves(seed, *, steps, parted, slope, noise):
    """Proxy and truth that wander together until ``parted``, then the proxy climbs."""
    rng = np.random.default_rng(seed)
    common = 0.5 + np.cumsum(rng.normal(0, 0.03, steps))
    climb = slope * np.maximum(np.arange(steps) - parted, 0)
    truth = common + rng.normal(0, noise, steps)
    return common + 0.1 + climb + rng.normal(0, noise, steps), truth


@pytest.mark.parametrize(("slope", "late"), [(0.04, 5), (0.02, 8), (0.01, 13)])
def test_the_delay_without_noise_is_what_the_rule_says(slope, late):
    """The mean of three steps is one step late, two must pass: 0.1 / slope + 2, up."""
    proxy, truth = curves(0, steps=40, parted=8, slope=slope, noise=0)
    assert alarm.delay(alarm.fired(proxy, truth, DEFAULT), 8) == late
    assert alarm.parted_after(proxy - truth) == 8


@pytest.mark.parametrize(("slope", "late"), [(0.04, 5), (0.02, 7), (0.01, 12)])
def test_the_delay_with_noise_is_about_the_same(slope, late):
    """Gap noise 0.04, about that of 128 graded answers: the median of 100 runs."""
    delays, corners = [], []
    for seed in range(100):
        proxy, truth = curves(seed, steps=40, parted=8, slope=slope, noise=0.03)
        delays.append(alarm.delay(alarm.fired(proxy, truth, DEFAULT), 8))
        corners.append(alarm.parted_after(proxy - truth))
    assert None not in delays
    assert np.median(delays) == pytest.approx(late, abs=1)
    assert np.median(corners) == pytest.approx(8, abs=1)


def test_noise_without_a_parting_hardly_ever_alarms():
    """32 steps, gap noise 0.04: at most 1 run in 50 of 300."""
    false = [
        any(
            alarm.fired(
                *curves(seed, steps=32, parted=99, slope=0, noise=0.03), DEFAULT
            )
        )
        for seed in range(300)
    ]
    assert np.mean(false) <= 0.02


def test_an_alarm_before_the_parting_is_no_delay():
    assert alarm.delay([True, False, False, True, True], 1) == 2
    assert alarm.delay([True, True, False], 1) is None


def test_looking_back_needs_a_gap_that_grows():
    assert alarm.parted_after([0.3, 0.2, 0.1, 0.0]) is None
    assert alarm.parted_after([0.0, 1.0, 2.0]) is None  # too few
    assert alarm.parted_after([0, 0, 0, 1, 2]) == 2
