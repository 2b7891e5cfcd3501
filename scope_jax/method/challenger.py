"""The Challenger: its settings and its reward (spec 9).

    R = 0.5 format + 1.0 difficulty

The difficulty of a task comes from K rollouts of the previous Solver, graded by the
judge. ``assess`` scores a conversation. The caller then has rubrics written, gates
asked, and rollouts played and graded, as far as the reward needs them; ``reward`` adds
everything up and says how.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from models.ranges import Count, Finite, Range, Share, check_fields
from rl.records import SamplingParams
from scope_jax.method import formats
from scope_jax.method.challenger_output import (
    TaskParse,
    format_score,
    parse_task,
    short_answer_score,
    written_text,
)
from scope_jax.method.challenger_shapes import SHAPES, Shape, invalid, shape
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import FormatScore, Message, Reward
from scope_jax.method.judge import (
    DEFAULT,
    JudgeConfig,
    RubricsParse,
    attempts_lines,
    gates_lines,
    gates_pass,
    rubric_score,
    rubrics_line,
    unreadable_gates,
)
from scope_jax.method.search_errors import search_errors
from scope_jax.method.task_checks import Check
from scope_jax.method.types import ToolFormat

SHORT = "short_form_qa"
DifficultyKind = Literal["tent", "continuous", "normalized", Shape]


@dataclass(frozen=True, kw_only=True)
class ChallengerConfig:
    """Challenger: conversation and reward."""

    schedule: str = "4:3:2"
    """Searches that prompts ask for: `2` for always two, `4:3:2` for shares of one, two
    and three."""
    short_form_qa_ratio: Share = 0.0
    """Probability of the task type `short_form_qa`; the other four share the rest."""
    max_turns: Count = 5
    """Most assistant turns of a conversation in training."""
    style: Literal["chain2", "chain2_xml", "none"] = "chain2"
    """Guidance from search to search; `chain2_xml` names the task tags in the last."""
    tool_tokens: Count = 500
    """Token limit of a search result, in every role's conversations."""
    format_weight: Finite = 0.5
    """Weight of the format score."""
    difficulty_weight: Finite = 1.0
    """Weight of the difficulty."""
    difficulty: DifficultyKind = "tent"
    """How the mean rubric score becomes difficulty: `tent` peaks at the target,
    `continuous` falls with the score, `normalized` is the score itself; `one_minus`
    and `intermediate` are SSP's, `ssr` and `paso_doble` those of their papers (see
    `scope_jax.method.challenger_shapes`). A short question keeps its own."""
    difficulty_target: Annotated[float, Range(above=0, below=1)] = 0.5
    """Mean rubric score at which `tent` is 1."""
    rollouts: Count = 8
    """K, rollouts of the previous Solver per task."""
    rollout_sampling: SamplingParams = SamplingParams(
        temperature=0.7, top_p=0.9, max_new_tokens=8192
    )
    """How those rollouts are sampled; `max_new_tokens` is per turn."""
    rollout_context_tokens: Count = 32768
    """Limit on prompt and response of those rollouts; a model's own holds as well."""
    rollout_tokens_tasks: Count = 2048
    """Most new tokens per turn of those rollouts in task creation."""

    def __post_init__(self):
        check_fields(self)


def difficulty(
    mean_rubric_sum: float,
    n_rubrics: int,
    *,
    kind: DifficultyKind = "tent",
    target: float = 0.5,
    diversity: float = 1.0,
) -> float:
    """How hard a task is, from the mean rubric sum A of n rubrics (spec 9.3)."""
    if n_rubrics <= 0:
        return 0.0
    share = mean_rubric_sum / n_rubrics
    if kind == "normalized":
        return min(max(share, 0.0), 1.0)
    if kind in SHAPES:
        return shape(min(max(share, 0.0), 1.0), kind=kind, diversity=diversity)
    if mean_rubric_sum <= 0 or mean_rubric_sum >= n_rubrics:
        return 0.0
    if kind == "continuous":
        if n_rubrics == 1:
            return 0.0
        return min((n_rubrics - mean_rubric_sum) / (n_rubrics - 1), 1.0)
    if not 0 < target < 1:
        return 0.0
    return share / target if share <= target else (1 - share) / (1 - target)


