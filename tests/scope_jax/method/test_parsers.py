"""Parsers find what the specification's expressions find, and in linear time."""

import itertools
import re
import time

import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scope_jax.method import (
    challenger_output,
    formats,
    judge,
    solver_output,
    stop_tags,
)
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.prompts import templates
from scope_jax.method.search_errors import search_error
from scope_jax.method.types import TOOL_FORMATS

RELEASED = Compat.released()
PLAIN = (" ", "\n", "a", "b c", "é", "\ud800", "\x1c", "\0", "<", ">", "/", "'", '"')
THINK = ("<think>", "</think>")
TASK = ("<task>", "</task>", "<answer>", "</answer>", "<task>t</task>")
ANSWER = (
    *("<answer>", "</answer>", "<answer>x</answer>", "user\n", "assistant\n"),
    *("\nuser\n", "\nassistant\n", "<|im_start|>user\n", "<|im_end|>"),
    *("\\boxed{", "}", "\\boxed{1}", "<function_calls>", "answer", "answer(", "="),
    *('<function_calls>answer(answer="z")', "')", '" )'),
)
SUBMIT = (
    *("<tool_call>", "</tool_call>", '{"name": "submit_answer"', "}"),
    *('<tool_call>{"name": "submit_task", "arguments": {"task_prompt": " P "}}',),
    *('<tool_call>{"name":"submit_answer","arguments":{"answer":"Z"}}</tool_call>',),
    *('<tool_call>{"name":"submit_answer","arguments":{"answer":" "}}</tool_call>',),
)
RUBRICS = (
    *("<rubrics>", "</rubrics>", "<rubric>", "<rubric", "</rubric>", "<rubrics>"),
    *(' priority="bonus"', " priority=x", ' xpriority="no"', "<rubric>r</rubric>"),
    *("<rubric>r</rubric><rubric priority='critical'>s</rubric>",) * 2,
)
SCORES = (
    *("<score>", "</score>", "<scores>", "</scores>", "0", "1", ".5", ".", ",", "2"),
    *("<score>1</score>", "<score> 0.5\n</score>", "<score>0</score>", "١", "²", "-"),
)
CALLS = (
    *("<search>", "</search>", "<search>q</search>", "<tool_call>", "</tool_call>"),
    *('{"name": "search", "arguments": ', '{"query_list": [', '"q"', ",", "]", "}}"),
    *('<tool_call>{"name": "search", "arguments": {"query_list": ["a"]}}</tool_call>',),
    *('<tool_call>{"name": "search", "arguments": {"query_list": []}}</tool_call>',),
    *("<tool_call>search(query_list=['a', \"b\"])</tool_call>", "\\ud800"),
    *("<tool_call>search(query_list=[", "])</tool_call>", "null", "1", '{"query":'),
)
XML = (
    *("<function_calls>", "</function_calls>", "search", "(", "query", "=", ")", "')"),
    *('<function_calls>search(query="', "<function_calls> search ( query = '", '" )'),
)


def texts(*pieces):
    """Texts of up to 24 pieces; a byte a piece is what hypothesis draws fastest."""
    every = (*itertools.chain(*pieces), *PLAIN)
    return st.binary(max_size=24).map(
        lambda drawn: "".join(every[byte % len(every)] for byte in drawn)
    )


def holds(strategy, check, *, least):
    """Runs ``check`` on 2,000 texts; at least a share ``least`` must be no trivial one.

    ``check`` says whether the parser found something.
    """
    found = []

    @settings(max_examples=2000, deadline=None, derandomize=True, database=None)
    @given(strategy)
    def run(text):
        found.append(bool(check(text)))

    run()
    assert len(found) >= 2000
    assert sum(found) >= least * len(found), sum(found) / len(found)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_tasks_are_those_of_the_expressions(tool_format):
    def check(text):
        parse = challenger_output.parse_task(text, tool_format)
        found = (parse.task, parse.reference_answer, parse.errors)
        assert found == oracles.task(text, tool_format)
        assert parse.valid == bool(parse.task)
        return parse.valid

    holds(texts(TASK, THINK, SUBMIT), check, least=0.1)


