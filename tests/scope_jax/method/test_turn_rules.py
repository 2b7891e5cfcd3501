"""Turn rules that no worked example shows (spec 3.7, 3.8, 11.2), line by line."""

import itertools
import random

import pytest

from scope_jax.method import conversation as c
from scope_jax.method import prompts, stop_tags, turn_rules
from scope_jax.method.compat import Compat
from scope_jax.method.types import TOOL_FORMATS
from tests.scope_jax.method.test_conversation import (
    after_prompt,
    guidance,
    play,
    s,
    t,
    x,
)

CALL = {"search_r1": s, "tool_call": t, "function_calls_xml": x}
CALL_END = {
    "search_r1": "</search>",
    "tool_call": "</tool_call>",
    "function_calls_xml": "</function_calls>",
}
TASK, ANSWER = "<task>T</task>", "<answer>A</answer>"


# Where generation stops ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tool_format", "stop"),
    [
        ("challenger", "search_r1", ("</search>", "</task>", "</answer>")),
        ("challenger", "tool_call", ("</tool_call>", "</task>")),
        ("challenger", "function_calls_xml", ("</function_calls>", "</task>")),
        ("task", "search_r1", ("</search>", "</task>")),
        ("task", "tool_call", ("</tool_call>", "</task>")),
        ("task", "function_calls_xml", ("</function_calls>", "</task>")),
        ("solver", "search_r1", ("</search>", "</answer>")),
        ("solver", "tool_call", ("</answer>",)),
        ("solver", "function_calls_xml", ("</function_calls>", "</answer>")),
        ("solver_eval", "search_r1", ("</search>", "</answer>")),
        ("difficulty", "search_r1", ("</search>", "</answer>")),
        ("difficulty", "tool_call", ("</answer>",)),
        ("difficulty", "function_calls_xml", ("</function_calls>", "</answer>")),
    ],
)
def test_turns_stop_where_the_rules_would_cut_them(kind, tool_format, stop):
    _, action, _ = play(kind, tool_format, [], 1)
    assert action == c.Generate(stop)


def test_a_forced_answer_is_not_stopped_at_a_search_that_nobody_runs():
    for kind, searches in (("difficulty", 5), ("solver_eval", 5)):
        _, action, _ = play(kind, "search_r1", [s("a")] * searches)
        assert action == c.Generate(("</answer>",))


def stopped(text, stops):
    """What an engine returns that was going to say ``text``."""
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def sayings(tool_format, seed, count=2000):
    """Turns put together from anything that a rule looks at, well formed or not."""
    rng = random.Random(seed)
    call = CALL[tool_format]
    pieces = [
        "hm ",
        "<think>why</think>",
        "<think>",
        call("q"),
        call("q")[: -len(CALL_END[tool_format])],
        call("") if tool_format != "tool_call" else "<tool_call>{</tool_call>",
        TASK,
        "<task>",
        ANSWER,
        "<answer>",
        "</answer>",
        CALL_END[tool_format],
    ]
    for _ in range(count):
        yield "".join(rng.choices(pieces, k=rng.randint(1, 7)))


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("kind", ["challenger", "task", "solver", "solver_eval"])
def test_nothing_is_generated_only_to_be_thrown_away(kind, tool_format):
    """Of a turn that ended at its stop strings the rules keep every character.

    But for what can't be known while it is sampled: text behind the last of several
    JSON calls, and a Solver's stray task, which an answer may follow.
    """
    spec = c.ConversationSpec(
        kind=kind,
        tool_format=tool_format,
        prompts=prompts.load("default", tool_format),
        num_searches=2 if kind in ("challenger", "task") else None,
    )
    stops = stop_tags.stop_strings(kind, tool_format)
    checked = 0
    for text, turn in itertools.product(sayings(tool_format, 1), (1, 2, 3, 5)):
        turn_text = stopped(text, stops)
        if kind.startswith("solver") and (
            "</task>" in turn_text or tool_format == "tool_call"
        ):
            continue
        assert turn_rules.decide(spec, turn, turn_text).kept == turn_text
        checked += 1
    assert checked > 1000 or (kind[:6], tool_format) == ("solver", "tool_call")


# Policy rollouts (3.7) ----------------------------------------------------------------


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_training_solvers_are_never_made_to_answer(tool_format):
    state, action, _ = play("solver", tool_format, [CALL[tool_format]("q")] * 5)
    nudge = state.spec.prompts.forced_answer()
    assert action == c.Finish("turns")
    assert all(content != nudge for _, content in after_prompt(state))


