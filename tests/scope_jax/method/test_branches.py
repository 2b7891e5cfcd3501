"""The reference's branches (spec 3.9), in every format and kind of conversation."""

import asyncio
import json
from types import SimpleNamespace

import pytest

import configs
from models.chat import ChatRenderer
from rl.records import Completion, SamplingParams
from scope_jax.method import conversation as c
from scope_jax.method import prompts
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.transcript import writes_thinking
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.selfplay import trainer
from scope_jax.selfplay.rollouts import Limits, converse
from tests.scope_jax.inference.inference_world import byte_tokenizer
from tests.scope_jax.method.rewarded import call, challenger_reward, solver_reward
from tests.scope_jax.method.test_conversation import after_prompt, guidance, play

RELEASED = Compat.released()
TASK, ANSWER = "<task>T</task>", "<answer>A</answer>"
INVALID = "<function_calls>search(</function_calls>"
formats = pytest.mark.parametrize("tool_format", TOOL_FORMATS)
compats = pytest.mark.parametrize("compat", [OFF, RELEASED], ids=["ours", "released"])


def cut(kind, tool_format, *texts, **settings):
    """The state and action after turns that all ended by length."""
    loaded = prompts.load("default", tool_format)
    n = 2 if kind in ("challenger", "task") else None
    spec = c.ConversationSpec(
        kind=kind, tool_format=tool_format, prompts=loaded, num_searches=n, **settings
    )
    state, action = c.start(spec, [{"role": "user", "content": "prompt"}])
    for text in texts:
        state, action = c.step(state, text, "length")
        while isinstance(action, c.Search):
            state, action = c.observe(state, ["passage"] * len(action.queries))
    return state, action


# 3.9.1 --------------------------------------------------------------------------------


@formats
@pytest.mark.parametrize("kind", ["solver", "solver_eval"])
@pytest.mark.quirk(51)
def test_an_answer_named_in_thinking_ends_a_solver_in_the_reference(kind, tool_format):
    """The row's own input; JSON calls remove thinking before they look for a call."""
    search = call(tool_format)
    text = f"<think>I will use <answer> later</think>{search}"
    state, action = cut(kind, tool_format, text)
    assert state.searches == 1 and isinstance(action, c.Generate)
    state, action = cut(kind, tool_format, text, compat=RELEASED)
    if tool_format == "search_r1":
        assert (state.searches, action) == (0, c.Finish("done"))
        assert state.last_text == text + "</answer>"
    else:  # a search wins over an answer (Q34); its text ends with the tag, or the call
        assert state.searches == 1


@formats
@pytest.mark.parametrize("kind", ["solver", "solver_eval"])
@pytest.mark.quirk(51)
def test_an_answer_cut_by_length_counts_only_in_the_reference(kind, tool_format):
    text = "<answer>half an ans"
    state, _ = cut(kind, tool_format, text)
    assert state.last_text == text
    for make in (Compat.released, lambda: Compat(close_opened_tags=True)):
        state, action = cut(kind, tool_format, text, compat=make())
        assert action == c.Finish("done")
        assert after_prompt(state) == [("assistant", text + "</answer>")]


@formats
@pytest.mark.quirk(51)
def test_a_task_cut_by_length_counts_only_in_the_reference(tool_format):
    text = "<task>half a ta"
    assert cut("challenger", tool_format, text)[0].last_text == text
    state, action = cut("challenger", tool_format, text, compat=RELEASED)
    assert action == c.Finish("done")
    assert state.last_text == text + "</task>"


@formats
@pytest.mark.quirk(51)
def test_a_call_cut_by_length_runs_only_in_the_reference(tool_format):
    """Of function-call text the closing tag is not needed (spec 3.1)."""
    whole = call(tool_format)
    text = whole[: whole.rindex("</")]
    state, _ = cut("challenger", tool_format, text)
    assert state.searches == (tool_format == "function_calls_xml")
    state, _ = cut("challenger", tool_format, text, compat=RELEASED)
    assert state.searches == 1
    assert state.last_text == whole
    # only the tags of the reference's stop strings: a Solver's search is not closed
    state, _ = cut("solver", tool_format, text, compat=RELEASED)
    assert state.searches == (tool_format == "function_calls_xml")


