"""The Challenger: how its task is read and what it earns (spec 3.2, 3.3, 4, 9).

    R = 0.5 format + 1.0 difficulty

The difficulty of a task comes from K rollouts of the previous Solver, graded by the
judge. ``assess`` reads a conversation; then rubrics are written, gates asked, rollouts
played and graded, as far as ``reward`` would count them; ``reward`` adds up.
"""

import itertools
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.errors import UserError
from rl.records import SamplingParams
from scope_jax import formats
from scope_jax.compat import OFF, Compat
from scope_jax.formats import FormatScore, Message, Reward
from scope_jax.judge import RubricsParse, gates_pass, rubric_score
from scope_jax.prompts import TASK_TYPES
from scope_jax.types import ToolFormat

DifficultyKind = Literal["tent", "continuous", "normalized"]
SHORT = "short_form_qa"


@dataclass(frozen=True, kw_only=True)
class ChallengerConfig:
    """Challenger: conversation and reward."""

    schedule: str = "4:3:2"
    """How many searches tasks are asked to need: `2` for two always, `4:3:2` for shares
    of one, two and three."""
    short_form_qa_ratio: float = 0.0
    """Probability of the task type `short_form_qa`; the other four share the rest."""
    max_turns: int = 5
    """Assistant turns of a conversation in training."""
    style: Literal["chain2", "chain2_xml", "none"] = "chain2"
    """Guidance from search to search; `chain2_xml` names the task tags at the end."""
    tool_tokens: int = 500
    """A search result is cut to so many tokens, in every role's conversations."""
    format_weight: float = 0.5
    """Weight of the format score."""
    difficulty_weight: float = 1.0
    """Weight of the difficulty."""
    difficulty: DifficultyKind = "tent"
    """How the mean rubric score becomes difficulty: `tent` peaks at the target,
    `continuous` falls with the score, `normalized` is the score itself."""
    difficulty_target: float = 0.5
    """Mean rubric score at which `tent` is 1."""
    rollouts: int = 8
    """K, rollouts of the previous Solver per task."""
    rollout_sampling: SamplingParams = SamplingParams(
        temperature=0.7, top_p=0.9, max_new_tokens=8192
    )
    """How those rollouts are sampled; `max_new_tokens` is per turn."""
    rollout_tokens_tasks: int = 2048
    """The same limit per turn in task creation."""


@dataclass(frozen=True)
class TaskParse:
    """The task of a Challenger; ``errors`` say why there is none."""

    valid: bool
    task: str
    reference_answer: str = ""
    errors: tuple[str, ...] = ()


def parse_task(
    text: str,
    tool_format: ToolFormat,
    *,
    compat: Compat = OFF,
) -> TaskParse:
    """The last ``<task>`` of ``text`` (spec 4).

    Args:
      text: what the Challenger wrote, all its turns.
      tool_format: in ``tool_call`` a ``submit_task`` call is accepted as well.
      compat: taken for uniformity; no switch concerns this parser.
    """
    del compat
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
    """All that the Challenger wrote, from which its task is read."""
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
      num_searches: N that its prompt asks for.
      tool_format: how searches are written.
      compat: ``misindexed_tool_score`` counts as the reference does in ``tool_call``.
      strict_think: a turn thinks only if it starts with a closed block, as in task
        creation; otherwise an opening tag anywhere is enough, as in training.
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
    """Whether a turn of the environment brings a search result."""
    if message["role"] == "tool" and tool_format == "tool_call":
        return True
    if message["role"] not in ("user", "environment", "tool"):
        return False
    tag = formats.RESULT_TAG[tool_format]
    return formats.first_pair(message["content"], tag) is not None


def _answered_searches(messages: Sequence[Message], tool_format: ToolFormat) -> int:
    """Turns whose first call is a valid search and whose next turn is its result."""
    count = 0
    for message, following in itertools.pairwise(messages):
        if message["role"] == "assistant" and _is_result(following, tool_format):
            text = formats.message_text(message)
            count += formats.first_search(text, tool_format) is not None
    return count


