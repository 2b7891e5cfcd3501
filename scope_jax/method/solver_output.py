"""What the Solver wrote, parsed: its answer and its format score (spec 5, 10)."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from scope_jax.method import formats
from scope_jax.method.formats import FormatScore, Message
from scope_jax.method.types import ToolFormat


@dataclass(frozen=True)
class AnswerParse:
    """The final answer of a Solver; ``errors`` say why an attempted one is invalid."""

    valid: bool
    answer: str
    errors: tuple[str, ...] = ()


_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def parse_answer(messages: Sequence[Message]) -> AnswerParse:
    """The last answer in a Solver's turns (spec 5, Q35)."""
    answer: str | None = None
    spoken = []
    for number, message in enumerate(messages, 1):
        if message["role"] != "assistant":
            continue
        text = formats.message_text(message)
        spoken.append(text)
        closed = formats.last_pair(text, "answer")
        if closed:
            answer = closed.content
        if number < len(messages):  # cut off by what follows: the rest is the answer
            tail = text[text.rfind("</answer>") + 1 :]
            _, opened, rest = tail.partition("<answer>")
            if opened:
                answer = rest
    if answer is None:
        answer = _submitted(spoken)
    if answer is not None:
        stripped = answer.strip()
        return AnswerParse(
            bool(stripped), stripped, () if stripped else ("empty answer",)
        )
    if any("<answer>" in text for text in spoken):
        return AnswerParse(False, "", ("unclosed answer",))
    return _foreign_answer("\n".join(spoken))


def _submitted(texts: Sequence[str]) -> str | None:
    """The answer of the first ``submit_answer`` call that has one."""
    for text in texts:
        for call in formats.tool_calls(text):
            if call.name == "submit_answer":
                answer = formats.argument(call, "answer")
                if answer is not None:
                    return answer
    return None


def _foreign_answer(text: str) -> AnswerParse:
    """An answer in a form that no prompt asks for: a call as text, or a box."""
    call = next(formats.function_calls(text, "answer", "answer"), None)
    answer = call.content.strip() if call else ""
    if not answer:
        if "<function_calls>" in text and "answer(" in text:
            return AnswerParse(False, "", ("malformed answer call",))
        boxes = _BOXED.findall(text)
        answer = boxes[-1].strip() if boxes else ""
    return AnswerParse(bool(answer), answer)


def format_score(
    messages: Sequence[Message],
    tool_format: ToolFormat,
    *,
    writes_thinking: bool = False,
) -> FormatScore:
    """Format score of a Solver's conversation (spec 10).

    ``structure`` is 1 where there is a valid answer.

    Args:
      messages: of the conversation, without example turns.
      tool_format: how searches are written.
      writes_thinking: the chat template gives a turn without thinking an empty block,
        which counts (spec 3.9.8).
    """
    turns = formats.assistant_texts(messages)
    calls = [len(formats.searches(turn, tool_format)) for turn in turns]
    thinks = [writes_thinking or formats.opens_with_thinking(turn) for turn in turns]
    think = sum(thinks) / max(len(turns), 1)
    tool = min(sum(calls[:-1]) / (len(turns) - 1), 1.0) if len(turns) > 1 else 0.0
    structure = float(parse_answer(messages).valid)
    return FormatScore(think, tool, structure, (think + tool + structure) / 3)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Text without case, punctuation, articles and spaces of its own."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