def test_the_fifth_search_runs_in_two_formats_and_not_as_a_json_call():
    for tool_format, runs in zip(TOOL_FORMATS, (5, 4, 5), strict=True):
        call = CALL[tool_format]("q")
        assert len(play("solver", tool_format, [call] * 5)[2]) == runs


@pytest.mark.parametrize("tool_format", ["search_r1", "function_calls_xml"])
def test_evaluation_forces_an_answer_after_a_last_turn_without_one(tool_format):
    call = CALL[tool_format]
    nudge = prompts.load("default", tool_format).forced_answer()
    for last in (call("q"), "<think>so</think>"):
        state, action, run = play(
            "solver_eval", tool_format, [call("q")] * 4 + [last, ANSWER]
        )
        assert len(run) == 4
        assert after_prompt(state)[-2:] == [("user", nudge), ("assistant", ANSWER)]
        assert action == c.Finish("done")


def test_evaluation_lets_a_json_call_in_the_last_turn_go_unanswered():
    state, action, run = play("solver_eval", "tool_call", [t("q")] * 5)
    assert len(run) == 4 and action == c.Finish("turns")
    assert state.messages[-1]["role"] == "assistant"


def test_evaluation_gives_up_after_five_forced_answers_and_ends_with_the_solver():
    state, action, _ = play("solver_eval", "search_r1", [s("a")] * 5 + ["no"] * 5)
    nudge = ("user", state.spec.prompts.forced_answer())
    assert after_prompt(state).count(nudge) == 5
    assert after_prompt(state)[-1] == ("assistant", "no")
    assert action == c.Finish("turns")


@pytest.mark.parametrize("end", [ANSWER, "x</function_calls>", "<task>"])
def test_what_ends_a_forced_answer_in_evaluation(end):
    generations = [s("a")] * 5 + ["no", end]
    assert play("solver_eval", "search_r1", generations)[1] == c.Finish("done")


def test_a_forced_answer_that_is_too_long_is_not_forced_again():
    state, _, _ = play("solver_eval", "search_r1", [s("a")] * 5)
    _, action = c.step(state, "<answer>on and on", "length")
    assert action == c.Finish("length")


def test_a_difficulty_rollout_takes_a_forced_answer_that_was_too_long():
    """Spec 3.9.3; without any answer, another is forced."""
    state, _, _ = play("difficulty", "search_r1", ["plain"])
    again, action = c.step(state, "on and on", "length")
    assert isinstance(action, c.Generate) and again.forced == 2
    state, action = c.step(state, "<answer>on and on", "length")
    assert action == c.Finish("done")
    assert state.last_text == "<answer>on and on</answer>"


def test_an_open_search_in_the_last_turn_ends():
    script = ["<search>a"] * 5
    state, action, _ = play("solver", "search_r1", script)
    assert action == c.Finish("turns")
    assert len(state.messages) == 1 + 5 + 4


@pytest.mark.parametrize(
    ("tool_format", "text"),
    [
        ("search_r1", ANSWER),
        ("search_r1", "<think>x</think> " + ANSWER + s("q")),
        ("function_calls_xml", ANSWER),
        ("function_calls_xml", '<function_calls>answer(answer="x")</function_calls>'),
        ("function_calls_xml", "<function_calls>find()</function_calls>" + ANSWER),
        ("tool_call", ANSWER),
        ("tool_call", "<answer>open"),
    ],
)
def test_answers_end_a_solver(tool_format, text):
    _, action, run = play("solver", tool_format, [text])
    assert action == c.Finish("done") and run == []


def test_a_closed_tag_inside_thinking_ends_no_function_call_turn():
    text = f"<think>{ANSWER}</think>"
    state, action, _ = play("solver", "function_calls_xml", [text])
    assert isinstance(action, c.Generate)
    assert after_prompt(state)[-1][1] == state.spec.prompts.invalid_action()


