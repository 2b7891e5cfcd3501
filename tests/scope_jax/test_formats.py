"""The scanners find what the specification's expressions find, in linear time."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_jax import challenger, formats, judge, solver
from scope_jax.compat import Compat
from scope_jax.types import TOOL_FORMATS

PIECES = [
    "<search>",
    "</search>",
    "<task>",
    "</task>",
    "<think>",
    "</think>",
    "<function_calls>",
    "</function_calls>",
    "search(query=",
    "answer( answer = ",
    '"',
    "'",
    ")",
    "\n",
    " ",
    "a",
    "<rubrics>",
    "</rubrics>",
    "<rubric",
    "</rubric>",
    ">",
    ' priority="critical"',
    "<score>",
    "</score>",
    "0",
    "1",
    ".5",
    "\\boxed{",
    "}",
    "<answer>",
    "</answer>",
    "user\n",
    "assistant\n",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_pairs_are_those_of_the_expression(text):
    for tag in ("search", "task", "rubrics"):
        expected = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert [span.content for span in formats.pairs(text, tag)] == expected
        last = formats.last_pair(text, tag)
        assert (last.content if last else None) == (expected or [None])[-1]


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_function_calls_are_those_of_the_expression(text):
    for name, parameter in (("search", "query"), ("answer", "answer")):
        expected = re.findall(
            rf"<function_calls>\s*{name}\s*\(\s*{parameter}\s*=\s*[\"'](.+?)[\"']\s*\)",
            text,
            re.DOTALL,
        )
        spans = formats.function_calls(text, name, parameter)
        assert [span.content for span in spans] == expected


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_thinking_is_stripped_as_by_the_expressions(text):
    closed = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    expected = re.sub(r"<think>.*\Z", "", closed, flags=re.DOTALL)
    assert formats.strip_thinking(text) == expected
    strict = re.match(r"^\s*<think>(.*?)</think>", text, re.DOTALL)
    assert formats.opens_with_thinking(text) == bool(strict)


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_judge_parsers_are_those_of_the_expressions(text):
    released = Compat.released()
    block = re.search(r"<rubrics>(.*?)</rubrics>", text, re.DOTALL)
    expected = (
        re.findall(r"<rubric\b([^>]*)>(.*?)</rubric>", block[1], re.DOTALL)
        if block
        else []
    )
    found = judge.parse_rubrics(text, compat=released).rubrics
    assert [rubric.text for rubric in found] == [text.strip() for _, text in expected]
    gate = re.search(r"<score>\s*(0|1)\s*</score>", text)
    assert judge.parse_gate(text, compat=released) == (int(gate[1]) if gate else None)
    score = re.search(r"<score>\s*([\d.]+)\s*</score>", text)
    if score:
        try:
            value = float(score[1])
        except ValueError:
            value = None
        grade = judge.parse_grade(text, compat=released)
        assert grade == (value if value in (0, 0.5, 1) else None)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_parsers_take_any_text(tool_format, text):
    challenger.parse_task(text, tool_format)
    solver.parse_answer(text)
    formats.searches(text, tool_format, literal=True)


HOSTILE = {
    "opened tags": "<task><answer><search><think><rubrics><score>",
    "rubric openings": "<rubrics><rubric <rubric <rubric ",
    "spaces": "<score>" + " " * 50 + "<function_calls>" + " " * 50,
    "calls": '<function_calls>search(query="',
    "quotes": "\"'\" ' ",
    "tool calls": '<tool_call>{"name": [[[[[[',
    "nested lists": "<tool_call>" + "[" * 40,
    "closed pairs": "<think></think><search> </search><score>",
    "boxes": "\\boxed{\\boxed{",
    "roles": "\nuser\nassistant\n<|im_start|>user\n",
    "slashes": "< / / / ",
}


def seconds(job):
    begin = time.process_time()
    job()
    return time.process_time() - begin


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_of_200_kb_takes_linear_time(kind):
    text = (HOSTILE[kind] * (200_000 // len(HOSTILE[kind]) + 1))[:200_000]
    for job in (
        lambda: challenger.parse_task(text, "tool_call"),
        lambda: solver.parse_answer(text),
        lambda: judge.parse_rubrics("<rubrics>" + text + "</rubrics>"),
        lambda: judge.parse_grade(text, compat=Compat.released()),
        lambda: judge.parse_gate(text, compat=Compat.released()),
        lambda: [formats.searches(text, name, literal=True) for name in TOOL_FORMATS],
        lambda: formats.strip_thinking(text),
    ):
        # the best of three: another process may have taken the core
        assert min(seconds(job) for _ in range(3)) < 0.1


def test_deeply_nested_json_is_no_call():
    assert formats.tool_calls("<tool_call>" + "[" * 100_000 + "</tool_call>") == []


def call(**arguments):
    value = {"name": "search", "arguments": arguments}
    return f"<tool_call>\n{json.dumps(value)}\n</tool_call>"


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
    assert formats.searches(text, "tool_call", literal=True) == [("a", "b")]


def test_policy_rollouts_take_objects_as_queries():
    mixed = formats.Call(
        "search", {"query_list": [{"q": "a"}, "b", {"x": 1, "y": "c"}]}
    )
    assert formats.query_list(mixed) is None
    assert formats.query_list(mixed, coerce=True) == ("a", "b", "c")


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
