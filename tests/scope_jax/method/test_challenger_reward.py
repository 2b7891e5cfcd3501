"""The Challenger's whole reward (spec 9.2): every branch and format."""

import pytest

from rl.records import SamplingParams
from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.compat import Compat
from scope_jax.method.types import TOOL_FORMATS
from tests.scope_jax.method.examples import example
from tests.scope_jax.method.rewarded import (
    SEED,
    K,
    call,
    challenger_reward,
    meeting,
    numbers,
    short,
    thought,
)
from tests.scope_jax.selfplay.scripted import SCORE, attempts, rubrics


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        example(68, (2,) * K, (1, 1, 1.5)),
        example(69, (0, 1, 2, 3, 4, 4, 4, 4), (1, 0.625, 1.125)),
        example(70, (3, None, 1, None, 3, None, 1, None), (1, 1, 1.5)),
        example(71, (4,) * K, (1, 0, 0.5), id="all"),
        example(71, (0,) * K, (1, 0, 0.5), id="none"),
        example(71, (None,) * K, (1, 0, 0.5), id="no answer"),
    ],
)
def test_difficulty_comes_from_the_solver_s_answers(tool_format, counts, expected):
    reward, players = challenger_reward(tool_format, counts=counts)
    assert numbers(reward) == pytest.approx(expected, abs=1e-6)
    answered = sum(count is not None for count in counts)
    assert players.count("grader") == 4 * answered
    assert reward.trace["usable_rollouts"] == answered
    assert len(reward.trace["attempts"]) == K


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize(
    "verdict", [example(72, 0), example(72, None, id="unparseable")]
)
def test_a_failed_gate_leaves_the_format_reward_and_plays_no_rollout(
    tool_format, verdict
):
    judge, solver = meeting(*[2] * K)

    def gated(stem, text, retry):
        return SCORE[verdict] if stem == "gate_entity" else judge(stem, text, retry)

    reward, players = challenger_reward(tool_format, judge=gated, solver=solver)
    assert numbers(reward) == (1, 0, 0.5)
    assert players.solver_requests == []
    assert reward.parts["quality"] == 0
    assert "gates" in reward.trace["branch"]


@pytest.mark.example(73)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("written", [rubrics(2), rubrics(11), "none", rubrics(3)[:-3]])
def test_without_rubrics_the_whole_reward_is_lost(tool_format, written):
    judge, _ = meeting(*[2] * K)

    def poor(stem, text, retry):
        return written if stem == "rubric" else judge(stem, text, retry)

    reward, players = challenger_reward(tool_format, judge=poor)
    assert numbers(reward) == (0, 0, 0)
    assert players.count("rubric") == 1  # no retry
    assert players.solver_requests == []


@pytest.mark.example(74)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("last", ["bye", "<task>  </task>", "<task>open"])
def test_without_a_task_nobody_is_asked(tool_format, last):
    texts = [thought(call(tool_format)), thought(last), "x", "x", "x"]
    reward, players = challenger_reward(tool_format, texts)
    assert numbers(reward) == (0, 0, 0)
    assert players.asked == [] and players.solver_requests == []
    assert reward.trace["branch"] == "no task"


@pytest.mark.example(75)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_fewer_searches_than_asked_for_cost_format_only(tool_format):
    reward, _ = challenger_reward(tool_format, n=3)
    assert numbers(reward) == pytest.approx((0.777778, 1, 1.388889), abs=1e-6)


def test_how_the_judge_and_the_solver_are_asked_in_stage_1():
    _, players = challenger_reward()
    assert players.temperatures == {
        "rubric": {(0.0, 8192)},
        "gate_entity": {(0.0, 256)},
        "gate_source_relevance": {(0.0, 256)},
        "grader": {(0.0, 16384)},
    }
    assert {r.sampling for r in players.solver_requests} == {
        SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=8192)
    }
    prompts = {
        text
        for request in players.solver_requests
        for text in [players.renderer.decode(request.ids)]
    }
    assert any("Question: T" in text for text in prompts)
    shown = [text for stem, text, _ in players.asked if stem == "grader"]
    assert all("<prompt>\nT\n</prompt>" in text for text in shown)


@pytest.mark.quirk(5)
def test_the_rubric_writer_sees_document_and_passages_once():
    _, players = challenger_reward()
    [shown] = [text for stem, text, _ in players.asked if stem == "rubric"]
    assert shown.count("A city.") == 1
    assert shown.count("passage about q") == 1


@pytest.mark.parametrize(
    ("kind", "value"), [("tent", 0.5), ("continuous", 1.0), ("normalized", 0.25)]
)
def test_each_difficulty_function(kind, value):
    config = ChallengerConfig(rollouts=K, difficulty=kind)
    reward, _ = challenger_reward(counts=(1,) * K, challenger=config)
    assert reward.parts["difficulty"] == pytest.approx(value)


def test_weights_of_the_paper_turn_the_parts_around():
    config = ChallengerConfig(rollouts=K, format_weight=1.0, difficulty_weight=0.5)
    reward, _ = challenger_reward(counts=(1,) * K, challenger=config)
    assert reward.value == pytest.approx(1.0 + 0.5 * 0.5)