def test_answers_of_raw_text_are_those_of_the_expressions():
    def check(text):
        parse = solver_output.parse_answer(oracles.messages(text))
        assert (parse.answer, parse.errors) == oracles.answer(oracles.segments(text))
        assert parse.valid == bool(parse.answer)
        return parse.valid

    holds(texts(ANSWER, SUBMIT), check, least=0.1)


def test_answers_of_messages_are_those_of_the_expressions():
    def check(text):
        roles = ("assistant", "user", "assistant", "tool", "assistant")
        parts = list(zip(roles, text.split("b c"), strict=False))
        messages = [{"role": role, "content": part} for role, part in parts]
        parse = solver_output.parse_answer(messages)
        assert (parse.answer, parse.errors) == oracles.answer(parts)
        return parse.valid

    holds(texts(ANSWER, SUBMIT, ["b c"] * 5), check, least=0.1)


def test_rubrics_are_those_of_the_expressions():
    def check(text):
        parse = judge.parse_rubrics(text, compat=RELEASED)
        found = tuple((rubric.text, rubric.priority) for rubric in parse.rubrics)
        expected, valid = oracles.rubrics(text)
        assert (found, parse.valid) == (expected[:11], valid)
        verdict, ours = oracles.verdict(text), judge.parse_rubrics(text)
        if verdict is None:
            assert ours.errors == ("unclosed thinking block",)
        else:
            assert ours == judge.parse_rubrics(verdict, compat=RELEASED)
        return parse.rubrics

    blocks = ("<rubrics><rubric>r</rubric>", "</rubric></rubrics>")
    holds(texts(RUBRICS, THINK, blocks), check, least=0.05)


def test_a_valid_block_of_rubrics_is_found_among_anything():
    good = "<rubrics>" + "<rubric>Identifies A.</rubric>" * 3 + "</rubrics>"

    def check(text):
        parse = judge.parse_rubrics(f"<think>{text}</think>{good}")
        assert (parse.valid, len(parse.rubrics)) == (True, 3)
        inside = judge.parse_rubrics(good.replace("A.", text), compat=RELEASED)
        expected = oracles.rubrics(good.replace("A.", text))
        found = tuple((rubric.text, rubric.priority) for rubric in inside.rubrics)
        assert (found, inside.valid) == (expected[0][:11], expected[1])
        return inside.valid

    holds(texts(RUBRICS, ["<think>", "A"]), check, least=0.1)


def test_grades_are_those_of_the_expressions():
    def check(text):
        grade = judge.parse_grade(text, compat=RELEASED)
        assert grade == oracles.grade(text)
        verdict = oracles.verdict(text)
        expected = None if verdict is None else oracles.grade(verdict)
        assert judge.parse_grade(text) == expected
        return grade is not None

    holds(texts(SCORES, SCORES, THINK), check, least=0.1)


def test_gates_are_those_of_the_expression():
    def check(text):
        gate = judge.parse_gate(text, compat=RELEASED)
        assert gate == oracles.gate(text)
        verdict = oracles.verdict(text)
        expected = None if verdict is None else oracles.gate(verdict)
        assert judge.parse_gate(text) == expected
        return gate is not None

    holds(texts(SCORES, THINK), check, least=0.1)


@pytest.mark.parametrize(
    ("tool_format", "pieces"),
    [("search_r1", CALLS), ("tool_call", CALLS), ("function_calls_xml", XML)],
)
def test_searches_are_those_of_the_expressions(tool_format, pieces):
    def check(text):
        found = formats.searches(text, tool_format)
        assert found == oracles.searches(text, tool_format)
        for place in ("difficulty", "task"):
            expected = oracles.searches(text, tool_format, place)
            assert formats.searches(text, tool_format, place) == expected
        first = formats.first_search(text, tool_format)
        assert (search_error(text, tool_format) is None) == (first is not None)
        return found

    whole = ("<function_calls>search(query='a')",) * 2
    holds(texts(pieces, THINK, whole), check, least=0.1)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_the_first_call_of_a_turn_is_that_of_the_expressions(tool_format):
    tag = {"search_r1": "search", "tool_call": "tool_call"}.get(tool_format)

    def check(text):
        if tag:
            block = re.search(rf"<{tag}>.*?</{tag}>", text, re.DOTALL)
            first = oracles.searches(block[0], tool_format) if block else []
        else:
            calls = oracles.function_calls(text, "search", "query")
            first = [(call.strip(),) for call in calls[:1] if call.strip()]
        assert formats.first_search(text, tool_format) == (first or [None])[0]
        cut = formats.cut_after_call(text, tool_format)
        closing = f"</{tag or 'function_calls'}>"
        whole = re.match(rf"(.*{closing}).*\Z", text, re.DOTALL)
        assert cut == (whole[1] if whole else text)
        return first

    holds(texts(CALLS, XML, XML, ["<search>q</search>"] * 2), check, least=0.05)


