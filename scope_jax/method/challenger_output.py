"""What the Challenger wrote, parsed: its task and its format score (spec 4, 9.1)."""

import itertools
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass

from scope_jax.method import formats
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import FormatScore, Message
from scope_jax.method.types import ToolFormat


@dataclass(frozen=True)
class TaskParse:
    """The task of a Challenger; ``errors`` say why there is none."""

    valid: bool
    task: str
    reference_answer: str = ""
    errors: tuple[str, ...] = ()


def parse_task(text: str, tool_format: ToolFormat) -> TaskParse:
    """The last ``<task>`` of ``text`` (spec 4).

    Args:
      text: what the Challenger wrote, all its turns.
      tool_format: in ``tool_call`` a ``submit_task`` call is accepted as well.
    """
    answer = formats.last_pair(text, "answer")
    reference = answer.content.strip() if answer else ""
    pair = formats.last_pair(text, "task")
    task = pair.content.strip() if pair else ""
    if not task and tool_format == "tool_call":
        for call in formats.tool_calls(text):
            if call.name == "submit_task":
                task = (formats.argument(call, "task_prompt") or "").strip()
            if task:
                break
    if task:
        return TaskParse(True, task, reference)
    if pair:
        error = "empty task"
    else:
        error = "unclosed task" if "<task>" in text else "missing task tags"
    return TaskParse(False, "", reference, (error,))


def written_text(messages: Sequence[Message]) -> str:
    """All that the Challenger wrote; its task is parsed from this."""
    return "\n".join(formats.assistant_texts(messages))


def format_score(
    messages: Sequence[Message],
    num_searches: int,
    tool_format: ToolFormat,
    *,
    compat: Compat = OFF,
    strict_think: bool = False,
) -> FormatScore:
    """Format score of a Challenger's conversation (spec 9.1).

    Args:
      messages: of the conversation, without example turns.
      num_searches: N, the searches that its prompt asks for.
      tool_format: how searches are written.
      compat: ``misindexed_tool_score`` counts as the reference does in ``tool_call``.
      strict_think: count a turn as thinking only if it starts with a closed block, as
        in task creation; otherwise an opening tag anywhere is enough, as in training.
    """
    turns = formats.assistant_texts(messages)
    if not turns:
        return FormatScore(0.0, 0.0, 0.0, 0.0)
    thinks = formats.opens_with_thinking if strict_think else _mentions_thinking
    think = sum(map(thinks, turns)) / len(turns)
    if num_searches == 0:
        tool = 1.0
    elif tool_format == "search_r1":
        valid = [bool(formats.first_search(turn, tool_format)) for turn in turns]
        bad = [
            "<search>" in turn and not ok for turn, ok in zip(turns, valid, strict=True)
        ]
        tool = max(sum(valid) - sum(bad), 0) / num_searches
    elif tool_format == "tool_call" and compat.misindexed_tool_score:
        tool = _misindexed_searches(messages, num_searches) / num_searches
    else:
        tool = _answered_searches(messages, tool_format) / num_searches
    tool = min(tool, 1.0)
    structure = float(parse_task(turns[-1], tool_format).valid)
    return FormatScore(think, tool, structure, (think + tool + structure) / 3)


def _mentions_thinking(turn: str) -> bool:
    return "<think>" in turn


def _is_result(message: Message, tool_format: ToolFormat) -> bool:
    """Whether ``message`` shows a search result."""
    if message["role"] == "tool" and tool_format == "tool_call":
        return True
    if message["role"] not in ("user", "environment", "tool"):
        return False
    tag = formats.RESULT_TAG[tool_format]
    return formats.first_pair(message["content"], tag) is not None


def _answered_searches(messages: Sequence[Message], tool_format: ToolFormat) -> int:
    """How many turns' first call is a valid search that a result follows."""
    count = 0
    for message, following in itertools.pairwise(messages):
        if message["role"] == "assistant" and _is_result(following, tool_format):
            text = formats.message_text(message)
            count += formats.first_search(text, tool_format) is not None
    return count


def _misindexed_searches(messages: Sequence[Message], num_searches: int) -> int:
    """How many turns j have a valid search and a result in user turn j + 1 (spec Q4).

    Guidance is a user turn of its own, so from the second search on the reference looks
    at guidance where it means to look at the result.
    """
    turns = formats.assistant_texts(messages)
    user_turns: list[bool] = []  # after the prompt: does it show a result?
    previous, begun = "", False
    for message in messages:
        role = message["role"]
        begun = begun or role == "assistant"
        if begun and role in ("user", "tool") and not role == previous == "tool":
            user_turns.append(_is_result(message, "tool_call"))
        previous = role
    return sum(
        formats.first_search(turn, "tool_call") is not None and is_result
        for turn, is_result in zip(turns[:num_searches], user_turns, strict=False)
    )


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _plain(text: str) -> str:
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def _result_of(content: str) -> str:
    """The text of a tool's answer; one that was cut is no JSON, and taken as it is."""
    try:
        found = json.loads(content)
    except ValueError:
        return content
    return str(found.get("result", content)) if isinstance(found, dict) else content


def short_answer_score(messages: Sequence[Message]) -> float:
    """Score A of a short question's reference answer: short, in the last result?"""
    answer = formats.last_pair(written_text(messages), "answer")
    plain = _plain(answer.content) if answer else ""
    if not plain:
        return 0.0
    result = ""  # the last one, as text
    for message in messages:
        if message["role"] == "tool":
            result = _result_of(message["content"])
        elif message["role"] == "user":
            block = formats.last_pair(message["content"], "information")
            result = block.content if block else result
    if plain not in _plain(result) and plain not in ("yes", "no"):
        return 0.0
    words = len(plain.split())
    return 1.0 if words <= 5 else 0.5 if words <= 10 else 0.0