@formats
@pytest.mark.parametrize("compat", [OFF, RELEASED])
def test_neither_kind_of_the_rewards_is_switched(compat, tool_format):
    """Difficulty reads outside thinking, task creation puts no tag back (Q15)."""
    state, action = cut("task", tool_format, "<task>half", compat=compat)
    assert (state.last_text, action) == ("<task>half", c.Finish("done"))
    text = "<think>an <answer> soon</think> words"
    state, _ = cut("difficulty", tool_format, text, compat=compat)
    assert state.last_text == text


@formats
@pytest.mark.quirk(51)
def test_a_forced_answer_of_evaluation_is_closed_only_in_the_reference(tool_format):
    last = "<think>so</think>"
    said = [call(tool_format)] * 4 + [last, "<answer>half"]
    _, action = cut("solver_eval", tool_format, *said)
    assert action == c.Finish("length")
    state, action = cut("solver_eval", tool_format, *said, compat=RELEASED)
    assert action == c.Finish("done")
    assert state.last_text == "<answer>half</answer>"


def rows(tool_format, texts, *, kind="solver", stop_id=False, compat=RELEASED):
    """The rollout of a policy that says ``texts``, a byte a token, and its renderer."""
    template = "qwen3_strip_thinking" if tool_format == "tool_call" else None
    renderer = ChatRenderer.from_tokenizer(byte_tokenizer(), template=template)
    said = iter(texts)

    async def complete(request):
        text = next(said)
        ids = [*renderer.encode_text(text), *renderer.stop_ids[:stop_id]]
        return Completion(
            ids=tuple(ids),
            logprobs=(-1.0,) * len(ids),
            text=text,
            finish_reason="stop" if stop_id else "length",
        )

    async def search(queries):
        return [f"passage {query}" for query in queries]

    work = converse(
        SimpleNamespace(search=search, renderer=renderer),
        c.ConversationSpec(
            kind=kind,
            tool_format=tool_format,
            prompts=prompts.load("default", tool_format),
            compat=compat,
        ),
        [{"role": "user", "content": "prompt"}],
        complete=complete,
        sampling=SamplingParams(max_new_tokens=500),
        limits=Limits(context=10_000, response=10_000),
        seed=("a",),
    )
    return asyncio.run(work), renderer


@formats
@pytest.mark.parametrize("stop_id", [False, True])
@pytest.mark.quirk(51)
def test_a_tag_that_was_put_back_is_trained_on_and_not_sampled(tool_format, stop_id):
    """Every message is rendered, tokenized and in the loss as it is (spec 3.7)."""
    text = "<think>\nso\n</think>\n\n<answer>half"
    rollout, renderer = rows(tool_format, [text], stop_id=stop_id)
    [row] = rollout.datums
    trained = [i for i, loss in zip(row.ids, row.loss_mask, strict=True) if loss]
    assert renderer.decode(trained) == text + "</answer><|im_end|>\n"
    assert sum(row.sampled_mask) == len(text)
    whole, _ = rows(tool_format, [text + "</answer>"], stop_id=stop_id)
    assert whole.datums[0].ids == row.ids


def test_a_tag_that_was_put_back_is_in_the_next_prompt():
    text = '<function_calls>search(query="q") <answer>half'
    rollout, renderer = rows("function_calls_xml", [text, ANSWER], kind="difficulty")
    [row] = rollout.datums
    assert f"{text}</function_calls><|im_end|>" in renderer.decode(row.ids)


# 3.9.2 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tag"),
    [("challenger", "task"), ("solver", "answer"), ("solver_eval", "task")],
)
@pytest.mark.quirk(52)
def test_a_tag_named_in_thinking_ends_a_json_turn_only_in_the_reference(kind, tag):
    text = f"<think>then I write <{tag}> ..</think> words"
    state, action = cut(kind, "tool_call", text)
    assert isinstance(action, c.Generate)
    reply = state.spec.prompts.invalid_action()
    if kind == "challenger":
        reply = guidance(state, "no_result", 1)
    assert after_prompt(state)[-1] == ("user", reply)
    for make in (Compat.released, lambda: Compat(ends_in_thinking=True)):
        state, action = cut(kind, "tool_call", text, compat=make())
        assert action == c.Finish("done") and len(state.messages) == 2


