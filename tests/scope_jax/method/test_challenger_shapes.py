"""The other shapes of the Challenger's reward, by hand."""

import pytest

from scope_jax.method import challenger, challenger_shapes
from scope_jax.method.challenger import ChallengerConfig, difficulty

G = (0.0, 0.2, 0.25, 0.5, 0.75, 1.0)
BY_HAND = {
    "one_minus": (1.0, 0.8, 0.75, 0.5, 0.25, 0.0),
    "intermediate": (0.0, 0.64, 0.75, 1.0, 0.75, 0.0),
    "ssr": (-0.8, 0.64, 0.55, 0.1, -0.35, -0.8),
    # 1.1 - g + 0.2 d with d = 0.5; nothing up to 0.2, and a solved task still earns
    "paso_doble": (0.0, 0.0, 0.95, 0.7, 0.45, 0.2),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_shape_is_its_formula(kind):
    found = [difficulty(4 * g, 4, kind=kind, diversity=0.5) for g in G]
    assert found == pytest.approx(BY_HAND[kind])
    assert tuple(BY_HAND) == challenger_shapes.SHAPES


def test_r_zero_is_the_tent():
    assert [difficulty(4 * g, 4) for g in G] == pytest.approx(
        [1 - 2 * abs(g - 0.5) for g in G]
    )


def test_a_task_like_the_recent_ones_earns_nothing():
    """Five words of six in common is 5/6 > 0.8; four of six is not."""
    recent = ["Name the five old towns", "Who was Bern's first mayor?"]
    like = challenger_shapes.diversity("name THE five old towns, please", recent)
    assert like == 0.5
    assert challenger_shapes.diversity("name the five small towns", recent) == 1.0
    assert challenger_shapes.diversity("Anything", ()) == 1.0
    # All five words are among those seven: 5/7.
    assert (
        challenger_shapes.diversity("name the five old towns", [recent[0] + " or two"])
        == 1
    )
    assert difficulty(2, 4, kind="paso_doble", diversity=0.3) == 0
    assert difficulty(2, 4, kind="paso_doble", diversity=0.31) == pytest.approx(0.662)


def test_a_task_that_says_its_answer_leaks():
    assert challenger_shapes.leaked("Is  BERN the capital?", "bern")
    assert not challenger_shapes.leaked("What is the capital?", "Bern")
    assert not challenger_shapes.leaked("Write about it.", "")


@pytest.mark.parametrize("kind, value", [("ssr", -1.0), ("tent", 0.0)])
def test_what_is_no_task_costs_something_with_ssr_alone(kind, value):
    """Less than a task that everybody solves, or writing nonsense would pay."""
    config = ChallengerConfig(difficulty=kind)
    messages = [{"role": "assistant", "content": "<think>t</think> bye"}]
    assessment = challenger.assess(messages, 0, "search_r1")
    found = challenger.reward(config, assessment, searches=0)
    assert (found.value, found.parts["difficulty"]) == (value, value)
    assert found.value < 0.5 * 1 + difficulty(4, 4, kind="ssr") or kind == "tent"