@pytest.mark.parametrize("tool_format", ["search_r1", "function_calls_xml"])
def test_a_guided_search_too_many_ends_unless_it_is_a_json_call(tool_format):
    call = CALL[tool_format]
    _, action, run = play("challenger", tool_format, [call("1"), call("2")], 1)
    assert run == [("1",)] and action == c.Finish("done")
    _, action, run = play("challenger", "tool_call", [t("1"), t("2")], 1)
    assert run == [("1",), ("2",)] and isinstance(action, c.Generate)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_a_guided_turn_without_action_after_the_last_search_ends(tool_format):
    call = CALL[tool_format]("1")
    _, action, _ = play("challenger", tool_format, [call, "hm"], 1)
    assert action == c.Finish("done")
    state, action, _ = play("challenger", tool_format, ["hm"], 1)
    assert after_prompt(state)[-1] == ("user", guidance(state, "final"))


def test_only_the_first_search_of_a_turn_runs_except_of_json_calls():
    assert play("solver", "search_r1", [s("a") + s("b")])[2] == [("a",)]
    assert play("solver", "function_calls_xml", [x("a") + x("b")])[2] == [("a",)]
    assert play("solver", "tool_call", [t("a") + t("b", "c")])[2] == [("a", "b", "c")]


def test_objects_among_the_queries_of_a_policy_s_call_are_taken():
    call = (
        '<tool_call>{"name": "search", "arguments": {"query_list": '
        '[{"n": 1, "q": "x"}, {"other": "y"}, "z"]}}</tool_call>'
    )
    assert play("solver", "tool_call", [call])[2] == [("x", "y", "z")]
    assert play("difficulty", "tool_call", [call])[2] == []


# Difficulty rollouts (3.8) ------------------------------------------------------------


def test_a_difficulty_rollout_searches_wherever_a_call_stands():
    for tool_format in ("tool_call", "function_calls_xml"):
        call = CALL[tool_format]
        text = f"<think>{call('a')}</think> {call('b')} tail"
        state, _, run = play("difficulty", tool_format, [text])
        assert run == [("a", "b")]
        assert after_prompt(state)[0][1] == text.removesuffix(" tail")


def test_calls_as_text_inside_json_tags_are_taken_by_difficulty_rollouts_only():
    call = '<tool_call>search(query_list=["a", "b"])</tool_call>'
    assert play("difficulty", "tool_call", [call])[2] == [("a", "b")]
    assert play("solver", "tool_call", [call])[2] == []


def test_a_difficulty_rollout_nudges_a_malformed_search_or_forces_an_answer():
    state, _, _ = play("difficulty", "search_r1", ["<search>a"])
    assert after_prompt(state)[-1][1] == state.spec.prompts.invalid_action()
    for tool_format in TOOL_FORMATS:
        state, _, _ = play("difficulty", tool_format, ["plain"])
        assert after_prompt(state)[-1][1] == state.spec.prompts.forced_answer()
    state, _, _ = play("difficulty", "tool_call", ["<tool_call>{</tool_call>"])
    assert after_prompt(state)[-1][1] == state.spec.prompts.forced_answer()


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_the_fifth_search_of_a_difficulty_rollout_runs_in_every_format(tool_format):
    call = CALL[tool_format]("q")
    state, action, run = play("difficulty", tool_format, [call] * 5)
    assert len(run) == 5 and isinstance(action, c.Generate)
    assert after_prompt(state)[-1][1] == state.spec.prompts.forced_answer()


# Task creation (11.2) -----------------------------------------------------------------


def test_a_tag_call_is_cut_behind_the_last_and_a_json_call_is_not():
    for tool_format, kept in (
        ("search_r1", s("1") + " x " + s("2")),
        ("function_calls_xml", x("1") + " x " + x("2")),
        ("tool_call", t("1") + " x " + t("2") + " tail"),
    ):
        call = CALL[tool_format]
        text = f"{call('1')} x {call('2')} tail"
        state, _, run = play("task", tool_format, [text], 2)
        assert run == [("1",)]
        assert state.last_text == kept


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_a_search_wins_over_a_task_until_all_searches_are_done(tool_format):
    call = CALL[tool_format]
    _, _, run = play("task", tool_format, [TASK + call("1")], 1)
    assert run == [("1",)]
    _, action, run = play("task", tool_format, [call("1"), TASK + call("2")], 1)
    assert run == [("1",)] and action == c.Finish("done")


@pytest.mark.parametrize("compat", [Compat(), Compat.released()])
def test_no_result_guides_in_every_format_and_in_the_reference_too(compat):
    for tool_format in TOOL_FORMATS:
        state, _, _ = play("task", tool_format, ["hm", "hm"], 2, compat=compat)
        assert [content for role, content in after_prompt(state) if role == "user"] == [
            guidance(state, "no_result", 1),
            guidance(state, "final"),
        ]
