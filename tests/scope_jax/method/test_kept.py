"""What the reference does and is kept (spec 15), where no other test shows it."""

import math
from dataclasses import replace

import numpy as np
import pytest

import configs
from rl.learner.losses import LossConfig, token_weights
from rl.records import Datum
from scope_jax.method import conversation as c
from scope_jax.method import draws, judge, prompts
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.types import TOOL_FORMATS, Document, Rubric
from scope_jax.selfplay import task_writing
from scope_jax.selfplay.documents import ChallengerPrompt
from scope_jax.selfplay.estimates import with_advantages
from tests.scope_jax.method.rewarded import call
from tests.scope_jax.method.test_conversation import play
from tests.scope_jax.selfplay.scripted import (
    ScriptedPlayers,
    empty_rollout,
    rubrics,
    settings,
)

compats = pytest.mark.parametrize("compat", [OFF, Compat.released()])


@pytest.mark.quirk(6)
def test_q6_a_rubric_s_priority_reaches_nobody():
    plain = prompts.load("default", "search_r1")
    asked = [
        judge.grade_prompts(plain, "T", "A", [Rubric("Names X.", p)], thinking=thinking)
        for p in ("critical", "bonus", None)
        for thinking in (False, True)
    ]
    assert asked[0] == asked[2] == asked[4] and asked[1] == asked[3] == asked[5]


@compats
@pytest.mark.quirk(12)
def test_q12_three_to_five_rubrics_are_asked_for_and_up_to_ten_taken(compat):
    [asked] = prompts.load("default", "search_r1").rubric("T", "writing", "D")
    assert "3 to 5 rubrics" in asked["content"]
    for count in range(1, 13):
        parse = judge.parse_rubrics(rubrics(count), compat=compat)
        assert parse.valid == (3 <= count <= 10)


def datum(turn):
    return Datum(
        uid="u",
        turn=turn,
        ids=(1, 2, 3),
        loss_mask=(0, 1, 1),
        sampled_mask=(0, 1, 1),
        logprobs=(math.nan, -1.0, -1.0),
    )


@pytest.mark.quirk(18)
def test_q18_a_rollout_of_more_turns_weighs_more():
    """Each turn is a row with the rollout's whole advantage; rows weigh the same."""
    long = replace(empty_rollout(()), datums=(datum(0), datum(1), datum(2)), reward=1.0)
    short = replace(empty_rollout(()), datums=(datum(0),), reward=0.0)
    advantages = [d.advantage for d in with_advantages([long, short])]
    assert advantages[0] == advantages[1] == advantages[2] == -advantages[3] > 0
    config = configs.load("qwen3_8b").solver_train.loss
    weights = token_weights(np.array([2, 4, 1, 2]), config) * [2, 4, 1, 2]
    np.testing.assert_allclose(weights, 1 / 4)
    assert config.averaging == "row_mean" != LossConfig().averaging


@pytest.mark.quirk(19)
def test_q19_one_update_a_step_where_a_rollout_is_one_row():
    for name in ("qwen25_7b", "olmo3_7b"):
        config = configs.load(name)
        stages = (config.challenger_train, config.solver_train)
        assert {stage.update.mini_batch_rows for stage in stages} == {0}


@pytest.mark.quirk(24)
def test_q24_no_configuration_draws_a_short_question():
    for name in configs.names():
        ratio = configs.load(name).challenger.short_form_qa_ratio
        drawn = draws.task_types(500, 1, short_form_qa_ratio=ratio)
        assert ratio == 0 and "short_form_qa" not in drawn


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("thought", ["<think>t</think>", "<think>t", ""])
@pytest.mark.quirk(32)
def test_q32_task_creation_keeps_a_task_without_thinking(tool_format, thought):
    tag = {"tool_call": "tool_response"}.get(tool_format, "information")
    result = {"role": "user", "content": f"<{tag}>D</{tag}>"}
    turns = [call(tool_format), f"{thought}<task>Write.</task>"]
    said = [{"role": "assistant", "content": turn} for turn in turns]
    messages = ({"role": "user", "content": "p"}, said[0], result, said[1])
    rollout = replace(empty_rollout((1, "t")), messages=messages, opening=1)
    prompt = ChallengerPrompt(
        index=0,
        document=Document(id="d", title="T", text="D"),
        task_type="writing",
        searches=1,
    )
    world = ScriptedPlayers(settings(tool_format)).world
    found, _ = task_writing._read(world, prompt, rollout)
    assert isinstance(found, task_writing.Candidate)


@compats
@pytest.mark.quirk(33)
def test_q33_searches_in_thinking_run_with_search_tags_and_in_difficulty(compat):
    for tool_format in TOOL_FORMATS:
        text = f"<think>I need {call(tool_format, 'a')}</think> so"
        assert play("difficulty", tool_format, [text], compat=compat)[2] == [("a",)]
    text = f"<think>I need {call('search_r1', 'a')}</think> so"
    for kind, n in (("solver", None), ("solver_eval", None), ("challenger", 1)):
        assert play(kind, "search_r1", [text], n, compat=compat)[2] == [("a",)]
    text = f"<think>{call('tool_call', 'a')}</think> so"
    assert play("solver", "tool_call", [text], compat=compat)[2] == []


@compats
@pytest.mark.quirk(34)
def test_q34_a_search_as_text_wins_over_an_answer_in_every_kind(compat):
    text = "<answer>x</answer>" + call("function_calls_xml", "a")
    for kind in ("solver", "solver_eval", "difficulty"):
        run = play(kind, "function_calls_xml", [text], compat=compat)[2]
        assert run == [("a",)]
    text = "<task>x</task>" + call("function_calls_xml", "a")
    for kind in ("challenger", "task"):
        run = play(kind, "function_calls_xml", [text], 1, compat=compat)[2]
        assert run == [("a",)]


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.quirk(29)
def test_q29_only_difficulty_and_evaluation_force_an_answer(tool_format):
    said = [call(tool_format)] * 4 + ["<think>hm</think>"]
    for kind in ("solver", "challenger", "task"):
        state, action, _ = play(kind, tool_format, said[: 5 if kind == "solver" else 1])
        assert state.spec.prompts.forced_answer() not in str(state.messages)
    for kind in ("difficulty", "solver_eval"):
        state, action, _ = play(kind, tool_format, said)
        last = {"role": "user", "content": state.spec.prompts.forced_answer()}
        assert state.messages[-1] == last and isinstance(action, c.Generate)
