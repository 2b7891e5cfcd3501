"""Worked examples 77-92: what follows a scripted turn, in every kind and format."""

import json

import pytest

from rl.records import Completion
from scope_jax.method import conversation as c
from scope_jax.method import prompts
from scope_jax.method.compat import Compat

D = "passage"


def play(kind, tool_format, generations, n=None, *, truncate=None, **settings):
    """The last state, its action, and the queries that were run, in order."""
    loaded = prompts.load("default", tool_format)
    spec = c.ConversationSpec(
        kind=kind,
        tool_format=tool_format,
        prompts=loaded,
        num_searches=n,
        **settings,
    )
    state, action = c.start(spec, [{"role": "user", "content": "prompt"}])
    run, script = [], list(generations)
    while not isinstance(action, c.Finish):
        if isinstance(action, c.Search):
            run.append(action.queries)
            results = [f"{D} {query}" for query in action.queries]
            state, action = c.observe(state, results, truncate)
        elif script:
            state, action = c.step(state, script.pop(0))
        else:
            return state, action, run
    assert not script, "ended early"
    return state, action, run


def guidance(state, name, remaining=0):
    spec = state.spec
    return spec.prompts.guidance(name, remaining=remaining, target=spec.target)


def after_prompt(state):
    return [(m["role"], m["content"]) for m in state.messages[1:]]


def info(query, *more):
    return "\n\n".join([f"<information>{D} {query}</information>", *more])


def s(query):
    return f"<search>{query}</search>"


def t(*queries):
    value = {"name": "search", "arguments": {"query_list": list(queries)}}
    return f"<tool_call>\n{json.dumps(value)}\n</tool_call>"


def x(query):
    return f'<function_calls>search(query="{query}")</function_calls>'


TASK = "<task>T</task>"


@pytest.mark.example(77)
def test_77_a_guided_chain():
    state, action, run = play("challenger", "search_r1", [s("1"), s("2"), TASK], 2)
    assert after_prompt(state) == [
        ("assistant", s("1")),
        ("user", info("1", guidance(state, "after_search", 1))),
        ("assistant", s("2")),
        ("user", info("2", guidance(state, "final"))),
        ("assistant", TASK),
    ]
    assert action == c.Finish("done")
    assert run == [("1",), ("2",)]
    assert state.passages == (f"{D} 1", f"{D} 2")
    assert state.searches == 2


@pytest.mark.example(78)
def test_78_a_turn_without_action_counts_and_a_search_too_many_is_not_run():
    state, _, run = play("challenger", "search_r1", ["no tags", s("2"), s("3")], 2)
    assert after_prompt(state) == [
        ("assistant", "no tags"),
        ("user", guidance(state, "no_result", 1)),
        ("assistant", s("2")),
        ("user", info("2", guidance(state, "final"))),
        ("assistant", s("3")),
    ]
    assert run == [("2",)]


@pytest.mark.example(79)
def test_79_a_blank_search_is_none_and_the_task_is_cut():
    state, _, run = play(
        "challenger", "search_r1", ["<search> </search>", TASK + " tail"], 2
    )
    assert after_prompt(state)[1] == ("user", guidance(state, "no_result", 1))
    assert state.last_text == TASK
    assert run == []


@pytest.mark.example(80)
def test_80_five_searches_end_on_information():
    state, action, run = play("solver", "search_r1", [s("a") + " junk"] * 5)
    assert len(run) == 5
    assert after_prompt(state)[-1] == ("user", info("a"))
    assert after_prompt(state)[-2] == ("assistant", s("a"))
    assert action == c.Finish("turns")


@pytest.mark.example(81)
def test_81_an_open_search_is_an_invalid_action():
    state, _, _ = play(
        "solver", "search_r1", ["<search>abc", "<think>x</think><answer>y</answer> z"]
    )
    assert after_prompt(state) == [
        ("assistant", "<search>abc"),
        ("user", state.spec.prompts.invalid_action()),
        ("assistant", "<think>x</think><answer>y</answer>"),
    ]


@pytest.mark.example(82)
def test_82_plain_text_ends():
    state, action, _ = play("solver", "search_r1", ["just text"])
    assert len(state.messages) == 2
    assert action == c.Finish("done")


@pytest.mark.example(83)
def test_83_the_first_tag_wins_in_thinking_too():
    state, _, run = play(
        "solver",
        "search_r1",
        [
            "<think>I will <search>a</search></think> <answer>z</answer>",
            "<answer>w</answer>",
        ],
    )
    assert run == [("a",)]
    assert after_prompt(state)[0] == ("assistant", "<think>I will <search>a</search>")
    assert state.last_text == "<answer>w</answer>"


@pytest.mark.example(84)
def test_84_validation_forces_an_answer():
    state, action, run = play(
        "solver_eval", "search_r1", [s("a")] * 5 + ["still no", "<answer>ok</answer>"]
    )
    nudge = ("user", state.spec.prompts.forced_answer())
    assert len(run) == 4
    assert after_prompt(state)[8:] == [
        ("assistant", s("a")),
        nudge,
        ("assistant", "still no"),
        nudge,
        ("assistant", "<answer>ok</answer>"),
    ]
    assert action == c.Finish("done")


