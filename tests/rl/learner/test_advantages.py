"""Group advantages against the spec's worked examples and a float64 formula."""

import numpy as np
import pytest

from rl.learner.advantages import (
    group_advantages,
    leave_one_out_advantages,
    overlong_penalty,
    role_advantages,
    turn_advantages,
)


@pytest.mark.example(93)
def test_worked_example_93():
    got = group_advantages([1.6, 1.1, 0.6, 0.6], [0] * 4)
    np.testing.assert_allclose(
        got, [1.305580, 0.261116, -0.783348, -0.783348], atol=1e-6
    )


@pytest.mark.example(94)
def test_worked_example_94():
    got = group_advantages([0.5, 2.0, 0.5, 0.5, 0.5], [0, 1, 0, 0, 0])
    np.testing.assert_allclose(got, [0, 1.999998, 0, 0, 0], atol=1e-7)


def test_groups_are_found_by_id_not_by_order():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=24)
    groups = rng.permutation(np.repeat([7, 3, 11], 8))
    want = np.empty(24)
    for g in (3, 7, 11):
        r = rewards[groups == g]
        want[groups == g] = (r - r.mean()) / (r.std(ddof=1) + 1e-6)
    np.testing.assert_allclose(group_advantages(rewards, groups), want, rtol=1e-12)


def test_equal_rewards_give_exactly_zero():
    # The mean of these in float64 is not the reward itself.
    assert not group_advantages([0.1] * 6, [0] * 6).any()


def test_non_finite_reward_is_named():
    with pytest.raises(ValueError, match="nan of rollout 1"):
        group_advantages([0.0, float("nan")], [0, 0])


# Two groups of three.
REWARDS, GROUPS = [3.0, 0.0, 0.0, 1.0, 1.0, -2.0], [0, 0, 0, 1, 1, 1]


def test_without_a_deviation_only_the_mean_is_taken_off():
    got = group_advantages(REWARDS, GROUPS, std=False)
    np.testing.assert_array_equal(got, [2, -1, -1, 1, 1, -2])
    # Both deviations are the root of 3.
    np.testing.assert_allclose(
        group_advantages(REWARDS, GROUPS), got / np.sqrt(3), rtol=1e-6
    )
    assert group_advantages([0.7], [4], std=False) == [0.7]


def test_each_is_compared_with_the_others_of_its_group():
    # 3 - (0 + 0) / 2, 0 - (3 + 0) / 2, ...; 1 - (1 - 2) / 2, ..., -2 - (1 + 1) / 2
    want = [3, -1.5, -1.5, 1.5, 1.5, -3]
    np.testing.assert_allclose(leave_one_out_advantages(REWARDS, GROUPS), want)
    assert not leave_one_out_advantages([0.1] * 6, [0] * 6).any()
    with pytest.raises(ValueError, match="group of one"):
        leave_one_out_advantages([1.0, 0.0, 1.0], [0, 0, 1])


def test_a_role_s_running_mean_is_read_before_it_moves():
    keys = ["a/s", "a/s", "b/s", "b/s", "a/s", "b/s"]
    rewards = [1.0, 0.0, 1.0, 0.5, 1.0, 0.0]
    got, means = role_advantages(rewards, keys, {"a/c": 9.0})
    # a: 0, 0.05, 0.0475; b: 0, 0.05, 0.0725, in the order of the batch
    want = [1, -0.05, 1, 0.45, 1 - 0.0475, -0.0725]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert means == pytest.approx(
        {"a/c": 9.0, "a/s": 0.0475 * 0.95 + 0.05, "b/s": 0.0725 * 0.95}
    )
    # In two parts it is the same: what it remembers is all that there is.
    first, kept = role_advantages(rewards[:3], keys[:3], {})
    second, _ = role_advantages(rewards[3:], keys[3:], kept)
    np.testing.assert_array_equal([*first, *second], got)


