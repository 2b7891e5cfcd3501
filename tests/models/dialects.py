"""What each family's template writes, in plain Python: a second opinion on Jinja."""

import json
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
Writer = Callable[..., str]

QWEN_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n{}\n</tools>\n\nFor each function call, return a json object with "
    "function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n'
    "</tool_call>"
)


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def qwen_schemas(tools: list[dict]) -> str:
    return QWEN_TOOLS.format("\n".join(map(dumps, tools)))


def qwen_calls(message: Message) -> list[str]:
    return [
        f'<tool_call>\n{{"name": "{call["name"]}", "arguments": '
        f"{dumps(call['arguments'])}}}\n</tool_call>"
        for call in message.get("tool_calls", ())
    ]


def qwen_results(messages: list[Message], at: int) -> str:
    """A tool message; neighbouring ones share one user turn."""
    text = f"\n<tool_response>\n{messages[at]['content']}\n</tool_response>"
    if at == 0 or messages[at - 1]["role"] != "tool":
        text = "<|im_start|>user" + text
    if at + 1 == len(messages) or messages[at + 1]["role"] != "tool":
        text += "<|im_end|>\n"
    return text


def qwen25(messages: list[Message], tools: list[dict] | None) -> str:
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    out = [turn("system", system + ("\n\n" + qwen_schemas(tools) if tools else ""))]
    for i, message in enumerate(messages):
        calls = qwen_calls(message)
        if message["role"] == "tool":
            out.append(qwen_results(messages, i))
        elif calls:
            text = [message["content"]] if message["content"] else []
            out.append(turn("assistant", "\n".join(text + calls)))
        else:
            out.append(turn(message["role"], message["content"]))
    return "".join(out)


def qwen3(
    messages: list[Message],
    tools: list[dict] | None,
    *,
    tools_are_queries: bool = False,
) -> str:
    """Stock Qwen3; with ``tools_are_queries`` as changed (spec 3.6)."""

    def is_query(message: Message) -> bool:
        if message["role"] == "tool":
            return tools_are_queries
        text = message["content"]
        wrapped = text.startswith("<tool_response>") and text.endswith(
            "</tool_response>"
        )
        return message["role"] == "user" and not wrapped

    queries = [i for i, message in enumerate(messages) if is_query(message)]
    last_query = max(queries, default=len(messages) - 1)
    out = []
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    if tools:
        given = "" if system is None else system + "\n\n"
        out.append(turn("system", given + qwen_schemas(tools)))
    elif system is not None:
        out.append(turn("system", system))
    for i, message in enumerate(messages):
        role, text = message["role"], message["content"]
        if role == "tool":
            out.append(qwen_results(messages, i))
        elif role == "assistant":
            thought = ""
            if "</think>" in text:
                thought = text.split("</think>")[0].rstrip("\n")
                thought = thought.split("<think>")[-1].lstrip("\n")
                text = text.split("</think>")[-1].lstrip("\n")
            shown, calls = text, qwen_calls(message)
            if i > last_query and (i == len(messages) - 1 or thought):
                shown = f"<think>\n{thought.strip(chr(10))}\n</think>\n\n"
                shown += text.lstrip("\n")
            glue = "\n" if text and calls else ""
            out.append(turn("assistant", shown + glue + "\n".join(calls)))
        elif not (role == "system" and i == 0):
            out.append(turn(role, text))
    return "".join(out)


def qwen3_strip(messages: list[Message], tools: list[dict] | None) -> str:
    return qwen3(messages, tools, tools_are_queries=True)


def olmo3(messages: list[Message], tools: list[dict] | None) -> str:
    offered = (
        "These functions can be called; write calls between <function_calls> and "
        f"</function_calls>. <functions>{dumps(tools)}</functions>"
        if tools
        else "No functions are available. <functions></functions>"
    )
    out = []
    if messages[0]["role"] != "system":
        greeting = "You are Olmo, a helpful function-calling assistant. "
        out.append(turn("system", greeting + offered))
    for i, message in enumerate(messages):
        role, text = message["role"], message["content"]
        if i == 0 and role == "system" and tools:
            text += " " + offered
        if message.get("tool_calls"):
            calls = [
                f"{call['name']}("
                + ", ".join(f"{k}={dumps(v)}" for k, v in call["arguments"].items())
                + ")"
                for call in message["tool_calls"]
            ]
            text += f"<function_calls>{chr(10).join(calls)}</function_calls>"
        out.append(turn("environment" if role == "tool" else role, text))
    return "".join(out)


def smollm2(messages: list[Message], tools: list[dict] | None) -> str:
    del tools  # its template doesn't know any
    out = []
    if messages[0]["role"] != "system":
        name = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        out.append(turn("system", name))
    return "".join(out + [turn(m["role"], m["content"]) for m in messages])


def _schemas(given: str, tools: list[dict], rule: str) -> str:
    lines = [*map(dumps, tools), rule]
    start = given + "\n\n" if given else ""
    return start + "Functions, one JSON schema a line:\n" + "\n".join(lines)