@pytest.mark.example(85)
def test_85_json_calls_run_up_to_the_turn_limit():
    state, action, run = play("challenger", "tool_call", [t("a")] * 5, 2)
    assert len(run) == 4
    users = [content for role, content in after_prompt(state) if role == "user"]
    assert (
        users == [guidance(state, "after_search", 1)] + [guidance(state, "final")] * 3
    )
    assert [role for role, _ in after_prompt(state)][:3] == [
        "assistant",
        "tool",
        "user",
    ]
    assert action == c.Finish("turns")
    assert state.messages[-1]["tool_calls"]


@pytest.mark.example(86)
def test_86_bad_json_is_an_invalid_action():
    state, _, run = play(
        "challenger", "tool_call", ["<tool_call>{</tool_call>", "text only", TASK], 2
    )
    assert after_prompt(state) == [
        ("assistant", "<tool_call>{</tool_call>"),
        ("user", state.spec.prompts.invalid_action()),
        ("assistant", "text only"),
        ("user", guidance(state, "final")),
        ("assistant", TASK),
    ]
    assert run == []


@pytest.mark.example(87)
def test_87_another_function_is_no_search():
    state, _, run = play(
        "challenger",
        "function_calls_xml",
        [x("1"), '<function_calls>find("x")</function_calls>', TASK],
        2,
        style="chain2_xml",
    )
    assert after_prompt(state) == [
        ("assistant", x("1")),
        ("user", info("1", guidance(state, "after_search", 1))),
        ("assistant", '<function_calls>find("x")</function_calls>'),
        ("user", guidance(state, "final_xml")),
        ("assistant", TASK),
    ]
    assert run == [("1",)]


@pytest.mark.example(88)
@pytest.mark.quirk(34)
def test_88_a_search_wins_over_an_answer():
    _, action, run = play(
        "solver",
        "function_calls_xml",
        ["<answer>x</answer>" + x("q"), "<answer>y</answer>"],
    )
    assert run == [("q",)]
    assert action == c.Finish("done")


@pytest.mark.example(89)
def test_89_difficulty_forces_an_answer_after_five_searches():
    state, action, run = play(
        "difficulty", "search_r1", [s("a")] * 5 + ["no", "<answer>k</answer>"]
    )
    nudge = ("user", state.spec.prompts.forced_answer())
    assert len(run) == 5
    assert after_prompt(state)[9:] == [
        ("user", info("a")),
        nudge,
        ("assistant", "no"),
        nudge,
        ("assistant", "<answer>k</answer>"),
    ]
    assert action == c.Finish("done")


@pytest.mark.example(90)
def test_90_difficulty_gives_up_after_five_forced_answers():
    state, action, _ = play("difficulty", "search_r1", ["plain"] + ["no"] * 5)
    nudge = ("user", state.spec.prompts.forced_answer())
    said = [("assistant", "plain")] + [("assistant", "no")] * 5
    assert after_prompt(state) == [turn for text in said for turn in (text, nudge)]
    assert action == c.Finish("turns")


@pytest.mark.example(91)
def test_91_all_queries_of_a_turn_share_one_result():
    state, _, run = play(
        "difficulty", "tool_call", [t("a") + t("b") + " tail", "<answer>x</answer>"]
    )
    assert run == [("a", "b")]
    assert after_prompt(state)[:2] == [
        ("assistant", t("a") + t("b")),
        ("tool", json.dumps({"result": f"{D} a\n---\n{D} b"})),
    ]


@pytest.mark.example(92)
def test_92_a_stripped_stop_string_is_put_back():
    state, action, _ = play("difficulty", "search_r1", ["<think>t</think><answer>k"])
    assert state.last_text == "<think>t</think><answer>k</answer>"
    assert action == c.Finish("done")


def test_a_json_turn_becomes_structured_and_each_call_gets_its_result():
    turn = "<think>why</think>\nso " + t("a", "b") + t("c") + " tail"
    state, _, run = play("solver", "tool_call", [turn, "<answer>x</answer>"])
    assert run == [("a", "b", "c")]
    first = state.messages[1]
    assert first["content"] == "<think>why</think>\nso"
    assert [call["arguments"] for call in first["tool_calls"]] == [
        {"query_list": ["a", "b"]},
        {"query_list": ["c"]},
    ]
    results = [json.loads(m["content"])["result"] for m in state.messages[2:4]]
    assert results == [f"{D} a\n---\n{D} b", f"{D} c"]


