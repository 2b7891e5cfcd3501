"""Format scores and training rows of a rollout as the specification tells them.

Sections 9.1, 10 and 12.4 with 3.9.4 and 3.9.8; nothing of the program is imported.
"""

import itertools
import json
import re

import oracles

from tests.scope_jax.method import rollout_oracle

S = re.DOTALL


def spoken(message):
    """What a message says, with structured calls written out."""
    parts = [message["content"]]
    for call in message.get("tool_calls", ()):
        value = {"name": call["name"], "arguments": call["arguments"]}
        parts.append(f"<tool_call>\n{json.dumps(value)}\n</tool_call>")
    return "\n".join(part for part in parts if part)


def searched(text, tool_format):
    """Whether a turn's first call is a valid search; any list counts (3.9.4)."""
    if tool_format == "tool_call":
        calls = rollout_oracle.json_calls(text)[:1]
        return any(
            name == "search" and rollout_oracle.queries(arguments, "score") is not None
            for name, arguments, _ in calls
        )
    pattern = rollout_oracle.XML
    if tool_format == "search_r1":
        pattern = r"<search>(.*?)</search>"
    first = re.search(pattern, text, S)
    return bool(first and first[1].strip())


def challenger(messages, n, tool_format, released):
    """9.1: think, tool and structure of a conversation, its prompt first."""
    said = [spoken(m) for m in messages if m["role"] == "assistant"]
    if not said:
        return (0, 0, 0)
    good = [searched(text, tool_format) for text in said]
    if tool_format == "search_r1":
        bad = sum("<search>" in t and not g for t, g in zip(said, good, strict=True))
        count = max(sum(good) - bad, 0)
    elif tool_format == "tool_call" and released:
        users, before = [], None  # user turns; results that follow each other are one
        for message in messages:
            if message["role"] == "user" or (message["role"] == "tool" != before):
                users.append(message["role"] == "tool")
            before = message["role"]
        count = sum(g and u for g, u in zip(good[:n], users[1:], strict=False))
    else:
        shows = "tool" if tool_format == "tool_call" else "user"
        count = 0
        for one, following in itertools.pairwise(messages):
            if one["role"] == "assistant" and following["role"] == shows:
                result = shows == "tool" or "<information>" in following["content"]
                count += result and searched(spoken(one), tool_format)
    tasks = re.findall(r"<task>(.*?)</task>", said[-1], S)
    think = sum("<think>" in text for text in said) / len(said)
    return (think, min(count / n, 1), float(bool(tasks and tasks[-1].strip())))


def solver(messages, tool_format, writes_thinking):
    """10: think, tool and answer, and the number of search calls."""
    said = [spoken(m) for m in messages if m["role"] == "assistant"]
    if not said:
        return (0, 0, 0, 0)
    calls = [len(rollout_oracle.searches(t, tool_format, "score")) for t in said]
    thinks = [bool(re.match(r"\s*<think>.*?</think>", t, S)) for t in said]
    think = 1 if writes_thinking else sum(thinks) / len(said)
    tool = min(sum(calls[:-1]) / (len(said) - 1), 1) if len(said) > 1 else 0
    answer, _ = oracles.answer([(m["role"], spoken(m)) for m in messages])
    return (think, tool, float(bool(answer)), sum(calls))


def written(message, rewrites):
    """A turn as it is trained on; ``rewrites``: with the template of 3.6 for qwen3."""
    content = message["content"]
    if rewrites:
        thought = ""
        if "</think>" in content:
            before = content.split("</think>")[0].rstrip("\n")
            thought = before.split("<think>")[-1].lstrip("\n").strip("\n")
            content = content.split("</think>")[-1].lstrip("\n")
        content = content.lstrip("\n")
        calls = [
            f'<tool_call>\n{{"name": "{c["name"]}", "arguments": '
            f"{json.dumps(c['arguments'])}}}\n</tool_call>"
            for c in message.get("tool_calls", ())
        ]
        content = "\n".join(part for part in (content, *calls) if part)
        content = f"<think>\n{thought}\n</think>\n\n{content}"
    return f"{content}<|im_end|>\n"
