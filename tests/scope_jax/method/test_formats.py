"""Calls and thoughts in the three tool formats, case by case."""

import json

import pytest

from scope_jax.method import formats
from scope_jax.method.search_errors import search_error, search_errors


def test_deeply_nested_json_is_no_call():
    assert formats.tool_calls("<tool_call>" + "[" * 100_000 + "</tool_call>") == []


def call(**arguments):
    value = {"name": "search", "arguments": arguments}
    return f"<tool_call>\n{json.dumps(value)}\n</tool_call>"


def test_a_call_is_what_everything_behind_it_can_walk_through():
    """Python gives up at a thousand frames, and templates take two a level."""
    for depth, read in ((20, True), (30, True), (31, False), (900, False)):
        text = call(query_list=["q"])
        text = text.replace("[", '["q", ' + "[" * (depth - 1)).replace("]", "]" * depth)
        assert (formats.searches(text, "tool_call") == [("q",)]) is read, depth
        assert (search_error(text, "tool_call") == "malformed JSON") is not read


def test_searches_of_a_turn_in_each_format():
    assert formats.searches("<search> a </search><search> </search>", "search_r1") == [
        ("a",)
    ]
    text = call(query_list=["a", "b"]) + call(query_list=[]) + call(query="c")
    assert formats.searches(text, "tool_call") == [("a", "b")]
    text = "<function_calls> search( query = 'a b' )</function_calls>"
    assert formats.searches(text, "function_calls_xml") == [("a b",)]


def test_difficulty_rollouts_take_calls_written_as_text():
    text = "<tool_call>search(query_list=['a', \"b\"])</tool_call>"
    assert formats.searches(text, "tool_call") == []
    assert formats.searches(text, "tool_call", "difficulty") == [("a", "b")]


@pytest.mark.parametrize(
    ("items", "score", "policy", "task", "difficulty"),
    [
        (["a", "b"], ("a", "b"), ("a", "b"), ("a", "b"), ("a", "b")),
        ([1], (), None, None, None),
        ([{"query": "a"}], (), ("a",), ("a",), None),
        (["a", 1], ("a",), ("a",), ("a",), None),
        ([{"q": "a"}, "b"], ("b",), ("a", "b"), ("b",), None),
        ([{"x": 1, "y": "a"}], (), ("a",), None, None),
        ([{"query": 1, "text": "a"}], (), ("a",), None, None),
        ([{}, None, ["a"]], (), None, None, None),
        ("a", None, None, ("a",), None),
        (" ", None, None, None, None),
        ([], None, None, None, None),
        (None, None, None, None, None),
        ({"query": "a"}, None, None, None, None),
    ],
)
def test_what_a_query_list_may_be_depends_on_the_place(
    items, score, policy, task, difficulty
):
    """Spec 3.9.4; objects by key in policy rollouts: 2.5."""
    call = formats.Call("search", {"query_list": items})
    places = ("score", "policy", "task", "difficulty")
    found = [formats.query_list(call, place) for place in places]
    assert found == [score, policy, task, difficulty]
    for other in (call._replace(name="find"), call._replace(arguments=["a"])):
        assert not any(formats.query_list(other, place) for place in places)


def test_structured_calls_read_like_written_ones():
    arguments = {"query_list": ["a"]}
    plain = {"name": "search", "arguments": arguments}
    for structured in (plain, {"type": "function", "function": plain}):
        message = {"role": "assistant", "content": "", "tool_calls": [structured]}
        text = formats.message_text(message)
        assert formats.searches(text, "tool_call") == [("a",)]


def test_a_call_that_spells_half_a_character_is_no_call():
    arguments = '{"name": "search", "arguments": {"query_list": ["%s"]}}'
    call = f"<tool_call>{arguments}</tool_call>"
    assert formats.searches(call % r"\u00fc", "tool_call") == [("ü",)]
    assert formats.searches(call % r"\ud800", "tool_call") == []
    literal = '<tool_call>search(query_list=["a", "%s"])</tool_call>'
    for text, found in ((r"\u00fc", [("a", "ü")]), (r"\ud800", [])):
        assert formats.searches(literal % text, "tool_call", "difficulty") == found


@pytest.mark.parametrize(
    "literal",
    ["{[]: 1}", "{[]}", "{{}: 'a'}", "1()", "b'a'", "...", "'a' 'b", "*'a'", "-'a'"]
    + ["1" * 5000, "(" * 3000, "{'a', 1}", "f'{a}'", "lambda: 'a'", "'\\N{x}'", "\0"],
)
def test_a_literal_that_is_no_list_of_texts_is_no_search(literal):
    text = f"<tool_call>search(query_list=[{literal}])</tool_call>"
    assert formats.searches(text, "tool_call", "difficulty") == []


@pytest.mark.parametrize(
    ("tool_format", "text", "error"),
    [
        ("search_r1", "<search>q</search>", None),
        ("search_r1", "plain", "missing search tags"),
        ("search_r1", "<search>q", "unclosed search tag"),
        ("search_r1", "<search> </search><search>q</search>", "empty query"),
        ("tool_call", call(query_list=["q"]), None),
        ("tool_call", "plain", "missing search tags"),
        ("tool_call", "<tool_call>{}", "unclosed search tag"),
        ("tool_call", "<tool_call>{</tool_call>", "malformed JSON"),
        ("tool_call", "<tool_call>[1]</tool_call>", "call is no object"),
        ("tool_call", "<tool_call>{}</tool_call>", "missing name"),
        ("tool_call", '<tool_call>{"name": "find"}</tool_call>', "wrong name"),
        ("tool_call", '<tool_call>{"name": "search"}</tool_call>', "missing arguments"),
        (
            "tool_call",
            '<tool_call>{"name": "search", "arguments": 1}</tool_call>',
            "arguments are no object",
        ),
        ("tool_call", call(query="q"), "missing query_list"),
        ("tool_call", call(query_list="q"), "query_list is no list"),
        ("tool_call", call(query_list=[]), "empty query_list"),
        ("tool_call", call(query_list=[1]), None),
        (
            "function_calls_xml",
            '<function_calls>search(query="q")',
            None,
        ),
        ("function_calls_xml", "plain", "missing search tags"),
        ("function_calls_xml", "<function_calls>find()", "no valid search call"),
        ("function_calls_xml", '<function_calls>search(query=" ")', "empty query"),
    ],
)
def test_why_a_turn_did_not_search(tool_format, text, error):
    assert search_error(text, tool_format) == error


def test_the_last_turn_need_not_search():
    turns = ["<search>q</search>", "plain", "<answer>x</answer>"]
    assert search_errors(turns, "search_r1") == ["missing search tags"]
