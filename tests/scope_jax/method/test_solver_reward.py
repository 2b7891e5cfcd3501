"""The Solver's whole reward (spec 10): every branch and format."""

import pytest

from scope_jax.method import solver
from scope_jax.method.compat import Compat
from scope_jax.method.formats import Reward
from scope_jax.method.solver import LengthConfig
from scope_jax.method.types import TOOL_FORMATS
from tests.scope_jax.method.examples import example
from tests.scope_jax.method.rewarded import call, solver_reward, thought


@pytest.mark.example(57)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_rubrics_met_searches_and_format_add_up(tool_format):
    reward, players = solver_reward(tool_format)
    assert reward.value == pytest.approx(1.316667, abs=1e-6)
    assert players.temperatures == {"grader": {(0.6, 16384)}}
    assert all("Name the facts." in text for _, text, _ in players.asked)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize(
    ("grades", "accuracy", "branch"),
    [
        example(65, (None, 1, 1, 1), 0.75, "graded"),
        example(66, (None,) * 4, 0, "discarded"),
        pytest.param((None, None, 1, 0), 0.25, "graded", id="half"),
        pytest.param((None, None, None, 1), 0, "discarded", id="below half"),
        pytest.param((1, "<score>0.5</score>", 0, 0), 0.375, "graded", id="0.5"),
    ],
)
def test_unreadable_grades(tool_format, grades, accuracy, branch):
    reward, players = solver_reward(tool_format, grades=grades)
    assert reward.parts["accuracy"] == pytest.approx(accuracy)
    assert reward.value == pytest.approx(0.5 + accuracy + 0.1 * 2 / 3)
    assert branch in reward.trace["branch"]
    retried = sum(grade is None for grade in grades)
    assert sum(retry for _, _, retry in players.asked) == retried


@pytest.mark.example(59)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("last", ["", "<answer> </answer>", "<answer>open"])
def test_without_an_answer_the_judge_is_not_asked(tool_format, last):
    texts = [thought(call(tool_format))] * 4 + [thought(last)]
    reward, players = solver_reward(tool_format, texts)
    assert reward.value == pytest.approx(0.433333, abs=1e-6)
    assert players.asked == []
    assert reward.trace["branch"] == "no valid answer"


def test_a_solver_that_does_nothing_right_gets_nothing():
    reward, players = solver_reward(texts=["plain"])
    assert reward.value == 0 and players.asked == []


def test_an_answer_that_closes_nothing_is_scored_by_what_was_said_before_it():
    """A cut-off answer that an environment turn follows is the answer (spec 5)."""
    texts = ["<search>open <answer>half an answer", thought("bye")]
    reward, players = solver_reward(texts=texts)
    assert reward.trace["answer"] == "half an answer"
    assert players.count("grader") == 4


@pytest.mark.parametrize(
    ("words", "accuracy"),
    [(100, 1), (150, 0.525), (200, 0.05), (400, 0.05), (401, 0)],
)
def test_long_answers_lose_and_over_twice_the_limit_nobody_grades(words, accuracy):
    lengths = LengthConfig(soft=100, hard=200)
    texts = [thought(f"<answer>{'w' * words}</answer>")]  # a byte a token
    reward, players = solver_reward(texts=texts, grades=(1,) * 4, lengths=lengths)
    assert reward.parts["accuracy"] == pytest.approx(accuracy)
    assert players.count("grader") == (0 if words > 400 else 4)
    seen = {text.count("w" * 200) for stem, text, _ in players.asked}
    assert seen <= {int(words >= 200)}
    assert not any("w" * 201 in text for _, text, _ in players.asked)


@pytest.mark.example(67)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize(("answer", "right"), [("The Paris!", 1), ("Lyon", 0)])
def test_a_known_answer_takes_the_judge_s_place(tool_format, answer, right):
    texts = [thought(call(tool_format)), thought(f"<answer>{answer}</answer>")]
    reward, players = solver_reward(tool_format, texts, target="paris")
    assert reward.value == pytest.approx(0.533333 + right, abs=1e-6)
    assert players.asked == []


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(10)
def test_q10_a_grade_drafted_while_thinking(released):
    drafted = "<think>maybe <score>0</score></think><score>1</score>"
    compat = Compat(verdicts_in_thinking=released)
    reward, _ = solver_reward(grades=(drafted,) * 4, compat=compat)
    assert reward.parts["accuracy"] == (0 if released else 1)


@pytest.mark.quirk(33)
def test_calls_count_wherever_they_stand_but_only_some_count_for_format():
    """Three calls in one turn: search 1; the last turn's calls are no tool use."""
    texts = [thought(call("tool_call") * 3), thought("<answer>a</answer>")]
    reward, _ = solver_reward("tool_call", texts)
    assert (reward.parts["search"], reward.parts["tool"]) == (1, 1)
    texts = [thought("<answer>a</answer>" + call("tool_call"))]
    reward, _ = solver_reward("tool_call", [*texts, "<answer>b</answer>"])
    assert reward.parts["searches"] == 1


def test_a_part_of_ones_own_is_added_with_its_weight_and_said():
    config = solver.SolverConfig(reward="mine.py:score", reward_weight=0.5)
    before = Reward(1.25, {"search": 1.0}, why=("a",))
    after = solver.with_own(config, before, -0.5)
    assert after.value == 1.0 and after.parts == {"search": 1.0, "own": -0.5}
    assert after.why == ("a", "reward 1 = 1.25 + 0.5 x mine.py:score -0.5")