@compats
@pytest.mark.quirk(52)
def test_what_other_turns_read_of_thinking_has_no_switch(compat):
    """Task creation and function-call text read it in either case, answers don't."""
    text = "<think>then I write <task> ..</think> words"
    for tool_format in TOOL_FORMATS:
        _, action = cut("task", tool_format, text, compat=compat)
        assert action == c.Finish("done")
    for tool_format in ("search_r1", "function_calls_xml"):
        _, action = cut("challenger", tool_format, text, compat=compat)
        assert action == c.Finish("done")
    text = text.replace("task", "answer")
    only = Compat(ends_in_thinking=compat.ends_in_thinking)
    _, action = cut("solver", "function_calls_xml", text, compat=only)
    assert isinstance(action, c.Generate)


# 3.9.3 --------------------------------------------------------------------------------


@formats
@compats
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_difficulty_answer_cut_by_length_is_graded_as_it_is(
    compat, tool_format, reason
):
    loaded = prompts.load("default", tool_format)
    spec = c.ConversationSpec(
        kind="difficulty", tool_format=tool_format, prompts=loaded, compat=compat
    )
    state, _ = c.start(spec, [{"role": "user", "content": "prompt"}])
    text = "<think>so</think><answer>half an ans"
    state, action = c.step(state, text, reason)
    assert action == c.Finish("done")
    assert state.last_text == text + "</answer>"


def test_a_difficulty_call_as_text_is_closed_as_well():
    open_call = '<function_calls>search(query="q")'
    state, _ = cut("difficulty", "function_calls_xml", f"{open_call} <answer>x")
    said = after_prompt(state)[0][1]
    assert said == f"{open_call} <answer>x</function_calls>"  # cut behind the call
    state, _ = cut("difficulty", "function_calls_xml", f"<think>{open_call}")
    assert after_prompt(state)[0][1] == f"<think>{open_call}"
    state, _ = cut("difficulty", "search_r1", "<search>q")
    assert after_prompt(state)[0][1] == "<search>q"  # not among its stop strings


# 3.9.4 --------------------------------------------------------------------------------

QUERIES = (
    ([1], None, None, None),
    ([{"query": "x"}], ("x",), ("x",), None),
    (["q", 1], ("q",), ("q",), None),
    ("q", None, ("q",), None),
)


@pytest.mark.parametrize(("items", "policy", "task", "difficulty"), QUERIES)
def test_which_queries_of_a_malformed_list_run(items, policy, task, difficulty):
    value = {"name": "search", "arguments": {"query_list": items}}
    text = f"<tool_call>\n{json.dumps(value)}\n</tool_call>"
    for kind, expected in (
        ("challenger", policy),
        ("solver", policy),
        ("solver_eval", policy),
        ("task", task),
        ("difficulty", difficulty),
    ):
        n = 2 if kind in ("challenger", "task") else None
        state, _, run = play(kind, "tool_call", [text], n)
        assert run == ([expected] if expected else []), kind
        if kind in ("challenger", "solver", "solver_eval") and not expected:
            [result] = [m for m in state.messages if m["role"] == "tool"]
            assert "bad arguments" in result["content"]


@pytest.mark.parametrize("items", [queries[0] for queries in QUERIES])
def test_any_list_that_is_not_empty_counts_for_the_scores(items):
    value = {"name": "search", "arguments": {"query_list": items}}
    text = f"<think>t</think>\n<tool_call>\n{json.dumps(value)}\n</tool_call>"
    counts = float(isinstance(items, list))
    reward, _ = challenger_reward("tool_call", [text, f"<think>t</think>{TASK}"])
    assert reward.parts["tool"] == counts
    reward, _ = solver_reward("tool_call", [text, f"<think>t</think>{ANSWER}"])
    assert (reward.parts["tool"], reward.parts["searches"]) == (counts, counts)
    assert ("query_list is no list" in reward.errors) == (not counts)


# 3.9.5 --------------------------------------------------------------------------------


