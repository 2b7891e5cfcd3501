"""Rollouts worked out by hand, ``tests/data/rollouts_by_hand.toml``."""

import json
import tomllib
from pathlib import Path

import pytest

from scope_jax.method import conversation as c
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.types import TOOL_FORMATS
from tests.scope_jax.method.test_whole_rollouts import spec_of

FILE = Path(__file__).parents[2] / "data" / "rollouts_by_hand.toml"
CASES = [
    pytest.param(name, case, id=f"{name} {case['kind']} {case['why'][:30]}")
    for name, cases in tomllib.loads(FILE.read_text(encoding="utf-8")).items()
    for case in cases
]


def user(text):
    return {"role": "user", "content": text}


def told(spec, line):
    """A user turn by its name."""
    name, _, left = line.partition(" ")
    if name == "invalid":
        return spec.prompts.invalid_action()
    if name == "forced":
        return spec.prompts.forced_answer()
    file = {"after": "after_search", "none": "no_result"}.get(name, name)
    if name == "final" and spec.style == "chain2_xml":
        file = "final_xml"
    return spec.prompts.guidance(
        file, remaining=int(left or 0), target=spec.num_searches
    )


def call(line):
    """A message with calls, from their queries as JSON or as bare words."""
    line, _, content = line.partition(" | ")
    calls = []
    for words in line.split(" C "):
        items = [json.loads(w) if w[0] in '"{1' else w for w in words.split(", ")]
        calls.append({"name": "search", "arguments": {"query_list": items}})
    return {"role": "assistant", "content": content, "tool_calls": calls}


def written_out(spec, said, lines):
    """The messages that ``lines`` stand for."""
    said, messages = [text.removeprefix("~") for text in said], []
    for line in lines:
        if line == "=" or line[0] == "+":
            content = said.pop(0) + line[1:]
            messages.append({"role": "assistant", "content": content})
        elif line.startswith("A "):
            said.pop(0)
            messages.append({"role": "assistant", "content": line[2:]})
        elif line.startswith("C "):
            said.pop(0)
            messages.append(call(line[2:]))
        elif line.startswith("R "):
            found, _, then = line[2:].partition("; ")
            text = "\n---\n".join(f"passage {query}" for query in found.split(" & "))
            guidance = [told(spec, then)] if then else []
            if spec.tool_format == "tool_call":
                content = json.dumps({"result": text})
                messages += [{"role": "tool", "content": content}]
                messages += map(user, guidance)
            else:
                block = f"<information>{text}</information>"
                messages.append(user("\n\n".join([block, *guidance])))
        else:
            messages.append(user(told(spec, line)))
    assert not said
    return messages


def test_every_format_has_its_cases():
    names = [param.values[0] for param in CASES]
    assert {name: names.count(name) for name in TOOL_FORMATS} == dict.fromkeys(
        TOOL_FORMATS, 30
    )


@pytest.mark.parametrize("compat", [OFF, Compat.released()], ids=["ours", "released"])
@pytest.mark.parametrize(("tool_format", "case"), CASES)
def test_rollouts_worked_out_by_hand(tool_format, case, compat):
    spec = spec_of(case["kind"], tool_format, case.get("n"), compat)
    *lines, end = case["ours"] if compat == OFF else case.get("released", case["ours"])
    prompt = user("prompt")
    state, action = c.start(spec, [prompt])
    for text in case["said"]:
        assert isinstance(action, c.Generate)
        reason = "length" if text.startswith("~") else "stop"
        state, action = c.step(state, text.removeprefix("~"), reason)
        if isinstance(action, c.Search):
            results = [f"passage {query}" for query in action.queries]
            state, action = c.observe(state, results)
    expected = written_out(spec, case["said"], lines)
    assert list(state.messages) == [prompt, *expected]
    assert isinstance(action, c.Finish) == (end == "end")