def test_an_unreadable_grade_is_asked_for_again_and_then_padded_or_left_out():
    """One of four unreadable: coverage .75, padded. Three of four: left out."""
    judge, _ = meeting(*[4] * K)
    solver = attempts(SEED, ["<answer>few met=4</answer>"], ["<answer>met=4</answer>"])

    def poor(stem, text, retry):
        if stem == "grader":
            number = int(text.split("Names fact ")[1].split(".")[0])
            few = "few met" in text
            if number == 1 or (few and number < 4):
                return "can't say"
        return judge(stem, text, retry)

    config = ChallengerConfig(rollouts=2)
    reward, players = challenger_reward(judge=poor, solver=solver, challenger=config)
    assert reward.trace["usable_rollouts"] == 1
    assert reward.parts["rubric_score"] == pytest.approx(0.75)
    assert reward.parts["difficulty"] == pytest.approx(0.5)
    assert sum(retry for _, _, retry in players.asked) == 4
    few, whole = reward.trace["attempts"]
    assert few["scores"] == [None, None, None, 1.0]
    assert whole["judge"][0] == {
        "score": None,
        "raw": "can't say",
        "asked_again_after": "can't say",
    }


def test_a_retry_that_can_be_read_counts():
    judge, solver = meeting(*[2] * K)

    def shy(stem, text, retry):
        said = judge(stem, text, retry)
        return said if stem != "grader" or retry else "let me think"

    reward, _ = challenger_reward(judge=shy, solver=solver)
    assert numbers(reward) == (1, 1, 1.5)


@pytest.mark.quirk(9)
def test_a_task_of_an_earlier_turn_counts_in_full_without_structure():
    """Example 76's case in a format where a Challenger may go on after its task."""
    texts = [thought("<task>T</task> <search>q</search>"), thought("bye")]
    reward, _ = challenger_reward(texts=texts)
    assert reward.parts["structure"] == 0
    assert reward.parts["difficulty"] == 1
    assert reward.value == pytest.approx(0.5 * 2 / 3 + 1)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(4)
def test_q4_guidance_hides_the_second_result_in_the_reference(released):
    texts = [thought(call("tool_call"))] * 2 + [thought("<task>T</task>")]
    compat = Compat(misindexed_tool_score=released)
    reward, _ = challenger_reward("tool_call", texts, n=2, compat=compat)
    assert reward.parts["tool"] == (0.5 if released else 1)
    assert reward.value == pytest.approx(0.5 * (2.5 / 3 if released else 1) + 1)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.quirk(10)
def test_q10_a_verdict_inside_thinking_counts_in_the_reference(released):
    """The judge drafts rubrics, a gate and every grade while it thinks."""
    judge, solver = meeting(*[2] * K)
    drafts = {"rubric": "<rubrics>x</rubrics>", "grader": "<score>1</score>"}

    def drafting(only):
        def say(stem, text, retry):
            draft = drafts.get(stem, "<score>0</score>")
            thinking = f"<think>perhaps {draft}</think>" if stem == only else ""
            return thinking + judge(stem, text, retry)

        return say

    compat = Compat(verdicts_in_thinking=released)
    expected = {
        "rubric": (0, 0, 0),  # a block without rubrics
        "gate_entity": (1, 0, 0.5),  # a gate that fails
        "grader": (1, 0, 0.5),  # every rubric met
    }
    for stem, found in expected.items():
        reward, _ = challenger_reward(
            judge=drafting(stem), solver=solver, compat=compat
        )
        assert numbers(reward) == (found if released else (1, 1, 1.5)), stem


def test_what_a_response_limit_cuts_off_earns_nothing():
    """The reference reads the trajectory that it trains on (spec 3.7, 9.1)."""
    reward, players = challenger_reward(response=200)
    assert numbers(reward) == (0, 0, 0)
    assert players.asked == []


# Short questions (off in every configuration) -----------------------------------------


@pytest.mark.parametrize("tool_format", ["tool_call", "function_calls_xml"])
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("The Bern!", "bern", "Basel", "Genf"), 2 / 3),
        (("Bern",) * 4, 0),
        (("Basel",) * 4, 0),
        (("Bern", "Basel", None, None), 1),  # two answers are left
        (("Bern", None, None, None), 0),  # one answer says nothing
    ],
)
@pytest.mark.quirk(24)
def test_a_short_question_is_measured_by_exact_match(tool_format, answers, expected):
    reward, players = short(tool_format, answers)
    assert reward.parts["format"] == 1
    assert reward.parts["short_answer"] == 1
    assert reward.parts["difficulty"] == pytest.approx(expected)
    assert players.count("grader") == 0
    assert reward.trace["branch"] == "exact match"


def test_a_short_question_with_a_bad_reference_answer_earns_nothing():
    reward, players = short("tool_call", ("x",), reference=" ")
    assert numbers(reward) == (0, 0, 0)
    assert players.asked == []


def test_a_long_reference_answer_costs_half_of_its_share():
    reference = "one two three four five six"
    reward, _ = short("function_calls_xml", ("x", "y"), reference=reference)
    assert reward.parts["short_answer"] == 0.5
    assert reward.parts["format"] == pytest.approx((3 + 0.5) / 4)