@pytest.mark.parametrize(
    ("kind", "tool_format", "call"),
    [
        *((kind, "tool_call", t) for kind in ("solver", "challenger", "task")),
        *(("difficulty", name, call) for name, call in (("tool_call", t),)),
        ("difficulty", "function_calls_xml", lambda *queries: "".join(map(x, queries))),
    ],
)
def test_of_several_results_the_writer_of_rubrics_sees_those_that_are_passages(
    kind, tool_format, call
):
    """The conversation shows what went wrong, in whatever place of a call it is."""
    none, loaded = "Search error: no results", prompts.load("default", tool_format)
    spec = c.ConversationSpec(
        kind=kind, tool_format=tool_format, prompts=loaded, num_searches=1
    )
    for results, passages in (
        ([none, D], (D,)),
        ([D, none], (D,)),
        ([D, none, D], (f"{D}\n---\n{D}",)),
        ([none, none], ()),
        ([D, D], (f"{D}\n---\n{D}",)),
    ):
        state, _ = c.start(spec, [{"role": "user", "content": "prompt"}])
        state, action = c.step(state, call(*"abc"[: len(results)]))
        assert len(action.queries) == len(results)
        state, _ = c.observe(state, results)
        assert state.passages == passages
        content = state.messages[2]["content"]
        assert content.count(none) == results.count(none)
        assert content.count(D) == results.count(D)


def test_bad_arguments_are_told_without_a_search():
    bad = '<tool_call>{"name": "search", "arguments": {"query": "a"}}</tool_call>'
    state, action, run = play("solver", "tool_call", [bad])
    assert run == []
    assert "bad arguments" in state.messages[-1]["content"]
    assert isinstance(action, c.Generate)
    assert state.passages == ()


def test_calls_inside_thinking_are_not_seen_in_json_policy_turns():
    _, action, run = play(
        "solver", "tool_call", ["<think>" + t("a") + "</think><answer>x</answer>"]
    )
    assert run == []
    assert action == c.Finish("done")


@pytest.mark.parametrize(
    ("tool_format", "call"),
    [("search_r1", s), ("tool_call", t), ("function_calls_xml", x)],
)
def test_task_creation_searches_n_times_then_waits_for_the_task(tool_format, call):
    state, action, run = play("task", tool_format, [call("1"), "hm", TASK], 2)
    assert run == [("1",)]
    users = [content for role, content in after_prompt(state) if role == "user"]
    assert guidance(state, "after_search", 1) in users[0]
    assert users[1] == guidance(state, "final")
    assert action == c.Finish("done")
    # past N searches are not looked for, and without a task it is over
    _, action, run = play("task", tool_format, [call("1"), call("2")], 1)
    assert run == [("1",)]
    assert action == c.Finish("done")


def test_the_reference_leaves_json_calls_unguided_and_cuts_by_characters():
    released = Compat.released()
    state, action, _ = play("task", "tool_call", [t("1")], 2, compat=released)
    assert [role for role, _ in after_prompt(state)] == ["assistant", "tool"]
    assert action == c.Generate(())
    spec = state.spec
    start, _ = c.start(spec, state.messages[:1])
    _, search = c.step(start, t("1"))
    assert (search.limit, search.unit) == (500, "characters")


def test_results_are_cut_before_they_are_wrapped_except_in_the_reference():
    def cut(text):
        return text[:4]

    state, _, _ = play("solver", "tool_call", [t("a")], truncate=cut)
    assert json.loads(state.messages[-1]["content"]) == {"result": "pass"}
    state, _, _ = play(
        "solver", "tool_call", [t("a")], truncate=cut, compat=Compat.released()
    )
    assert state.messages[-1]["content"] == '{"re'


@pytest.mark.parametrize(
    ("tool_format", "call", "tag"),
    [("search_r1", s, "information"), ("tool_call", t, "tool_response")],
)
def test_a_passage_can_not_close_its_block(tool_format, call, tag):
    loaded = prompts.load("default", tool_format)
    spec = c.ConversationSpec(kind="solver", tool_format=tool_format, prompts=loaded)
    state, _ = c.start(spec, [])
    state, _ = c.step(state, call("a"))
    state, _ = c.observe(state, [f"x</{tag}> y"])
    inside = state.messages[-1]["content"].removesuffix("</information>")
    assert f"</{tag}>" not in inside


def test_a_turn_cut_by_length_is_read_and_a_failed_one_is_an_error():
    loaded = prompts.load("default", "search_r1")
    spec = c.ConversationSpec(kind="solver", tool_format="search_r1", prompts=loaded)
    state, _ = c.start(spec, [])

    def completion(reason):
        return Completion(ids=(), logprobs=(), text=s("a"), finish_reason=reason)

    assert isinstance(c.step(state, completion("length"))[1], c.Search)
    assert c.step(state, completion("error"))[1] == c.Finish("error")


@pytest.mark.quirk(42)
def test_the_episode_leaves_example_turns_out_and_the_trace_tells_each_turn():
    loaded = prompts.load("few_shot", "search_r1")
    spec = c.ConversationSpec(
        kind="challenger", tool_format="search_r1", prompts=loaded, num_searches=1
    )
    opening = loaded.challenger("d", "writing", 1)
    state, _ = c.start(spec, opening)
    state, _ = c.step(state, s("q"))
    assert len(state.played) == 2
    assert state.played[0] == opening[-1]
    assert state.turn_log == ({"turn": 1, "what": "search", "calls": [("q",)]},)
