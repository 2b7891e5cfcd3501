"""The Solver: its settings and its reward (spec 10).

    R = 0.5 format + 1.0 accuracy x length factor + 0.1 search

``assess`` scores a conversation and says what the judge must grade; ``reward`` adds
everything up and says how.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from models.ranges import POSITIVE, Count, CountOrZero, Finite, Share, check_fields
from scope_jax.method import formats
from scope_jax.method.axpo import ResamplingConfig
from scope_jax.method.formats import FormatScore, Message, Reward
from scope_jax.method.judge import DEFAULT, JudgeConfig, met_line, rubric_score
from scope_jax.method.rubric_weights import weighted_score
from scope_jax.method.search_errors import search_errors
from scope_jax.method.solver_output import (
    AnswerParse,
    format_score,
    parse_answer,
    plain,
)
from scope_jax.method.task_buffer import ReposingConfig
from scope_jax.method.teacher import TeacherConfig
from scope_jax.method.types import ToolFormat, check_own_code

UNREADABLE = "discarded: too few grades readable"
NO_RUBRICS = "no rubrics"
"""Why a valid answer has a score of 0 that says nothing of it."""


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """What long answers lose, in tokens of the policy's tokenizer."""

    soft: CountOrZero = 1024
    """An answer of up to this many tokens loses nothing."""
    hard: Count = 2048
    """From this many tokens on only `floor` is left; the judge sees no more of an
    answer, and an answer of more than twice as many has accuracy 0."""
    floor: Share = 0.05
    """Share of its accuracy that a long answer keeps."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class SolverConfig:
    """Solver: conversation and reward."""

    max_turns: Count = 5
    """Most assistant turns of a conversation."""
    max_searches: CountOrZero = 4
    """Searches that its prompt allows."""
    max_searches_eval: CountOrZero = 5
    """Searches that its prompt allows in evaluation."""
    forced_rounds: CountOrZero = 5
    """Most forced answers, in difficulty rollouts and in evaluation: how often the
    Solver is told to answer now, after a conversation that ended without an answer."""
    format_weight: Finite = 0.5
    """Weight of the format score."""
    accuracy_weight: Finite = 1.0
    """Weight of the mean rubric score, after the length factor."""
    search_weight: Finite = 0.1
    """Weight of the search score."""
    search_target: Count = 3
    """Number of search calls from which the search score is 1."""
    search_decay: Literal["none", "cosine"] = "none"
    """cosine: the search score falls to 0 along half a cosine while the Solver trains,
    as in SPEAR (which has `search_weight` 1 and `search_target` 10)."""
    search_decay_steps: Count = 60
    """Training steps after which it is 0; 60 are the method's three iterations."""
    length: LengthConfig = LengthConfig()
    """What long answers lose."""
    reward: str = ""
    """A part of the reward of your own, as FILE.py:NAME (docs/your-reward.md). Empty:
    none."""
    reward_weight: Finite = 1.0
    """Weight of your own part."""
    reward_timeout: Annotated[float, POSITIVE] = 60.0
    """Seconds that a call of your own part may take, without what the judge takes."""
    reward_hash: str = ""
    """Hash that the file of your own part must have. Empty: the one it has when the run
    starts, which its config.json then has."""
    resampling: ResamplingConfig = ResamplingConfig()
    """Other searches where all who searched have failed."""
    teacher: TeacherConfig = TeacherConfig()
    """A teacher of its answers: itself, told more."""
    reposing: ReposingConfig = ReposingConfig()
    """Tasks that it fails, asked again with candidate answers."""

    def __post_init__(self):
        check_fields(self)
        check_own_code("reward", self.reward)


def length_factor(tokens: int, limits: LengthConfig) -> float:
    """Share of its accuracy that an answer keeps (spec 10).

    1 up to ``soft`` tokens, then half a cosine down to ``floor`` at ``hard``.
    """
    soft, hard, floor = limits.soft, limits.hard, limits.floor
    if tokens <= soft:
        return 1.0
    if tokens >= hard:
        return floor
    angle = math.pi * (tokens - soft) / (hard - soft)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(angle))