def usable_sums(
    grades: Sequence[Sequence[float | None] | None],
    n_rubrics: int,
    judge: JudgeConfig = DEFAULT,
) -> list[float]:
    """Rubric sums of the Solver's rollouts that count (spec 9.2).

    A rollout without a valid answer (None) is left out, and so is one with too few
    readable grades.
    """
    sums = (
        rubric_score(rollout, n_rubrics, judge)
        for rollout in grades
        if rollout is not None
    )
    return [total for total in sums if total is not None]


def match_difficulty(matches: Sequence[bool]) -> float:
    """Difficulty of a short question from the exact match of K answers (spec 9.2)."""
    rollouts, correct = len(matches), sum(matches)
    if rollouts <= 1 or correct in (0, rollouts):
        return 0.0
    return (rollouts - correct) / (rollouts - 1)


@dataclass(frozen=True)
class Assessment:
    """What a Challenger's conversation alone is worth.

    Attributes:
      format: its format score.
      parse: the task, from all that it wrote (spec Q9).
      value: the format score F that counts: 0 if no task can be parsed; a short
        question's includes the score of its reference answer.
      errors: classes of what was wrong with its task and its searches.
      short: score of a short question's reference answer; None for other tasks.
    """

    format: FormatScore
    parse: TaskParse
    value: float
    errors: tuple[str, ...] = ()
    short: float | None = None

    def lines(self, searches: int, counts: str) -> list[str]:
        """How the format score came about, of ``searches`` asked for."""
        asked = f"{searches} {'search' if searches == 1 else 'searches'} asked for"
        tool = f"searching {self.format.tool:.4g} ({asked})"
        lines = [self.format.line(tool, "task")]
        if self.short is not None:
            short = f"the short question's reference answer {self.short:.4g}"
            lines.append(f"{short}: {counts}")
        return lines


def assess(
    messages: Sequence[Message],
    num_searches: int,
    tool_format: ToolFormat,
    *,
    task_type: str = "",
    compat: Compat = OFF,
    strict_think: bool = False,
) -> Assessment:
    """Parses and scores a Challenger's conversation; arguments as ``format_score``."""
    score = format_score(
        messages, num_searches, tool_format, compat=compat, strict_think=strict_think
    )
    parse = parse_task(written_text(messages), tool_format)
    value = score.value if parse.valid else 0.0
    short = None
    if task_type == SHORT:
        short = short_answer_score(messages)
        value = (3 * value + short) / 4 if short and parse.valid else 0.0
    turns = formats.assistant_texts(messages)
    errors = (*parse.errors, *search_errors(turns, tool_format))
    return Assessment(score, parse, value, errors, short)


def reward(
    config: ChallengerConfig,
    assessment: Assessment,
    *,
    searches: int,
    rubrics: RubricsParse | None = None,
    gates: Mapping[str, int | None] | None = None,
    grades: Sequence[Sequence[float | None] | None] = (),
    matches: Sequence[bool | None] | None = None,
    judge: JudgeConfig = DEFAULT,
    checks: Sequence[Check] = (),
    diversity: float = 1.0,
) -> Reward:
    """The Challenger's reward (spec 9.2).

    Args:
      config: weights and the difficulty function.
      assessment: from ``assess``.
      searches: N, the searches that its prompt asks for.
      rubrics: what the judge wrote; None if it was not asked.
      gates: the gates' scores; None or empty if none was asked.
      grades: per rollout of the Solver its grades; None for no valid answer.
      matches: per rollout of the Solver whether it gave a short question's known
        answer; None for no valid answer. None as a whole where the judge grades.
      judge: what gates must sum to, and how unreadable grades count.
      checks: what else the task must pass, as far as it was asked.
      diversity: of the task, see ``challenger_shapes``; 0 where it gives its answer.
    """
    gates = dict(gates or {})
    passed = gates_pass(gates, judge.required_gates if gates else 0)
    passed = passed and all(check.passed for check in checks)
    usable = rubrics is not None and rubrics.valid
    counted = assessment.value if usable else 0.0
    given = rubrics if usable else None
    found = _measure(
        config, assessment, given, passed, grades, matches, judge, diversity
    )
    value = config.format_weight * counted + config.difficulty_weight * found.difficulty
    errors = (
        *assessment.errors,
        *(rubrics.errors if rubrics else ()),
        *unreadable_gates(gates),
    )
    counts = f"format counts {counted:.4g}"
    why = assessment.lines(searches, counts)
    if not assessment.parse.valid:
        why.append(f"no task can be read ({'; '.join(errors)}): {counts}")
    elif rubrics is None:
        why.append(f"the judge is not asked: {counts}")
    else:
        why.append(rubrics_line(rubrics) + ("" if usable else f": {counts}"))
        why += [*gates_lines(gates, judge), *(check.line for check in checks)]
        why += attempts_lines(grades, matches or (), judge)
        why.append(found.why)
    why.append(
        f"reward {value:.4g} = {config.format_weight:.4g} x format {counted:.4g} + "
        f"{config.difficulty_weight:.4g} x difficulty {found.difficulty:.4g}"
    )
    parts = {
        **assessment.format.parts(),
        "format": counted,
        "difficulty": found.difficulty,
        "rubric_score": found.rubric_score,
        "quality": float(passed and usable),
        **_more_parts(config, assessment, gates, checks, diversity),
    }
    trace: dict[str, Any] = {
        "branch": found.branch,
        "task": assessment.parse.task,
        "gates": gates,
        "usable_rollouts": found.used,
        "grades": [None if rollout is None else list(rollout) for rollout in grades],
    }
    return Reward(value, parts, trace, errors, tuple(why))