def chatml(messages: list[Message], tools: list[dict] | None) -> str:
    given = messages[0]["content"] if messages[0]["role"] == "system" else None
    out = []
    if tools:
        rule = 'A call is {"name": ..., "arguments": {...}} in <tool_call></tool_call>.'
        out.append(turn("system", _schemas(given or "", tools, rule)))
    elif given is not None:
        out.append(turn("system", given))
    for message in messages[given is not None :]:
        text = [message["content"]] if message["content"] else []
        text += [
            f"<tool_call>{dumps(call)}</tool_call>"
            for call in message.get("tool_calls", ())
        ]
        out.append(turn(message["role"], "\n".join(text)))
    return "".join(out)


def llama3(messages: list[Message], tools: list[dict] | None) -> str:
    def said(role: str, text: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"

    given = messages[0]["content"].strip() if messages[0]["role"] == "system" else None
    out = ["<|begin_of_text|>"]
    if tools:
        rule = 'A call is a turn that is {"name": ..., "parameters": {...}}.'
        out.append(said("system", _schemas(given or "", tools, rule)))
    elif given is not None:
        out.append(said("system", given))
    for message in messages[given is not None :]:
        text = [message["content"].strip()] if message["content"].strip() else []
        text += [
            dumps({"name": call["name"], "parameters": call["arguments"]})
            for call in message.get("tool_calls", ())
        ]
        role = "ipython" if message["role"] == "tool" else message["role"]
        out.append(said(role, "\n".join(text)))
    return "".join(out)


def _said_and_called(text: str, message: Message) -> str:
    calls = [
        f"<tool_call>{dumps(call)}</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    return "\n".join([text] * bool(text) + calls)


def gemma3(messages: list[Message], tools: list[dict] | None) -> str:
    head = ""
    if messages[0]["role"] == "system":
        head, messages = messages[0]["content"] + "\n\n", messages[1:]
    if tools:
        rule = 'A call is {"name": ..., "arguments": {...}} in <tool_call></tool_call>.'
        head += _schemas("", tools, rule) + "\n\n"
    out = ["<bos>"]
    for i, message in enumerate(messages):
        role = "model" if message["role"] == "assistant" else "user"
        text = _said_and_called(message["content"].strip(), message)
        out.append(f"<start_of_turn>{role}\n{'' if i else head}{text}<end_of_turn>\n")
    return "".join(out)


SMOLLM3_HEAD = (
    "## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 26 July 2024\n"
    "Reasoning Mode: {}\n\n## Custom Instructions\n\n{}\n\n"
)
SMOLLM3_TOOLS = (
    "### Tools\n\nFunctions, one JSON schema a line:\n<tools>\n{}\n</tools>\n"
    'A call is {{"name": ..., "arguments": {{...}}}} in <tool_call></tool_call>.\n\n'
)


def smollm3(messages: list[Message], tools: list[dict] | None) -> str:
    given = ""
    if messages[0]["role"] == "system":
        given, messages = messages[0]["content"], messages[1:]
    mode = "/no_think" if "/no_think" in given else "/think"
    said = given.replace("/no_think", "").replace("/think", "").rstrip()
    if "/system_override" in given:
        head = said.replace("/system_override", "").rstrip()
    else:
        name = "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
        head = SMOLLM3_HEAD.format(mode, said or name)
        head += SMOLLM3_TOOLS.format("\n".join(map(dumps, tools))) if tools else ""
    out = [turn("system", head)]
    if not tools and "/system_override" not in given:  # nothing ends it, as published
        out = [f"<|im_start|>system\n{head}"]
    for message in messages:
        text = message["content"]
        if message["role"] == "assistant":
            text = _said_and_called(text.lstrip("\n"), message)
            empty = "<think>\n\n</think>\n" if mode == "/no_think" else ""
            out.append(turn("assistant", empty + text))
        else:
            out.append(turn("user", text))
    return "".join(out)


def mistral(messages: list[Message], tools: list[dict] | None) -> str:
    out = ["<s>"]
    if messages[0]["role"] == "system":
        out.append(f"[SYSTEM_PROMPT]{messages[0]['content']}[/SYSTEM_PROMPT]")
        messages = messages[1:]
    if tools:
        out.append(f"[AVAILABLE_TOOLS]{dumps(tools)}[/AVAILABLE_TOOLS]")
    for message in messages:
        text = message["content"]
        if message["role"] == "assistant":
            calls = [
                f"[TOOL_CALLS]{call['name']}[ARGS]{dumps(call['arguments'])}"
                for call in message.get("tool_calls", ())
            ]
            out.append("".join([text, *calls, "</s>"]))
        else:
            tag = "TOOL_RESULTS" if message["role"] == "tool" else "INST"
            out.append(f"[{tag}]{text}[/{tag}]")
    return "".join(out)
