"""The specification's parsers as it writes them: plain, and quadratic where they are.

Every function takes a text and gives what the parser of the same name must give, as
plain tuples. Numbers are sections of the specification.
"""

import ast
import json
import re

S = re.DOTALL


def pairs(text, tag):
    return re.findall(rf"<{tag}>(.*?)</{tag}>", text, S)


def calls(text):
    """JSON objects with a name, of closed ``<tool_call>`` blocks."""
    found = []
    for block in pairs(text, "tool_call"):
        try:
            value = json.loads(block)
            json.dumps(value, ensure_ascii=False).encode()
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            found.append((block, value["name"], value.get("arguments")))
    return found


def submitted(text, name, argument):
    """The first non-blank string argument of a call of ``name`` (4, 5)."""
    for _, called, arguments in calls(text):
        if called == name and isinstance(arguments, dict):
            value = arguments.get(argument)
            if isinstance(value, str) and value.strip():
                return value
    return None


def task(text, tool_format):
    """4: (task, reference answer, errors)."""
    answers, tasks = pairs(text, "answer"), pairs(text, "task")
    reference = answers[-1].strip() if answers else ""
    found = tasks[-1].strip() if tasks else ""
    if not found and tool_format == "tool_call":
        found = (submitted(text, "submit_task", "task_prompt") or "").strip()
    if found:
        return found, reference, ()
    if tasks:
        return "", reference, ("empty task",)
    error = "unclosed task" if "<task>" in text else "missing task tags"
    return "", reference, (error,)


def segments(text):
    """5.2: raw text as (role, segment)."""
    text = re.sub(r"<\|im_start\|>user\n.*?<\|im_end\|>", "", text, flags=S)
    parts = re.split(r"(?:\n|^)(user|assistant)\n", text)
    return [("assistant", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]


def messages(text):
    """Raw text as the messages that the program's parser takes."""
    return [{"role": role, "content": part} for role, part in segments(text)]


def answer(parts):
    """5.3 to 5.6: (answer, errors) of (role, text) segments."""
    found, spoken = None, [text for role, text in parts if role == "assistant"]
    for number, (role, text) in enumerate(parts, 1):
        if role != "assistant":
            continue
        closed = pairs(text, "answer")
        found = closed[-1] if closed else found
        rest = re.search(r"<answer>((?:(?!</answer>).)*)\Z", text, S)
        if number < len(parts) and rest:
            found = rest[1]
    if found is None:
        for text in spoken:
            found = submitted(text, "submit_answer", "answer")
            if found is not None:
                break
    if found is not None:
        return (found.strip(), ()) if found.strip() else ("", ("empty answer",))
    if any("<answer>" in text for text in spoken):
        return "", ("unclosed answer",)
    text = "\n".join(spoken)
    call = re.search(
        r"<function_calls>\s*answer\s*\(\s*answer\s*=\s*[\"'](.+?)[\"']\s*\)", text, S
    )
    if call and call[1].strip():
        return call[1].strip(), ()
    if "<function_calls>" in text and "answer(" in text:
        return "", ("malformed answer call",)
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return (boxes[-1].strip(), ()) if boxes else ("", ())


def verdict(text):
    """Design, rule 10: what stands behind thinking; None if a block is left open."""
    tail = re.split(r"</think>", text)[-1]
    return None if "<think>" in tail else tail


def rubrics(text):
    """6: (rubrics as (text, priority), valid)."""
    block = re.search(r"<rubrics>(.*?)</rubrics>", text, S)
    if not block:
        return (), False
    found = []
    for attributes, inside in re.findall(
        r"<rubric\b([^>]*)>(.*?)</rubric>", block[1], S
    ):
        priority = re.search(r"\bpriority=[\"']?([^\"'>\s]+)[\"']?", attributes)
        found.append((inside.strip(), priority[1] if priority else None))
    valid = 3 <= len(found) <= 10 and all(text for text, _ in found)
    return tuple(found), valid


def grade(text):
    """7: a grade or None."""
    score = re.search(r"<score>\s*([\d.]+)\s*</score>", text)
    block = re.search(r"<scores>(.*?)</scores>", text, S)
    if score:
        number = score[1]
    elif block:
        number = block[1]
    else:
        number = re.sub(r"<think>.*?</think>", "", text, flags=S)
    if not re.fullmatch(r"\s*[\d.]+\s*", number):
        return None
    try:
        value = float(number.strip())
    except ValueError:
        return None
    return value if value in (0, 0.5, 1) else None


def gate(text):
    """8: 0, 1 or None."""
    score = re.search(r"<score>\s*(0|1)\s*</score>", text)
    return int(score[1]) if score else None


def queries(arguments, place):
    """3.9.4: the queries of a JSON call's arguments, or None."""
    items = arguments.get("query_list") if isinstance(arguments, dict) else None
    if place == "task" and isinstance(items, str) and items.strip():
        items = [items]
    if not isinstance(items, list) or not items:
        return None
    held = [query(item, place) for item in items]
    if place == "difficulty" and None in held:
        return None
    held = tuple(q for q in held if q is not None)
    return held if held or place == "score" else None


def query(item, place):
    """2.5, 3.9.4: the query that one item holds, or None."""
    if isinstance(item, str):
        return item
    if not isinstance(item, dict) or place in ("score", "difficulty"):
        return None
    keys = ["query"]
    if place == "policy":
        keys += ["text", "content", "q", *item]
    for key in keys:
        if isinstance(item.get(key), str):
            return item[key]
    return None


def searches(text, tool_format, place="score"):
    """3.1, 3.9.4: the queries of every valid call; difficulty as in 3.8."""
    if tool_format == "search_r1":
        return [(q.strip(),) for q in pairs(text, "search") if q.strip()]
    if tool_format == "function_calls_xml":
        found = function_calls(text, "search", "query")
        return [(q.strip(),) for q in found if q.strip()]
    found = []
    for block in pairs(text, "tool_call"):
        valid = [
            queries(arguments, place)
            for _, name, arguments in calls(f"<tool_call>{block}</tool_call>")
            if name == "search"
        ]
        if place == "difficulty" and not any(valid):
            valid = [written(block)]
        found += [q for q in valid if q is not None]
    return found


def written(block):
    """3.8: ``search(query_list=[..])`` as text."""
    call = re.fullmatch(
        r"\s*search\s*\(\s*query_list\s*=\s*(\[.*\])\s*\)\s*", block, re.DOTALL
    )
    try:
        items = ast.literal_eval(call[1]) if call else None
        return queries({"query_list": items}, "difficulty")
    except (ValueError, SyntaxError):
        return None


def function_calls(text, name, parameter):
    """3.1: what stands between the quotes of every call."""
    pattern = (
        rf"<function_calls>\s*{name}\s*\(\s*{parameter}\s*=\s*[\"'](.+?)[\"']\s*\)"
    )
    return re.findall(pattern, text, S)


def without_thinking(text):
    """3.7: closed blocks removed, and an unclosed one to the end."""
    closed = re.sub(r"<think>.*?</think>", "", text, flags=S)
    return re.sub(r"<think>.*\Z", "", closed, flags=S)


def opens_with_thinking(text):
    """9.1, 10: a closed block at the start."""
    return bool(re.match(r"^\s*<think>(.*?)</think>", text, S))
