"""Whole rewards (spec 9.2, 10): scripted judge and Solver, every branch and format."""

import asyncio
import json
import math
from dataclasses import replace

import pytest

from rl.records import SamplingParams
from scope_jax import solver as solver_rules
from scope_jax.challenger import ChallengerConfig
from scope_jax.compat import Compat
from scope_jax.documents import PromptRow
from scope_jax.judge import JudgeConfig
from scope_jax.rewards import Rewards
from scope_jax.rollouts import Limits, converse
from scope_jax.stages import challenger_spec
from scope_jax.types import TOOL_FORMATS, Document, Rubric, Task
from tests.scope_jax.examples import example
from tests.scope_jax.scripted import (
    SCORE,
    ScriptedSession,
    attempts,
    rubrics,
    settings,
)

SEED = ("reward", 7)
K = 8


def call(tool_format, query="q"):
    if tool_format == "tool_call":
        arguments = {"query_list": [query]}
        value = json.dumps({"name": "search", "arguments": arguments})
        return f"<tool_call>\n{value}\n</tool_call>"
    if tool_format == "search_r1":
        return f"<search>{query}</search>"
    return f'<function_calls>search(query="{query}")</function_calls>'


def thought(text):
    return f"<think>t</think>\n{text}"


def played(session, kind, opening, texts, *, n=None, response=8192):
    """The episode of a policy that says ``texts``."""
    config, script = session.config, list(texts)

    async def policy(request):
        return session.completion(script.pop(0))

    spec = challenger_spec(session, kind, n, 5)
    if kind == "solver":
        spec = Rewards(session, "solver").solver_spec("solver")
    return asyncio.run(
        converse(
            spec,
            opening,
            complete=policy,
            search=session.search,
            renderer=session.renderer,
            sampling=config.challenger_train.sampling,
            limits=Limits(context=16384, response=response),
            uid="u",
            seed=("policy",),
        )
    )


# The Challenger -----------------------------------------------------------------------


def meeting(*counts, n=4):
    """A judge and Solvers such that answer i meets ``counts[i]`` of the n rubrics.

    None: rollout i gives no answer.
    """
    texts = [
        ["plain"] + ["no"] * 5 if count is None else [f"<answer>met={count}</answer>"]
        for count in counts
    ]

    def judge(stem, text, retry):
        if stem == "rubric":
            return rubrics(n)
        if stem.startswith("gate"):
            return SCORE[1]
        number = int(text.split("Names fact ")[1].split(".")[0])
        met = int(text.split("met=")[1][0])
        return SCORE[int(number <= met)]

    return judge, attempts(SEED, *texts)


def challenger_reward(
    tool_format="search_r1",
    texts=None,
    *,
    n=1,
    judge=None,
    solver=None,
    counts=(2,) * K,
    task_type="writing",
    compat=None,
    challenger=None,
    response=8192,
):
    """(reward, session) of a Challenger that searches once and writes its task."""
    default_judge, default_solver = meeting(*counts)
    config = settings(tool_format, compat=compat or Compat())
    config = replace(config, challenger=challenger or ChallengerConfig(rollouts=K))
    session = ScriptedSession(
        config, judge=judge or default_judge, solver=solver or default_solver
    )
    document = Document(id="1", title="Bern", text="(Title: Bern)\nA city.\n")
    row = PromptRow(index=0, document=document, task_type=task_type, searches=n)
    if texts is None:
        texts = [thought(call(tool_format)), thought("<task>T</task>")]
    opening = session.prompts.challenger(document.text, task_type, n)
    episode = played(session, "challenger", opening, texts, n=n, response=response)
    rewards = Rewards(session, "challenger")
    reward, _ = asyncio.run(rewards.challenger(episode, row, SEED))
    return reward, session


def numbers(reward):
    return (reward.parts["format"], reward.parts["difficulty"], reward.value)


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
    reward, session = challenger_reward(tool_format, counts=counts)
    assert numbers(reward) == pytest.approx(expected, abs=1e-6)
    answered = sum(count is not None for count in counts)
    assert session.count("grader") == 4 * answered
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

    reward, session = challenger_reward(tool_format, judge=gated, solver=solver)
    assert numbers(reward) == (1, 0, 0.5)
    assert session.solver_requests == []
    assert reward.parts["quality"] == 0
    assert "gates" in reward.trace["branch"]