def test_turns_of_two_rollouts_as_worked_by_hand():
    # Centred: -1/2, 3/2 and -1/2, -1/2, of variance 1. Returns: 1, 3/2 and -1, -1/2,
    # their mean 1/4. By tokens the mean is -1/4 more, the variance 9/7.
    got = turn_advantages([[0, 2], [0, 0]], ["k"] * 2, ["r"] * 2, [[1, 2], [3, 2]])
    want = np.array([1, 1.5, -1, -0.5]) / np.sqrt(9 / 7)
    np.testing.assert_allclose(np.concatenate(got), want, rtol=1e-6)


def turns_by_loops(rewards, keys, roles, tokens, *, wrong=""):
    """The four steps, one number at a time."""
    centred = []
    for own, key in zip(rewards, keys, strict=True):
        kind = [
            r
            for other, k in zip(rewards, keys, strict=True)
            for r in other
            if k == key or wrong == "one kind"
        ]
        centred.append([r - sum(kind) / len(kind) for r in own])
    every = [r for own in centred for r in own]
    mean = sum(every) / len(every)
    var = sum((r - mean) ** 2 for r in every) / (len(every) - 1)
    white = [[(r - mean) / np.sqrt(var + 1e-8) for r in own] for own in centred]
    returns = [[sum(own[k:]) for k in range(len(own))] for own in white]
    if wrong == "no later turns":
        returns = white
    apart = []
    for own, role in zip(returns, roles, strict=True):
        values = [
            round(r, 9)
            for other, k in zip(returns, roles, strict=True)
            for r in other
            if k == role or wrong == "one role"
        ]
        values = values if wrong == "mean of all" else sorted(set(values))
        apart.append([r - sum(values) / len(values) for r in own])
    each = [
        r
        for own, n in zip(apart, tokens, strict=True)
        for r, m in zip(own, n, strict=True)
        for _ in range(1 if wrong == "by turns" else m)
    ]
    mean = sum(each) / len(each)
    var = sum((r - mean) ** 2 for r in each) / (len(each) - 1)
    return [[(r - mean) / np.sqrt(var + 1e-8) for r in own] for own in apart]


TURNS = (
    [[0.1, 0.1, 0.8], [0.2], [0.1, 0.5], [0.0, 0.3], [0.4, 0.4], [0.4]],
    ["a/c", "a/c", "b/c", "a/s", "b/s", "b/s"],
    ["c", "c", "c", "s", "s", "s"],
    [[3, 4, 10], [7], [2, 9], [5, 5], [1, 8], [6]],
)


@pytest.mark.parametrize(
    "wrong",
    ["", "one kind", "no later turns", "one role", "mean of all", "by turns"],
)
def test_turns_of_two_groups_of_three_are_those_of_loops(wrong):
    got = turn_advantages(*TURNS)
    want = turns_by_loops(*TURNS, wrong=wrong)
    gap = np.abs(np.concatenate(got) - np.concatenate(want)).max()
    assert gap > 1e-2 if wrong else gap < 1e-9


def test_turns_that_all_earn_the_same_have_no_advantage():
    one, three = [[0.1]] * 3, ["k"] * 3
    for own in turn_advantages(one, three, three, [[3], [4], [5]]):
        np.testing.assert_allclose(own, 0.0, atol=1e-9)
    two = ["k"] * 2
    assert [len(x) for x in turn_advantages([[], []], two, two, [[], []])] == [0, 0]
    # What is not trained on does not count, and does not make a mean of nothing.
    for own in turn_advantages([[1.0], [0.0]], two, two, [[0], [1]]):
        assert not own.any()


@pytest.mark.parametrize(
    ("tokens", "want"), [(0, 0), (80, 0), (81, -0.05), (90, -0.5), (100, -1), (999, -1)]
)
def test_a_response_loses_over_the_buffer_before_its_limit(tokens, want):
    assert overlong_penalty(tokens, limit=100, buffer=20) == pytest.approx(want)
    assert overlong_penalty(tokens, limit=100, buffer=0) == 0