def _misindexed_searches(messages: Sequence[Message], num_searches: int) -> int:
    """Turn j with a valid search, if user turn j + 1 is a result (spec Q4).

    Guidance is a user turn of its own, so from the second search on it is looked at in
    place of the result.
    """
    turns = formats.assistant_texts(messages)
    user_turns: list[bool] = []  # after the prompt: does it hold a result?
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


def difficulty(
    mean_rubric_sum: float,
    n_rubrics: int,
    *,
    kind: DifficultyKind = "tent",
    target: float = 0.5,
) -> float:
    """How hard a task is, from the mean rubric sum A of n rubrics (spec 9.3)."""
    if n_rubrics <= 0:
        return 0.0
    share = mean_rubric_sum / n_rubrics
    if kind == "normalized":
        return min(max(share, 0.0), 1.0)
    if mean_rubric_sum <= 0 or mean_rubric_sum >= n_rubrics:
        return 0.0
    if kind == "continuous":
        if n_rubrics == 1:
            return 0.0
        return min((n_rubrics - mean_rubric_sum) / (n_rubrics - 1), 1.0)
    if not 0 < target < 1:
        return 0.0
    return share / target if share <= target else (1 - share) / (1 - target)


def match_difficulty(matches: Sequence[bool]) -> float:
    """Difficulty of a short question from the exact match of K answers (spec 9.2)."""
    rollouts, correct = len(matches), sum(matches)
    if rollouts <= 1 or correct in (0, rollouts):
        return 0.0
    return (rollouts - correct) / (rollouts - 1)


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _plain(text: str) -> str:
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def short_answer_score(messages: Sequence[Message]) -> float:
    """Reference answer A of a short question: short, and found in the last result."""
    answer = formats.last_pair(written_text(messages), "answer")
    plain = _plain(answer.content) if answer else ""
    if not plain:
        return 0.0
    results = [m["content"] for m in messages if m["role"] in ("user", "tool")]
    last = formats.last_pair("\n".join(results), "information")
    found = last is not None and plain in _plain(last.content)
    if not found and plain not in ("yes", "no"):
        return 0.0
    words = len(plain.split())
    return 1.0 if words <= 5 else 0.5 if words <= 10 else 0.0


@dataclass(frozen=True)
class Assessment:
    """A Challenger's conversation, read. ``parse`` is of all it wrote (spec Q9)."""

    format: FormatScore
    parse: TaskParse
    value: float


def assess(
    messages: Sequence[Message],
    num_searches: int,
    tool_format: ToolFormat,
    *,
    task_type: str = "",
    compat: Compat = OFF,
    strict_think: bool = False,
) -> Assessment:
    """Reads a Challenger's conversation.

    ``value`` is the format score F that counts: 0 where no task can be extracted, and
    with the reference answer's share for a short question.
    """
    score = format_score(
        messages, num_searches, tool_format, compat=compat, strict_think=strict_think
    )
    parse = parse_task(written_text(messages), tool_format, compat=compat)
    value = score.value if parse.valid else 0.0
    if task_type == SHORT:
        short = short_answer_score(messages)
        value = (3 * value + short) / 4 if short and value else 0.0
    return Assessment(score, parse, value)