@pytest.mark.example(73)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("written", [rubrics(2), rubrics(11), "none", rubrics(3)[:-3]])
def test_without_rubrics_the_whole_reward_is_lost(tool_format, written):
    judge, _ = meeting(*[2] * K)

    def poor(stem, text, retry):
        return written if stem == "rubric" else judge(stem, text, retry)

    reward, session = challenger_reward(tool_format, judge=poor)
    assert numbers(reward) == (0, 0, 0)
    assert session.count("rubric") == 1  # no retry
    assert session.solver_requests == []


@pytest.mark.example(74)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("last", ["bye", "<task>  </task>", "<task>open"])
def test_without_a_task_nobody_is_asked(tool_format, last):
    texts = [thought(call(tool_format)), thought(last), "x", "x", "x"]
    reward, session = challenger_reward(tool_format, texts)
    assert numbers(reward) == (0, 0, 0)
    assert session.asked == [] and session.solver_requests == []
    assert reward.trace["branch"] == "no task"


@pytest.mark.example(75)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_fewer_searches_than_asked_for_cost_format_only(tool_format):
    reward, _ = challenger_reward(tool_format, n=3)
    assert numbers(reward) == pytest.approx((0.777778, 1, 1.388889), abs=1e-6)


def test_how_the_judge_and_the_solver_are_asked_in_stage_1():
    _, session = challenger_reward()
    assert session.temperatures == {
        "rubric": {(0.0, 8192)},
        "gate_entity": {(0.0, 256)},
        "gate_source_relevance": {(0.0, 256)},
        "grader": {(0.0, 16384)},
    }
    assert {r.sampling for r in session.solver_requests} == {
        SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=8192)
    }
    prompts = {
        text
        for request in session.solver_requests
        for text in [session.renderer.decode(request.ids)]
    }
    assert any("Question: T" in text for text in prompts)
    shown = [text for stem, text, _ in session.asked if stem == "grader"]
    assert all("<prompt>\nT\n</prompt>" in text for text in shown)


@pytest.mark.quirk(5)
def test_the_rubric_writer_sees_document_and_passages_once():
    _, session = challenger_reward()
    [shown] = [text for stem, text, _ in session.asked if stem == "rubric"]
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
    reward, session = challenger_reward(judge=poor, solver=solver, challenger=config)
    assert reward.trace["usable_rollouts"] == 1
    assert reward.parts["rubric_score"] == pytest.approx(0.75)
    assert reward.parts["difficulty"] == pytest.approx(0.5)
    assert sum(retry for _, _, retry in session.asked) == 4
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
    reward, session = challenger_reward(response=200)
    assert numbers(reward) == (0, 0, 0)
    assert session.asked == []


# Short questions (off in every configuration) -----------------------------------------


def short(tool_format, answers, *, reference="Bern", counts=()):
    """A Challenger's reward for a short question with a reference answer."""
    judge, _ = meeting(*counts)

    def gated(stem, text, retry):
        assert stem != "gate_source_relevance"
        return judge(stem, text, retry)

    texts = [
        thought(call(tool_format, f"city of {reference}")),
        thought(f"<answer>{reference}</answer><task>Which city?</task>"),
    ]
    solver = attempts(
        SEED,
        *(
            ["plain"] + ["no"] * 5 if a is None else [f"<answer>{a}</answer>"]
            for a in answers
        ),
    )
    return challenger_reward(
        tool_format,
        texts,
        judge=gated,
        solver=solver,
        task_type="short_form_qa",
        challenger=ChallengerConfig(rollouts=len(answers)),
    )


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
    reward, session = short(tool_format, answers)
    assert reward.parts["format"] == 1
    assert reward.parts["short_answer"] == 1
    assert reward.parts["difficulty"] == pytest.approx(expected)
    assert session.count("grader") == 0
    assert reward.trace["branch"] == "exact match"


def test_a_short_question_with_a_bad_reference_answer_earns_nothing():
    reward, session = short("tool_call", ("x",), reference=" ")
    assert numbers(reward) == (0, 0, 0)
    assert session.asked == []


def test_a_long_reference_answer_costs_half_of_its_share():
    reference = "one two three four five six"
    reward, _ = short("function_calls_xml", ("x", "y"), reference=reference)
    assert reward.parts["short_answer"] == 0.5
    assert reward.parts["format"] == pytest.approx((3 + 0.5) / 4)