def search_decay(config: SolverConfig, step: int) -> float:
    """What is left of the search score at a training step, from 1 over all iterations.

    t is the number of steps done, T ``search_decay_steps``; from T on it is 0.

    Formula:
      search = min(n / search_target, 1) (1 + cos(pi t / T)) / 2, n calls

    References:
      SPEAR (arXiv 2509.22601), whose search_target is 10
    """
    if config.search_decay == "none":
        return 1.0
    done = min(step - 1, config.search_decay_steps)
    return (1 + math.cos(math.pi * done / config.search_decay_steps)) / 2


def exact_match(answer: str, targets: Sequence[str]) -> bool:
    """Whether ``answer`` equals a gold answer, case, punctuation and articles aside."""
    return any(plain(answer) == plain(target) for target in targets)


@dataclass(frozen=True)
class Assessment:
    """What a Solver's conversation alone is worth.

    Attributes:
      format: its format score.
      answer: its answer.
      calls: valid search calls in all turns, run or not.
      turns: number of assistant turns.
      tokens: length of the answer, in tokens.
      length: the length factor; 0 for an answer over twice the hard limit.
      graded: the text that the judge must grade; None if there is none.
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
    cut: Callable[[str, int], str],
    writes_thinking: bool = False,
) -> Assessment:
    """Parses and scores a Solver's conversation, and says what the judge must grade.

    Args:
      config: length limits.
      messages: of the conversation, without example turns.
      tool_format: how searches are written.
      encode: text to ids of the policy's tokenizer, without special tokens.
      cut: the first tokens of a text, as text.
      writes_thinking: of the chat template, see ``format_score``.
    """
    score = format_score(messages, tool_format, writes_thinking=writes_thinking)
    turns = formats.assistant_texts(messages)
    answer = parse_answer(messages)
    limits = config.length
    ids = encode(answer.answer) if answer.valid else ()
    over = len(ids) > 2 * limits.hard
    graded = None
    if answer.valid and score.value > 0 and not over:
        graded = answer.answer
        if len(ids) > limits.hard:
            graded = cut(answer.answer, limits.hard)
    return Assessment(
        format=score,
        answer=answer,
        calls=sum(len(formats.searches(turn, tool_format)) for turn in turns),
        turns=len(turns),
        tokens=len(ids),
        length=0.0 if over else length_factor(len(ids), limits),
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
    unbiased: Sequence[float | None] | None = None,
    weights: Sequence[float] | None = None,
    decay: float = 1.0,
) -> Reward:
    """The Solver's reward (spec 10).

    Args:
      config: weights.
      assessment: from ``assess``.
      grades: one per rubric, None where unreadable; empty if nothing was graded.
      n_rubrics: number of rubrics of the task.
      judge: how unreadable grades count.
      targets: gold answers; where given, exact match replaces the judge.
      unbiased: of a judge that is biased on purpose, the grades without its bias: they
        are reported and change nothing.
      weights: of the rubrics, from ``rubric_weights``; None counts them alike.
      decay: what is left of the search score, from ``search_decay``.
    """
    accuracy, branch, found = _accuracy(assessment, grades, n_rubrics, judge, targets)
    search = min(assessment.calls, config.search_target) / config.search_target * decay
    counted = accuracy
    if weights is not None and branch == "graded":
        counted = weighted_score(grades, weights, judge.pad)
    kept = counted * assessment.length
    value = (
        config.format_weight * assessment.format.value
        + config.accuracy_weight * kept
        + config.search_weight * search
    )
    calls = f"searching before the last turn {assessment.format.tool:.4g}"
    why = [assessment.format.line(calls, "answer"), found]
    if assessment.answer.answer:
        why.append(_length_line(assessment, config.length))
        why += _weights_lines(weights, counted)
        why.append(f"accuracy {kept:.4g} = {counted:.4g} x {assessment.length:.4g}")
    why += [
        _search_line(config, assessment, search, decay),
        f"reward {value:.4g} = {config.format_weight:.4g} x format "
        f"{assessment.format.value:.4g} + {config.accuracy_weight:.4g} x accuracy "
        f"{kept:.4g} + {config.search_weight:.4g} x search {search:.4g}",
    ]
    actions = assessment.calls + assessment.answer.valid
    parts = {
        **assessment.format.parts(),
        "accuracy": kept,
        "rubric_score": accuracy,
        "length_factor": assessment.length,
        "search": search,
        "searches": float(assessment.calls),
        "valid_actions": min(actions / max(assessment.turns, 1), 1.0),
        "answer_tokens": float(assessment.tokens),
        "answer_truncated": float(config.length.hard < assessment.tokens),
    }
    if weights is not None:
        parts["weighted_score"] = counted
    if unbiased is not None:
        true, *_ = _accuracy(assessment, unbiased, n_rubrics, judge, targets)
        parts["rubric_score_unbiased"] = true
        if true != accuracy:
            why.insert(2, f"the judge is biased: without its bias score {true:.4g}")
    trace = {
        "branch": branch,
        "answer": assessment.answer.answer,
        "grades": list(grades),
    }
    return Reward(value, parts, trace, assessment.errors, tuple(why))


def with_own(config: SolverConfig, reward: Reward, own: float) -> Reward:
    """The reward with the part that the user's code gives, times its weight."""
    value = reward.value + config.reward_weight * own
    line = (
        f"reward {value:.4g} = {reward.value:.4g} + {config.reward_weight:.4g} x "
        f"{config.reward} {own:.4g}"
    )
    parts = reward.parts | {"own": own}
    return replace(reward, value=value, parts=parts, why=(*reward.why, line))