def test_thinking_is_that_of_the_expressions():
    def check(text):
        assert formats.strip_thinking(text) == oracles.without_thinking(text)
        opens = oracles.opens_with_thinking(text)
        assert formats.opens_with_thinking(text) == opens
        assert formats.after_thinking(text) == oracles.verdict(text)
        spoken = oracles.without_thinking(text)
        swallowed = "<answer>" in spoken and "</answer>" not in spoken
        closed = stop_tags.close_tags(text, "difficulty", "search_r1")
        assert closed == text + "</answer>" * swallowed
        return opens

    holds(texts(THINK * 3, TASK), check, least=0.05)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_format_scores_of_any_conversation_are_shares(tool_format):
    def check(text):
        roles = itertools.cycle(("assistant", "user"))
        parts = text.split("b c")
        messages = [
            {"role": role, "content": part}
            for role, part in zip(roles, parts, strict=False)
        ]
        turns = parts[::2]
        score = challenger_output.format_score(messages, 2, tool_format)
        assert score.think == sum("<think>" in turn for turn in turns) / len(turns)
        task, _, _ = oracles.task(turns[-1], tool_format)
        assert score.structure == bool(task)
        assert 0 <= score.tool <= 1
        strict = challenger_output.format_score(
            messages, 2, tool_format, strict_think=True
        )
        opened = [oracles.opens_with_thinking(turn) for turn in turns]
        assert strict.think == sum(opened) / len(turns)
        found = solver_output.format_score(messages, tool_format)
        answer, _ = oracles.answer(
            [(message["role"], message["content"]) for message in messages]
        )
        calls = [len(oracles.searches(turn, tool_format)) for turn in turns]
        assert (found.think, found.structure) == (strict.think, bool(answer))
        most = max(len(turns) - 1, 1)
        assert found.tool == min(sum(calls[:-1]) / most, 1)
        return score.structure or score.tool or found.structure

    pieces = ("b c",) * 4, ("<task>t</task>", "<answer>x</answer>") * 2
    holds(texts(CALLS, XML, THINK, TASK, *pieces), check, least=0.1)


def test_escaped_text_holds_no_guarded_tag_and_comes_back():
    tags = ("score", "think", "rubrics", "rubric", "response")

    def check(text):
        escaped = templates.neutralise(text, tags)
        assert not re.search(rf"<[\s/]*({'|'.join(tags)})(?!\w)", escaped, re.I | re.A)
        assert escaped.replace("&lt;", "<") == text
        return escaped != text

    holds(texts(RUBRICS, SCORES, THINK, ["< / response", "<SCORE"]), check, least=0.1)


# 1 MB of hostile text --------------------------------------------------------------

SIZE, LIMIT = 1_000_000, 0.5  # seconds, also where others use the machine