# The Solver ---------------------------------------------------------------------------


def solver_reward(
    tool_format="search_r1",
    texts=None,
    *,
    grades=(1, 1, 1, 0),
    target=None,
    n=4,
    compat=None,
    lengths=None,
    response=8192,
):
    """(reward, session) of a Solver whose answer gets ``grades``."""

    def judge(stem, text, retry):
        number = int(text.split("Names fact ")[1].split(".")[0])
        said = grades[number - 1]
        return said if isinstance(said, str) else SCORE[said]

    config = settings(tool_format, compat=compat or Compat())
    if lengths:
        config = replace(config, solver=replace(config.solver, length=lengths))
    session = ScriptedSession(config, judge=judge)
    task = Task(
        uid="t",
        type="writing",
        text="Name the facts.",
        document=Document(id="1", title="T", text="x"),
        searches=1,
        rubrics=tuple(Rubric(f"Names fact {i}.") for i in range(1, n + 1)),
        gate_scores={},
        difficulty=0.5,
        target=target,
    )
    if texts is None:
        texts = [
            thought(call(tool_format)),
            thought(call(tool_format)),
            thought("<answer>a b c</answer>"),
        ]
    opening = session.prompts.solver(task.text, 4)
    episode = played(session, "solver", opening, texts, response=response)
    reward, _ = asyncio.run(Rewards(session, "solver").solver(episode, task, SEED))
    return reward, session


@pytest.mark.example(57)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_rubrics_met_searches_and_format_add_up(tool_format):
    reward, session = solver_reward(tool_format)
    assert reward.value == pytest.approx(1.316667, abs=1e-6)
    assert session.temperatures == {"grader": {(0.6, 16384)}}
    assert all("Name the facts." in text for _, text, _ in session.asked)


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
    reward, session = solver_reward(tool_format, grades=grades)
    assert reward.parts["accuracy"] == pytest.approx(accuracy)
    assert reward.value == pytest.approx(0.5 + accuracy + 0.1 * 2 / 3)
    assert branch in reward.trace["branch"]
    retried = sum(grade is None for grade in grades)
    assert sum(retry for _, _, retry in session.asked) == retried


@pytest.mark.example(59)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("last", ["", "<answer> </answer>", "<answer>open"])
def test_without_an_answer_the_judge_is_not_asked(tool_format, last):
    texts = [thought(call(tool_format))] * 4 + [thought(last)]
    reward, session = solver_reward(tool_format, texts)
    assert reward.value == pytest.approx(0.433333, abs=1e-6)
    assert session.asked == []
    assert reward.trace["branch"] == "no valid answer"


def test_a_solver_that_does_nothing_right_gets_nothing():
    reward, session = solver_reward(texts=["plain"])
    assert reward.value == 0 and session.asked == []


def test_an_answer_that_closes_nothing_is_scored_by_what_was_said_before_it():
    """A cut-off answer that an environment turn follows is the answer (spec 5)."""
    texts = ["<search>open <answer>half an answer", thought("bye")]
    reward, session = solver_reward(texts=texts)
    assert reward.trace["answer"] == "half an answer"
    assert session.count("grader") == 4


@pytest.mark.parametrize(
    ("words", "accuracy"),
    [(100, 1), (150, 0.525), (200, 0.05), (400, 0.05), (401, 0)],
)
def test_long_answers_lose_and_over_twice_the_limit_nobody_grades(words, accuracy):
    lengths = solver_rules.LengthConfig(soft=100, hard=200)
    texts = [thought(f"<answer>{'w' * words}</answer>")]  # a byte a token
    reward, session = solver_reward(texts=texts, grades=(1,) * 4, lengths=lengths)
    assert reward.parts["accuracy"] == pytest.approx(accuracy)
    assert session.count("grader") == (0 if words > 400 else 4)
    seen = {text.count("w" * 200) for stem, text, _ in session.asked}
    assert seen <= {int(words >= 200)}
    assert not any("w" * 201 in text for _, text, _ in session.asked)


@pytest.mark.example(67)
@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize(("answer", "right"), [("The Paris!", 1), ("Lyon", 0)])
def test_a_known_answer_takes_the_judge_s_place(tool_format, answer, right):
    texts = [thought(call(tool_format)), thought(f"<answer>{answer}</answer>")]
    reward, session = solver_reward(tool_format, texts, target="paris")
    assert reward.value == pytest.approx(0.533333 + right, abs=1e-6)
    assert session.asked == []


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