def _weights_lines(weights: Sequence[float] | None, counted: float) -> list[str]:
    """What the rubrics' weights make of their grades; no line without weights."""
    shown = ", ".join(f"{weight:.3g}" for weight in weights or ())
    return [] if weights is None else [f"rubrics weighted {shown}: {counted:.4g}"]


def _search_line(
    config: SolverConfig, assessment: Assessment, search: float, decay: float
) -> str:
    """What the searches earned."""
    calls = f"{assessment.calls} search {'call' if assessment.calls == 1 else 'calls'}"
    left = "" if config.search_decay == "none" else f" ({decay:.4g} of it is left)"
    return f"{calls}, {config.search_target} wanted: search {search:.4g}{left}"


def _length_line(assessment: Assessment, limits: LengthConfig) -> str:
    """What the answer's length took."""
    return (
        f"answer of {assessment.tokens:.4g} tokens (loses from {limits.soft} on, "
        f"all but {limits.floor:.4g} from {limits.hard} on): length factor "
        f"{assessment.length:.4g}"
    )


def _accuracy(
    assessment: Assessment,
    grades: Sequence[float | None],
    n_rubrics: int,
    judge: JudgeConfig,
    targets: Sequence[str],
) -> tuple[float, str, str]:
    """Accuracy before the length factor, the branch it is from, and the line on it."""
    accuracy, branch = 0.0, "no valid answer"
    if assessment.graded is not None and targets:
        right = exact_match(assessment.answer.answer, targets)
        why = f"the answer {'is' if right else 'is not'} a known answer"
        return float(right), "exact match", why
    if assessment.graded is not None and n_rubrics:
        total = rubric_score(grades, n_rubrics, judge)
        branch = "graded" if total is not None else UNREADABLE
        accuracy = (total or 0.0) / n_rubrics
    elif assessment.graded is not None:
        branch = NO_RUBRICS
    elif assessment.answer.valid and assessment.length == 0:
        branch = "over twice the hard length limit: not graded"
    if grades:
        return accuracy, branch, f"rubrics: {met_line(grades, judge, accuracy)}"
    errors = f" ({'; '.join(assessment.errors)})" if assessment.errors else ""
    reason = branch.removesuffix(": not graded")
    return accuracy, branch, f"not graded: {reason}{errors}"
