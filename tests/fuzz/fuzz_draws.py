"""Texts and bytes that are drawn by seed, from pieces that parsers look for."""

import json
import random
from typing import Any

TAGS = [
    "think", "task", "answer", "search", "tool_call", "tool_response", "information",
    "function_calls", "rubrics", "rubric", "score", "scores",
]  # fmt: skip
PIECES = [
    *(f"<{tag}>" for tag in TAGS), *(f"</{tag}>" for tag in TAGS), "<", ">", "/", "'",
    '"', "\\", "{", "}", "[", "]", "(", ")", ":", ",", "=", ".", "0", "1", "0.5", "-1",
    " ", "\n", "\r", "\t", "\0", "\x1c", "\u2028", "\ufeff", "\ufdd0", "\u0661", "é",
    "\U0001f600", "a", "the river", "search", "answer", "query", "query_list", "nan",
    "search(query_list=[", '{"name": "search", "arguments": {"query_list": ["a"]}}',
    '{"name": "submit_task", "arguments": {"task_prompt": "P"}}', '{"name":', "null",
    '{"name": "submit_answer", "arguments": {"answer": "Z"}}', "true", "Infinity",
    "<tool_call>", "</tool_call>", "<tool_call>search(query_list=[", "])</tool_call>",
    '<function_calls>search(query="', '")</function_calls>', "\\boxed{", "\\ud800",
    "\\u0000", "<rubric priority='x'>r</rubric>", 3 * "<rubric>r</rubric>", "%s",
    "<score>1</score>", "<score>0.5</score>", "<|im_end|>", "user\n", "{question}",
    "1" * 5000, "None", "*", "maybe", "Search error", "b'", "1e999", "Yes.", "---",
]  # fmt: skip
LITERALS = [
    *"[]{}():,*-.#'b1",
    "'a'",
    '"b"',
    "b'c'",
    "{[]: 1}",
    "{[]}",
    "{'a': []}",
    "...",
]
JUNK = [
    None, True, 0, -1, 1.5, 2**70, "", "a", "\ud800", [], {}, [[]], {"a": [{}]}, "\0",
    "a\nb", "\u2028", "x" * 3000, "\U0001f600", "\ufdd0", "1",
]  # fmt: skip

BYTES = [
    b"[" * 3000, b'{"a":' * 500, b"\\ud800", b"\xed\xa0\x80", b"\xff", b"1" * 5000,
    b"NaN", b",", b"\n", b"\r", b"\0",
]  # fmt: skip


def texts(draw: random.Random) -> str:
    """A text of a model: pieces, some of them in tags, now and then very many."""
    kind = draw.random()
    if kind < 0.02:  # what takes quadratic time shows
        unit = "".join(draw.choices(PIECES[:-20], k=draw.randint(1, 3)))
        return (unit * 100_000)[: draw.randint(20_000, 100_000)]
    if kind < 0.04:
        return "".join(chr(draw.randrange(1, 0xD800)) for _ in range(200))
    return "".join(_part(draw) for _ in range(draw.randint(0, 10)))


def _part(draw: random.Random) -> str:
    kind, tag = draw.random(), draw.choice(TAGS)
    inside = "".join(draw.choices(PIECES, k=draw.randint(0, 5)))
    if kind < 0.4:
        return inside
    if kind < 0.8:
        return f"<{tag}>{inside}</{tag}>"
    if kind < 0.9:
        value: Any = draw.choice([*JUNK, inside, [inside], [{"query": inside}]])
        call = {"name": draw.choice(["search", "submit_task", 1]), "arguments": value}
        if draw.random() < 0.7:
            name = draw.choice(["query_list", "task_prompt", "answer"])
            call["arguments"] = {name: value}
        return f"<tool_call>{json.dumps(call)}</tool_call>"
    literal = "".join(draw.choices(LITERALS, k=draw.randint(0, 5)))
    return f"<tool_call>search(query_list=[{literal}])</tool_call>"


def broken(draw: random.Random, content: bytes) -> bytes:
    """Bytes with some of them replaced, added or taken away."""
    raw = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randint(0, len(raw))
        how = draw.randrange(5)
        if how == 0:
            del raw[at : at + draw.randint(1, 9)]
        elif how == 1:
            raw[at:at] = draw.randbytes(draw.randint(1, 4))
        elif how == 2:
            raw[at:at] = draw.choice(BYTES)
        elif how == 3 and at < len(raw):
            raw[at] ^= 1 << draw.randrange(8)
        else:
            del raw[at:]
    return bytes(raw)