# Traces -------------------------------------------------------------------------------


def test_a_challenger_s_trace_can_be_added_up_with_a_pencil():
    reward, _ = challenger_reward(counts=(3, None, 1, None, 3, None, 1, 4), n=3)
    assert reward.trace["why"] == [
        "format 0.7778: the mean of thinking 1, searching 0.3333 (3 searches asked "
        "for), task 1",
        "rubrics: 4 written by the judge",
        "gates: entity 1, source_relevance 1: sum 2 of 2 needed: passed",
        "Solver rollout 1: 3 of 4 met",
        "Solver rollout 2: left out: no valid answer",
        "Solver rollout 3: 1 of 4 met",
        "Solver rollout 4: left out: no valid answer",
        "Solver rollout 5: 3 of 4 met",
        "Solver rollout 6: left out: no valid answer",
        "Solver rollout 7: 1 of 4 met",
        "Solver rollout 8: 4 of 4 met",
        "mean score of 5 rollouts 0.6: difficulty 0.8 (tent that is 1 at 0.5)",
        "reward 1.189 = 0.5 x format 0.7778 + 1 x difficulty 0.8",
    ]


def test_a_solver_s_trace_says_each_grade_and_what_length_took():
    lengths = solver_rules.LengthConfig(soft=5, hard=7)
    texts = [thought(call("search_r1")), thought("<answer>sixsix</answer>")]
    reward, _ = solver_reward(texts=texts, grades=(1, None, 0, 1), lengths=lengths)
    assert reward.trace["why"] == [
        "format 1: the mean of thinking 1, searching before the last turn 1, answer 1",
        "rubrics: 2 of 4 met, 1 unreadable (counted 0 each): score 0.5",
        "answer of 6 tokens (loses from 5 on, all but 0.05 from 7 on): length factor "
        "0.525",
        "accuracy 0.2625 = 0.5 x 0.525",
        "1 search call, 3 wanted: search 0.3333",
        "reward 0.7958 = 0.5 x format 1 + 1 x accuracy 0.2625 + 0.1 x search 0.3333",
    ]
    assert [grade["score"] for grade in reward.trace["judge"]] == [1, None, 0, 1]


def test_every_branch_explains_itself():
    """No branch without lines, none of them with a number that is not there."""
    judge, solver = meeting(*[2] * K)

    def without(part):
        def say(stem, text, retry):
            return "?" if stem.startswith(part) else judge(stem, text, retry)

        return say

    found = [
        challenger_reward(judge=without(part), solver=solver)[0]
        for part in ("rubric", "gate", "grader")
    ]
    found += [
        challenger_reward(texts=["bye", "bye"])[0],
        short("tool_call", ("Bern", "x"))[0],
        short("tool_call", ("x",), reference=" ")[0],
        solver_reward(texts=["plain"])[0],
        solver_reward(target="x")[0],
        solver_reward(n=0)[0],
        solver_reward(lengths=solver_rules.LengthConfig(soft=1, hard=2))[0],
    ]
    branches = [reward.trace["branch"] for reward in found]
    assert len(set(branches)) == 9  # "exact match" is one of either role
    for reward in found:
        why = "\n".join(reward.trace["why"])
        assert "nan" not in why and why.count("reward ") >= 1
        json.dumps(reward.trace)
        assert math.isfinite(reward.value)


def test_the_judge_s_settings_are_used():
    config = JudgeConfig(retry=False, gates=("entity",), required_gates=1)
    judge, solver = meeting(*[2] * K)
    session = ScriptedSession(settings(judge=config), judge=judge, solver=solver)
    rewards = Rewards(session, "challenger")
    gates = asyncio.run(rewards.gates("T", "writing", "d", SEED))
    assert gates == ({"entity": 1}, {"entity": SCORE[1]})
    session = ScriptedSession(settings(judge=config), judge=lambda *_: "?")
    rewards = Rewards(session, "challenger")
    [grade] = asyncio.run(rewards.grade("T", "a", [Rubric("Names fact 1.")], SEED))
    assert grade.score is None and not grade.retried
    assert len(session.asked) == 1