@compats
@pytest.mark.parametrize("inside", [TASK, ANSWER])
def test_a_closed_tag_in_thinking_does_not_end_an_invalid_call(compat, inside):
    text = f"<think>{inside}</think>{INVALID}"
    for kind in ("challenger", "solver", "solver_eval"):
        state, action = cut(kind, "function_calls_xml", text, compat=compat)
        assert isinstance(action, c.Generate), kind
        reply = state.spec.prompts.invalid_action()
        if kind == "challenger":
            reply = guidance(state, "no_result", 1)
        assert after_prompt(state) == [("assistant", text), ("user", reply)]
        outside = f"<think>so</think>{inside}{INVALID}"
        _, action = cut(kind, "function_calls_xml", outside, compat=compat)
        assert action == c.Finish("done")


# 3.9.6 --------------------------------------------------------------------------------


@compats
@pytest.mark.parametrize("last", ["<answer>half", "<think>so</think><task>half"])
def test_an_open_tag_in_the_last_turn_ends_evaluation(compat, last):
    said = [call("function_calls_xml")] * 4 + [last]
    state, action = cut("solver_eval", "function_calls_xml", *said, compat=compat)
    assert action == c.Finish("done") and state.turns == 5
    assert state.messages[-1]["role"] == "assistant"
    # not before the last turn, not in thinking, and not in the other formats
    if compat == OFF:
        state, action = cut("solver_eval", "function_calls_xml", last)
        assert after_prompt(state)[-1] == ("user", state.spec.prompts.invalid_action())
        said[-1] = "<think>soon <answer> </think> words"
        state, _ = cut("solver_eval", "function_calls_xml", *said)
        assert after_prompt(state)[-1] == ("user", state.spec.prompts.forced_answer())
        said = [call("search_r1")] * 4 + ["<answer>half"]
        state, _ = cut("solver_eval", "search_r1", *said)
        assert after_prompt(state)[-1] == ("user", state.spec.prompts.forced_answer())


# 3.9.7 --------------------------------------------------------------------------------


@compats
@pytest.mark.parametrize(
    "text", ["a </task> b", "a <task>x</task> b", "</task> <task>"]
)
def test_a_difficulty_turn_with_a_task_is_kept_whole(compat, text):
    state, _ = cut("difficulty", "search_r1", text, compat=compat)
    nudge = ("user", state.spec.prompts.forced_answer())
    assert after_prompt(state) == [("assistant", text), nudge]
    state, _ = cut("solver", "search_r1", "a </task> b", compat=compat)
    assert after_prompt(state)[0][1] == "a </task>"


def test_a_malformed_search_behind_a_task_is_still_one():
    state, _ = cut("difficulty", "search_r1", "a </task> <search>q")
    assert after_prompt(state)[-1] == ("user", state.spec.prompts.invalid_action())


# 3.9.8 --------------------------------------------------------------------------------


@formats
@pytest.mark.quirk(31)
def test_an_empty_block_of_the_template_scores_as_a_solver_s_thinking(tool_format):
    """Two turns without thinking, a right search and answer: F = 1 for qwen3."""
    said = [call(tool_format), ANSWER]
    reward, _ = solver_reward(tool_format, said)
    qwen3 = tool_format == "tool_call"  # the scripted world's template for it
    assert reward.parts["think"] == qwen3
    assert reward.parts["format"] == pytest.approx(1 if qwen3 else 2 / 3)
    # a Challenger's thinking is looked for in what it wrote
    reward, _ = challenger_reward(tool_format, [call(tool_format), TASK])
    assert reward.parts["think"] == 0


@pytest.mark.parametrize(
    ("template", "writes"),
    [(None, False), ("olmo3_consistent_eos", False), ("qwen3_strip_thinking", True)],
)
@pytest.mark.quirk(31)
def test_which_templates_write_thinking(template, writes):
    renderer = ChatRenderer.from_tokenizer(byte_tokenizer(), template=template)
    assert writes_thinking(renderer) is writes


# 3.9.9 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"), [("qwen25_7b", 2), ("qwen3_8b", 1), ("olmo3_7b", 2)]
)
@pytest.mark.quirk(20)
def test_the_rows_of_a_micro_batch_follow_the_family(name, count):
    config = configs.load(name)
    for stage in (config.challenger_train, config.solver_train):
        assert trainer.loss_of(config, stage).group_rows == count
