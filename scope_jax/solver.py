"""The Solver: how its answer is read and what it earns (spec 5, 10).

    R = 0.5 format + 1.0 accuracy x length factor + 0.1 search

``assess`` reads a conversation and says what the judge must grade; ``reward`` adds up.
"""

import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scope_jax import formats
from scope_jax.compat import OFF, Compat
from scope_jax.formats import FormatScore, Message, Reward
from scope_jax.judge import DEFAULT, JudgeConfig, rubric_score
from scope_jax.search_errors import search_errors
from scope_jax.types import ToolFormat


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """What long answers lose, in tokens of the policy's tokenizer."""

    soft: int = 1024
    """An answer of at most so many tokens loses nothing."""
    hard: int = 2048
    """From here on `floor` is left; the judge sees no more than so many tokens, and an
    answer of more than twice as many counts nothing."""
    floor: float = 0.05
    """Share of the accuracy that is left to a long answer."""


@dataclass(frozen=True, kw_only=True)
class SolverConfig:
    """Solver: conversation and reward."""

    max_turns: int = 5
    """Assistant turns of a conversation."""
    max_searches: int = 4
    """Searches that its prompt allows."""
    max_searches_eval: int = 5
    """Searches that its prompt allows in evaluation."""
    forced_rounds: int = 5
    """Times an answer is demanded, in difficulty rollouts and in evaluation, of a
    conversation that ended without one."""
    format_weight: float = 0.5
    """Weight of the format score."""
    accuracy_weight: float = 1.0
    """Weight of the mean rubric score, after the length factor."""
    search_weight: float = 0.1
    """Weight of the search score."""
    search_target: int = 3
    """Search calls for which the search score is 1."""
    length: LengthConfig = LengthConfig()
    """What long answers lose."""


@dataclass(frozen=True)
class AnswerParse:
    """The final answer of a Solver; ``errors`` say what was wrong with one begun."""

    valid: bool
    answer: str
    errors: tuple[str, ...] = ()


_MARKER = re.compile(r"(?:\n|^)(user|assistant)\n")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def _segments(text: str) -> list[tuple[str, str]]:
    """Raw text as (role, segment) pairs, split at lines that name a role."""
    kept, position = [], 0
    opening, closing = "<|im_start|>user\n", "<|im_end|>"
    while (start := text.find(opening, position)) >= 0:
        end = text.find(closing, start + len(opening))
        if end < 0:
            break
        kept.append(text[position:start])
        position = end + len(closing)
    text = "".join([*kept, text[position:]])
    segments, role, position = [], "assistant", 0
    for match in _MARKER.finditer(text):
        segments.append((role, text[position : match.start()]))
        role, position = match[1], match.end()
    return [*segments, (role, text[position:])]


def parse_answer(
    text_or_messages: str | Sequence[Message],
    *,
    compat: Compat = OFF,
) -> AnswerParse:
    """The last answer of a Solver's turns (spec 5).

    Args:
      text_or_messages: the conversation's messages; or raw text, which is split at
        lines that are exactly ``user`` or ``assistant``, as the reference does.
      compat: taken for uniformity; no switch concerns this parser.
    """
    del compat
    if isinstance(text_or_messages, str):
        segments = _segments(text_or_messages)
    else:
        segments = [(m["role"], formats.message_text(m)) for m in text_or_messages]
    last = len(segments) - 1
    answer: str | None = None
    spoken = []
    for index, (role, segment) in enumerate(segments):
        if role != "assistant":
            continue
        spoken.append(segment)
        closed = formats.last_pair(segment, "answer")
        if closed:
            answer = closed.content
        if index != last:  # cut off by an environment turn: the rest is the answer
            tail = segment[segment.rfind("</answer>") + 1 :]
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
    if any("<answer>" in segment for segment in spoken):
        return AnswerParse(False, "", ("unclosed answer",))
    return _foreign_answer("\n".join(spoken))


def _submitted(segments: Sequence[str]) -> str | None:
    for segment in segments:
        for call in formats.tool_calls(segment):
            if call.name == "submit_answer":
                answer = formats.argument(call, "answer")
                if answer is not None:
                    return answer
    return None


def _foreign_answer(text: str) -> AnswerParse:
    """An answer in a form that nobody asked for: a call as text, or a box."""
    call = next(formats.function_calls(text, "answer", "answer"), None)
    answer = call.content.strip() if call else ""
    if not answer:
        if "<function_calls>" in text and "answer(" in text:
            return AnswerParse(False, "", ("malformed answer call",))
        boxes = _BOXED.findall(text)
        answer = boxes[-1].strip() if boxes else ""
    return AnswerParse(bool(answer), answer)


def format_score(messages: Sequence[Message], tool_format: ToolFormat) -> FormatScore:
    """Format score of a Solver's conversation; ``structure`` is its valid answer."""
    turns = formats.assistant_texts(messages)
    calls = [len(formats.searches(turn, tool_format)) for turn in turns]
    think = sum(map(formats.opens_with_thinking, turns)) / max(len(turns), 1)
    tool = min(sum(calls[:-1]) / (len(turns) - 1), 1.0) if len(turns) > 1 else 0.0
    structure = float(parse_answer(messages).valid)
    return FormatScore(think, tool, structure, (think + tool + structure) / 3)


