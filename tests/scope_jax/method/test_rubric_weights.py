"""POW3R's weights against a formula of float64 NumPy and cases done with a pencil."""

import numpy as np
import pytest

from scope_jax.method.judge import JudgeConfig, rubric_score
from scope_jax.method.rubric_weights import (
    RubricWeights,
    rubric_weights,
    weighted_score,
)
from scope_jax.method.types import Rubric

EXACT = RubricWeights(kind="pow3r_instant", floor=1e-12)

# Two groups of three rollouts, three criteria with w = 3, 2, 1.
MIXED = [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
SATURATED = [[1.0, 1.0, 0.0]] * 3
W = [3.0, 2.0, 1.0]


def test_a_group_that_differs_in_two_of_three_criteria():
    """v = 0, 2/9, 2/9: their mean by weight is 1/9, so rho = 0, 2, 2.

    alpha = 1/2, 3/2, 3/2 and w alpha = 3/2, 3, 3/2, which add up to 6.
    """
    found = rubric_weights(MIXED, W, EXACT)
    assert found == pytest.approx([1.5, 3.0, 1.5], abs=1e-9)
    scores = [weighted_score(row, found, 0.0) for row in MIXED]
    assert scores == pytest.approx([3 / 6, 4.5 / 6, 1.5 / 6])
    # The plain mean cannot tell the first two apart.
    assert rubric_score(MIXED[0], 3) == rubric_score(MIXED[1], 3) == 2


def test_a_group_that_differs_in_nothing_keeps_the_weights_of_the_priorities():
    assert rubric_weights(SATURATED, W, RubricWeights()) == pytest.approx(W)
    assert weighted_score(SATURATED[0], W, 0.0) == pytest.approx(5 / 6)


def test_alpha_is_clipped_and_strength_0_is_the_priorities_alone():
    lonely = [[1.0] + [0.0] * 9, [0.0] * 10]
    strong = RubricWeights(strength=1.0, floor=1e-12)
    found = rubric_weights(lonely, [1.0] * 10, strong)  # rho = 10 and nine times 0
    assert found == pytest.approx([4.0] + [0.25] * 9)
    none = RubricWeights(strength=0.0)
    assert rubric_weights(MIXED, W, none) == pytest.approx(W)


def test_a_criterion_that_few_could_be_graded_on_keeps_alpha_1():
    """Of four rollouts three need a verdict; the others' mean leaves it out."""
    group = [[1.0, None, 0.0], [0.0, None, 0.0], [1.0, 1.0, 0.0], []]
    found = rubric_weights(group, W, EXACT)
    rho = np.array([2 / 9, 0.0]) / (3 * (2 / 9) / 4)
    assert found[1] == 2.0
    assert found[::2] == pytest.approx(np.array([3.0, 1.0]) * (0.5 + 0.5 * rho))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_formula_in_float64(seed):
    draw = np.random.default_rng(seed)
    grades = draw.integers(0, 3, (6, 4)) / 2
    w = draw.uniform(0.5, 3, 4)
    config = RubricWeights(strength=0.7, floor=0.05, least=0.5, most=1.5)
    v = ((grades - grades.mean(0)) ** 2).mean(0) + 0.05
    rho = v / (np.sum(w * v) / np.sum(w))
    expected = w * np.minimum(np.maximum(0.3 + 0.7 * rho, 0.5), 1.5)
    assert rubric_weights(grades.tolist(), w, config) == pytest.approx(expected)


def test_unreadable_grades_count_as_the_judge_s_settings_say():
    assert weighted_score([1.0, None, 0.0], W, 0.0) == pytest.approx(3 / 6)
    assert weighted_score([1.0, None, 0.0], W, 0.5) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    "priority, expected",
    [("critical", 3), ("important", 2), ("bonus", 1), ("Bonus;", 1), (None, 3)],
)
def test_a_priority_gives_its_weight_however_it_is_written(priority, expected):
    assert RubricWeights().of(Rubric("r", priority)) == expected


def test_it_is_off_by_default():
    assert JudgeConfig().weights.kind == "equal"