REPEATED = {
    "angles": "<",
    "slashes": "< / / / ",
    "spaces": " ",
    "newlines": "\n",
    "opened tags": "<task><answer><search><think><rubrics><score><tool_call>",
    "closing tags": "</task></answer></search></think></rubrics></score></tool_call>",
    "tasks opened": "<task>",
    "answers opened": "<answer>",
    "thinking opened": "<think>",
    "thinking closed": "<think></think>",
    "searches": "<search> </search>",
    "nested answers": "<answer><answer></answer>",
    "scores opened": "<score> ",
    "bad scores": "<score>.</score>",
    "digits": "1",
    "dots": "1.",
    "rubric openings": "<rubric <rubric ",
    "rubrics": "<rubric>r</rubric>",
    "priorities": "<rubric priority='",
    "calls opened": '<function_calls>search(query="',
    "answer calls opened": "<function_calls>answer(answer=' ",
    "calls and spaces": "<function_calls>" + " " * 50,
    "quotes": "\"'\" ' ",
    "tool calls": '<tool_call>{"name": [[[[[[',
    "short tool calls": "<tool_call>{</tool_call>",
    "written calls": "<tool_call>search(query_list=[[[",
    "nested lists": "<tool_call>" + "[" * 40,
    "boxes": "\\boxed{\\boxed{",
    "roles": "\nuser\nassistant\n",
    "raw turns": "<|im_start|>user\n",
    "closed raw turns": "<|im_start|>user\n<|im_end|>",
    "headings": "\n## ",
}
WRAPPED = {
    "spaces in a score": ("<score>", " ", "</score>"),
    "digits in a score": ("<score>", "1", "</score>"),
    "rubrics in a block": ("<rubrics>", "<rubric>r</rubric>", "</rubrics>"),
    "openings in a block": ("<rubrics>", "<rubric ", "</rubrics>"),
    "attributes": ("<rubrics><rubric ", "priority=", ">r</rubric></rubrics>"),
    "nested JSON": ("<tool_call>", "[", "</tool_call>"),
    "nested objects": ("<tool_call>", '{"a":', "</tool_call>"),
    "a long number": ('<tool_call>{"name": ', "1", "}</tool_call>"),
    "a long query": (
        '<tool_call>{"name": "search", "arguments": {"query_list": ["',
        "q",
        '"]}}</tool_call>',
    ),
    "many queries": (
        '<tool_call>{"name": "search", "arguments": {"query_list": ["a"',
        ', "b"',
        "]}}</tool_call>",
    ),
    "a written list": ("<tool_call>search(query_list=[", "'a',", "])</tool_call>"),
    "a long task": ("<task>", "t ", "</task>"),
}


def hostile(name):
    before, repeated, after = WRAPPED.get(name) or ("", REPEATED[name], "")
    return before + repeated * (SIZE // len(repeated) + 1) + after


PARSERS = {
    "task": lambda text: challenger_output.parse_task(text, "tool_call"),
    "answer": lambda text: solver_output.parse_answer(
        [{"role": "assistant", "content": text}]
    ),
    "answer and what follows": lambda text: solver_output.parse_answer(
        [{"role": "assistant", "content": text}, {"role": "user", "content": text}]
    ),
    "rubrics": judge.parse_rubrics,
    "rubrics, released": lambda text: judge.parse_rubrics(text, compat=RELEASED),
    "grade": judge.parse_grade,
    "grade, released": lambda text: judge.parse_grade(text, compat=RELEASED),
    "gate": judge.parse_gate,
    "gate, released": lambda text: judge.parse_gate(text, compat=RELEASED),
    **{
        f"searches, {name}": lambda text, name=name: formats.searches(
            text, name, "difficulty"
        )
        for name in TOOL_FORMATS
    },
    **{
        f"why no search, {name}": lambda text, name=name: search_error(text, name)
        for name in TOOL_FORMATS
    },
    "thinking stripped": formats.strip_thinking,
    "thinking first": formats.opens_with_thinking,
    "swallowed tag": lambda text: stop_tags.close_tags(
        text, "difficulty", "function_calls_xml"
    ),
    "escaping": lambda text: templates.neutralise(text, ("score", "response")),
}


@pytest.mark.parametrize("name", [*REPEATED, *WRAPPED])
def test_a_megabyte_of_hostile_text_takes_no_time(name):
    text, slow = hostile(name), {}
    for parser, parse in PARSERS.items():
        times = []
        # The best of several, in time of this process: the machine may be shared.
        while not times or (min(times) >= LIMIT and len(times) < 5):
            begin = time.process_time()
            parse(text)
            times.append(time.process_time() - begin)
        if min(times) >= LIMIT:
            slow[parser] = round(min(times), 3)
    assert slow == {}


def test_no_parser_reads_a_thinking_block_by_default():
    assert OFF.verdicts_in_thinking is False
