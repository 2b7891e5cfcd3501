"""Group advantages against the spec's worked examples and a float64 formula."""

import numpy as np
import pytest

from rl.learner.advantages import group_advantages


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
