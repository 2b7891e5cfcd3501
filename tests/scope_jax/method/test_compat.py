"""Each switch alone, on both of its sides; and constants that are kept as they are."""

import ast
import asyncio
import itertools
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import configs
from scope_jax.method import compat as compat_module
from scope_jax.method import conversation, prompts, stop_tags
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.types import TOOL_FORMATS, Document, Rubric, Task
from scope_jax.selfplay import stages, trainer
from scope_jax.selfplay.judging import Judging
from tests.scope_jax.selfplay.scripted import SCORE, ScriptedPlayers, rubrics, settings

SWITCHES = {3, 4, 10, 13, 14, 20, 39, 48, 51, 52, 53, 54}
"""Rows of the list of quirks that recommend a switch (spec 15)."""
CALL = '<tool_call>{"name": "search", "arguments": {"query_list": ["q"]}}</tool_call>'
both = pytest.mark.parametrize("on", [False, True])


def documented():
    """Field -> its docstring."""
    tree = ast.parse(Path(compat_module.__file__).read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    return {
        field.target.id: said.value.value
        for field, said in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
    }


def test_there_is_one_switch_for_each_row_that_wants_one():
    rows = [re.match(r"Q(\d+): ", said)[1] for said in documented().values()]
    assert sorted(map(int, rows)) == sorted(SWITCHES)
    assert list(documented()) == [field.name for field in fields(Compat)]


def test_all_are_off_by_default_and_on_as_released():
    names = [field.name for field in fields(Compat)]
    assert not any(getattr(OFF, name) for name in names)
    assert all(getattr(Compat.released(), name) for name in names)
    assert all(configs.load(name).compat == OFF for name in configs.names())


@both
@pytest.mark.quirk(3)
def test_q3_task_creation_may_hide_the_task_from_writer_and_examiner(on):
    config = settings(compat=Compat(empty_task_prompt=on))
    said = {"rubric": rubrics(3), "grader": SCORE[1], "gate_entity": SCORE[1]}
    for stage, hidden in (("challenger", False), ("tasks", on), ("solver", False)):
        scripted = ScriptedPlayers(
            config, judge=lambda stem, text, retry: said.get(stem, SCORE[1])
        )
        judging = Judging(scripted.world, stage)

        async def ask(judging=judging):
            await judging.rubrics("THE TASK", "writing", "D", ("s",))
            await judging.grade("THE TASK", "A", [Rubric("r")], ("s",))
            await judging.gates("THE TASK", "writing", "D", ("s",))

        asyncio.run(ask())
        shown = {stem: "THE TASK" in text for stem, text, _ in scripted.asked}
        assert shown["rubric"] == shown["grader"] == (not hidden), stage
        assert shown["gate_entity"]  # gates see it in the reference too


def searching(kind, compat):
    """A state after a JSON search, and the search action."""
    spec = conversation.ConversationSpec(
        kind=kind,
        tool_format="tool_call",
        prompts=prompts.load("default", "tool_call"),
        num_searches=2,
        compat=compat,
    )
    state, _ = conversation.start(spec, [{"role": "user", "content": "p"}])
    return conversation.step(state, CALL)


@both
@pytest.mark.quirk(13)
def test_q13_limits_of_tool_text(on):
    compat = Compat(tool_text_limits=on)
    _, search = searching("task", compat)
    assert search.unit == ("characters" if on else "tokens")
    state, search = searching("challenger", compat)
    assert (search.limit, search.unit) == (500, "tokens")
    state, _ = conversation.observe(state, ["passage"], lambda text: text[:4])
    [result] = [m["content"] for m in state.messages if m["role"] == "tool"]
    assert result == ('{"re' if on else json.dumps({"result": "pass"}))


@both
@pytest.mark.quirk(14)
def test_q14_json_calls_of_task_creation_may_be_left_unguided(on):
    compat = Compat(unguided_tool_calls=on)
    state, _ = searching("task", compat)
    state, action = conversation.observe(state, ["passage"])
    assert state.messages[-1]["role"] == ("tool" if on else "user")
    assert bool(action.stop) == (not on)
    state, _ = searching("challenger", compat)  # training is guided in either case
    state, action = conversation.observe(state, ["passage"])
    assert state.messages[-1]["role"] == "user" and action.stop


@both
@pytest.mark.quirk(20)
def test_q20_the_loss_may_be_a_mean_of_each_micro_batch(on):
    config = settings(compat=Compat(micro_batch_mean=on))
    loss = trainer.loss_of(config, config.solver_train)
    assert loss.averaging == ("micro_batch_mean" if on else "token_mean")


@pytest.mark.quirk(16, 17)
def test_one_schema_is_shown_wherever_a_tool_is():
    for tool_format, name in (
        ("tool_call", "query_list"),
        ("function_calls_xml", "query"),
    ):
        [tool] = prompts.load("default", tool_format).tools()
        assert list(tool["function"]["parameters"]["properties"]) == [name]
        # a set changes words, never the schema
        assert prompts.load("few_shot", tool_format).tools() == [tool]


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.quirk(15)
def test_task_creation_puts_no_tag_back(tool_format):
    for text in ("<task>x", "<search>x", "a <task> is", "<function_calls>x"):
        closed = stop_tags.close_tags(
            text, "task", tool_format, compat=Compat.released()
        )
        assert closed == text


@pytest.mark.quirk(19, 22, 29, 30, 40, 41)
def test_constants_that_are_kept():
    qwen25, qwen3 = configs.load("qwen25_7b"), configs.load("qwen3_8b")
    clips = [(c.loss.clip_low, c.loss.clip_high) for c in both_stages(qwen25)]
    assert clips == [(0.2, 0.2), (0.2, 0.28)]
    assert {c.optimizer.warmup_updates for c in both_stages(qwen25)} == {0}
    for config in (qwen25, qwen3):
        measured = config.challenger.rollout_sampling
        assert (measured.temperature, measured.top_p) == (0.7, 0.9)
        sampled = {
            (c.sampling.temperature, c.sampling.top_p) for c in both_stages(config)
        }
        assert sampled == {(1.0, 1.0)}
        at = config.judge.grade_temperature
        assert (at.challenger, at.tasks, at.solver) == (0, 0, 0.6)
        assert config.judge.rubric_temperature == config.judge.gate_temperature == 0
        assert (config.solver.max_searches, config.solver.max_searches_eval) == (4, 5)
        turns = (config.challenger.max_turns, config.solver.max_turns)
        assert (*turns, config.tasks.max_turns) == (5, 5, 10)


def both_stages(config):
    return config.challenger_train, config.solver_train


def task(text):
    return Task(
        uid="u",
        type="writing",
        text=text,
        document=Document(id="d", title="T", text="D"),
        searches=1,
        rubrics=(Rubric("r"),),
        gate_scores={},
        difficulty=0.5,
    )


@pytest.mark.quirk(28)
def test_tasks_with_prompts_over_the_limit_are_left_out():
    scripted = ScriptedPlayers(settings())
    limit = scripted.config.solver_train.max_prompt_tokens
    short, long = task("x"), task("x" * limit)
    assert stages._usable(scripted.world, [short, long]) == [short]


@pytest.mark.quirk(36)
def test_a_task_that_says_question_reaches_the_examiner_whole():
    text = "Question: which?\nQuestion: why?"
    scripted = ScriptedPlayers(settings(), judge=lambda *asked: SCORE[1])
    work = Judging(scripted.world, "solver").grade(text, "A", [Rubric("r")], ("s",))
    asyncio.run(work)
    [(_, shown, _)] = scripted.asked
    assert f"<prompt>\n{text}\n</prompt>" in shown