def _more_parts(
    config: ChallengerConfig,
    assessment: Assessment,
    gates: Mapping[str, int | None],
    checks: Sequence[Check],
    diversity: float,
) -> dict[str, float]:
    """The numbers that only some tasks have."""
    short = {} if assessment.short is None else {"short_answer": assessment.short}
    alike = {"diversity": diversity} if config.difficulty == "paso_doble" else {}
    return {
        **short,
        **{f"gate_{name}": float(score or 0) for name, score in gates.items()},
        **{check.name: check.value for check in checks},
        **alike,
    }


class _Measured(NamedTuple):
    """A task's difficulty, and where it comes from."""

    branch: str
    why: str
    difficulty: float = 0.0
    rubric_score: float = math.nan  # the mean
    used: int = 0  # rollouts that count


def _measure(
    config: ChallengerConfig,
    assessment: Assessment,
    rubrics: RubricsParse | None,
    passed: bool,
    grades: Sequence[Sequence[float | None] | None],
    matches: Sequence[bool | None] | None,
    judge: JudgeConfig,
    diversity: float,
) -> _Measured:
    """The difficulty that counts (spec 9.2); ``rubrics`` are None if unusable."""
    none = invalid(config.difficulty)
    unasked = f"no Solver rollouts: difficulty {none:.4g}"
    if not assessment.parse.valid:
        return _Measured("no task", unasked, none)
    if assessment.value == 0:
        return _Measured("format score 0", unasked, none)
    if rubrics is None:
        return _Measured("no rubrics: format score set to 0", unasked, none)
    if not passed:
        return _Measured("gates failed: no difficulty", unasked, none)
    if matches is not None:
        answered = [match for match in matches if match is not None]
        found = match_difficulty(answered)
        compared = f"{len(answered)} answers compared with the known one"
        why = f"{compared}: difficulty {found:.4g}"
        return _Measured("exact match", why, found, used=len(answered))
    n_rubrics = len(rubrics.rubrics)
    sums = usable_sums(grades, n_rubrics, judge)
    if not sums:
        why = f"no Solver rollout can be graded: difficulty {none:.4g}"
        return _Measured("no usable rollout", why, none)
    mean, how = sum(sums) / len(sums), config.difficulty
    target = config.difficulty_target
    found = difficulty(mean, n_rubrics, kind=how, target=target, diversity=diversity)
    if how == "tent":
        how = f"tent that is 1 at {target:.4g}"
    if how == "paso_doble":
        how = f"{how}, diversity {diversity:.4g}"
    score = mean / n_rubrics
    scored = f"mean score of {len(sums)} rollouts {score:.4g}"
    why = f"{scored}: difficulty {found:.4g} ({how})"
    return _Measured("graded", why, found, score, len(sums))