def length_factor(
    tokens: int, *, soft: int = 1024, hard: int = 2048, floor: float = 0.05
) -> float:
    """What an answer keeps: 1 up to ``soft`` tokens, a cosine down to ``floor``."""
    if tokens <= soft:
        return 1.0
    if tokens >= hard:
        return floor
    angle = math.pi * (tokens - soft) / (hard - soft)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(angle))


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, targets: Sequence[str]) -> bool:
    """Whether ``answer`` equals a gold answer, case, punctuation and articles aside."""

    def plain(text: str) -> str:
        return " ".join(
            _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
        )

    return any(plain(answer) == plain(target) for target in targets)


@dataclass(frozen=True)
class Assessment:
    """A Solver's conversation, read.

    Attributes:
      format: its format score.
      answer: its answer, parsed.
      calls: valid search calls of all turns, whether they were run or not.
      turns: assistant turns.
      tokens: of the answer.
      length: the length factor; 0 for an answer over twice the hard limit.
      graded: what the judge must grade, or None: nothing.
      errors: classes of what was wrong with its answer and its searches.
    """

    format: FormatScore
    answer: AnswerParse
    calls: int
    turns: int
    tokens: int
    length: float
    graded: str | None
    errors: tuple[str, ...] = ()


def assess(
    config: SolverConfig,
    messages: Sequence[Message],
    tool_format: ToolFormat,
    *,
    encode: Callable[[str], Sequence[Any]],
    decode: Callable[[Sequence[Any]], str],
) -> Assessment:
    """Reads a Solver's conversation, and what of it the judge must grade.

    Args:
      config: limits.
      messages: of the conversation, without example turns.
      tool_format: how searches are written.
      encode: text to ids of the policy's tokenizer, no special tokens.
      decode: ids to text.
    """
    score = format_score(messages, tool_format)
    turns = formats.assistant_texts(messages)
    answer = parse_answer(messages)
    limits = config.length
    ids = encode(answer.answer) if answer.valid else ()
    over = len(ids) > 2 * limits.hard
    graded = None
    if answer.valid and score.value > 0 and not over:
        graded = answer.answer
        if len(ids) > limits.hard:
            graded = decode(ids[: limits.hard])
    return Assessment(
        format=score,
        answer=answer,
        calls=sum(len(formats.searches(turn, tool_format)) for turn in turns),
        turns=len(turns),
        tokens=len(ids),
        length=0.0
        if over
        else length_factor(
            len(ids), soft=limits.soft, hard=limits.hard, floor=limits.floor
        ),
        graded=graded,
        errors=(*answer.errors, *search_errors(turns, tool_format)),
    )


def reward(
    config: SolverConfig,
    assessment: Assessment,
    grades: Sequence[float | None] = (),
    n_rubrics: int = 0,
    *,
    judge: JudgeConfig = DEFAULT,
    targets: Sequence[str] = (),
) -> Reward:
    """The Solver's reward (spec 10).

    Args:
      config: weights.
      assessment: of ``assess``.
      grades: one per rubric, None where unreadable; none if nothing was graded.
      n_rubrics: rubrics of the task.
      judge: how unreadable grades count.
      targets: gold answers; if there are any, exact match takes the judge's place.
    """
    accuracy, branch = 0.0, "no valid answer"
    if assessment.graded is not None and targets:
        accuracy = float(exact_match(assessment.answer.answer, targets))
        branch = "exact match"
    elif assessment.graded is not None and n_rubrics:
        total = rubric_score(
            grades, n_rubrics, min_coverage=judge.min_coverage, pad=judge.pad
        )
        branch = "graded" if total is not None else "discarded: too few grades readable"
        accuracy = (total or 0.0) / n_rubrics
    elif assessment.graded is not None:
        branch = "no rubrics"
    elif assessment.answer.valid and assessment.length == 0:
        branch = "over twice the hard length limit: not graded"
    search = min(assessment.calls, config.search_target) / config.search_target
    kept = accuracy * assessment.length
    value = (
        config.format_weight * assessment.format.value
        + config.accuracy_weight * kept
        + config.search_weight * search
    )
    actions = assessment.calls + assessment.answer.valid
    parts = {
        "format": assessment.format.value,
        "think": assessment.format.think,
        "tool": assessment.format.tool,
        "structure": assessment.format.structure,
        "accuracy": kept,
        "rubric_score": accuracy,
        "length_factor": assessment.length,
        "search": search,
        "searches": float(assessment.calls),
        "valid_actions": min(actions / max(assessment.turns, 1), 1.0),
        "answer_tokens": float(assessment.tokens),
        "answer_truncated": float(config.length.hard < assessment.tokens),
    }
    trace = {
        "branch": branch,
        "answer": assessment.answer.answer,
        "grades": list(grades),
    }
    return Reward(value, parts, trace, assessment.errors)