def reward(
    config: ChallengerConfig,
    assessment: Assessment,
    *,
    rubrics: RubricsParse | None = None,
    gates: Mapping[str, int | None] | None = None,
    required_gates: int = 2,
    grades: Sequence[Sequence[float | None] | None] = (),
    matches: Sequence[bool] | None = None,
    min_coverage: float = 0.5,
    pad: float = 0.0,
) -> Reward:
    """The Challenger's reward (spec 9.2).

    Args:
      config: weights and the difficulty function.
      assessment: of ``assess``.
      rubrics: what the judge wrote; None if it was not asked.
      gates: the gates' scores; None or empty if none was asked.
      required_gates: least sum of them.
      grades: per rollout of the Solver its grades, or None: it gave no valid answer.
      matches: of a short question, per rollout whether its answer is right; takes the
        place of ``grades``.
      min_coverage: see ``judge.rubric_score``.
      pad: see ``judge.rubric_score``.
    """
    value_format, value_difficulty = assessment.value, 0.0
    mean, used = float("nan"), 0
    passed = gates_pass(gates or {}, required_gates if gates else 0)
    if not assessment.parse.valid:
        branch = "no task"
    elif value_format == 0:
        branch = "format score 0"
    elif rubrics is None or not rubrics.valid:
        branch, value_format = "no rubrics: format score set to 0", 0.0
    elif not passed:
        branch = "gates failed: no difficulty"
    elif matches is not None:
        branch, value_difficulty = "exact match", match_difficulty(matches)
        used = len(matches)
    else:
        n = len(rubrics.rubrics)
        sums = [
            total
            for rollout in grades
            if rollout is not None
            and (total := rubric_score(rollout, n, min_coverage=min_coverage, pad=pad))
            is not None
        ]
        branch, used = "graded" if sums else "no usable rollout", len(sums)
        if sums:
            mean = sum(sums) / len(sums)
            value_difficulty = difficulty(
                mean, n, kind=config.difficulty, target=config.difficulty_target
            )
            mean /= n
    value = (
        config.format_weight * value_format
        + config.difficulty_weight * value_difficulty
    )
    parts = {
        "format": value_format,
        "think": assessment.format.think,
        "tool": assessment.format.tool,
        "structure": assessment.format.structure,
        "difficulty": value_difficulty,
        "rubric_score": mean,
        "quality": float(passed and bool(rubrics and rubrics.valid)),
        **{f"gate_{name}": float(score or 0) for name, score in (gates or {}).items()},
    }
    trace: dict[str, Any] = {
        "branch": branch,
        "task": assessment.parse.task,
        "errors": [*assessment.parse.errors, *(rubrics.errors if rubrics else ())],
        "gates": dict(gates or {}),
        "usable_rollouts": used,
        "grades": [None if rollout is None else list(rollout) for rollout in grades],
    }
    return Reward(value, parts, trace)


def search_schedule(spec: str, rows: int, seed: int) -> list[int]:
    """How many searches each of ``rows`` prompts asks for (spec 3.3).

    Args:
      spec: ``"2"``: two for every row; ``"4:3:2"``: shares of one, two and three, by
        largest remainder, shuffled.
      rows: how many.
      seed: of the shuffle.
    """
    if not re.fullmatch(r"[0-9]{1,9}(:[0-9]{1,9})*", spec):
        raise UserError(
            f"challenger.schedule {spec!r}: not a number of searches or shares: "
            "write 2, or 4:3:2"
        )
    weights = [int(weight) for weight in spec.split(":")]
    if len(weights) == 1:
        return weights * rows
    total = sum(weights)
    if total == 0:
        raise UserError(f"challenger.schedule {spec!r}: all shares are 0: raise one")
    counts = [rows * weight // total for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda i: (-(rows * weights[i] % total), i)
    )
    for i in by_remainder[: rows - sum(counts)]:
        counts[i] += 1
    schedule = [n for n, count in enumerate(counts, 1) for _ in range(count)]
    random.Random(seed).shuffle(schedule)
    return schedule


def task_types(rows: int, seed: int, *, short_form_qa_ratio: float = 0.0) -> list[str]:
    """The task type of each of ``rows`` prompts (spec 3.2)."""
    rng = random.Random(seed)
    others = [name for name in TASK_TYPES if name != SHORT]
    return [
        # No draw is spent on a ratio of 0, so that the sequence is the reference's.
        SHORT
        if short_form_qa_ratio > 0 and rng.random() < short_form_qa_ratio
        else rng.choice(others)
        for _ in range(rows)
    ]
