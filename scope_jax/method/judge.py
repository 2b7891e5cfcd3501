"""The judge: what it is asked, how its output is parsed, what the verdicts add up to.

Rubrics, gates and grades (spec 6, 7, 8). Unlike the reference, a verdict is read after
the last closed thinking block, and an unclosed block makes the output unreadable
(``Compat.verdicts_in_thinking`` turns that off). The calls are made elsewhere.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from models.errors import UserError
from models.ranges import TEMPERATURE, Count, CountOrZero, Share, check_fields
from scope_jax.method import formats, rubric_quality
from scope_jax.method.compat import OFF, Compat
from scope_jax.method.formats import Message
from scope_jax.method.judge_bias import JudgeBias
from scope_jax.method.prompts import GATES, PromptSet
from scope_jax.method.rubric_weights import RubricWeights
from scope_jax.method.types import Rubric

MIN_RUBRICS, MAX_RUBRICS = 3, 10
Stage = Literal["challenger", "tasks", "solver"]


@dataclass(frozen=True, kw_only=True)
class StageTemperatures:
    """Temperature of grading, by what the grades are for."""

    challenger: Annotated[float, TEMPERATURE] = 0.0
    """Stage 1: difficulty of a Challenger's task."""
    tasks: Annotated[float, TEMPERATURE] = 0.0
    """Stage 2: difficulty of a task to keep or drop."""
    solver: Annotated[float, TEMPERATURE] = 0.6
    """Stage 3: reward of a Solver, and evaluation."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Judge: sampling of its calls, and how its verdicts are added up."""

    thinking: bool = False
    """The judge is a thinking model (Qwen3): grading asks for plain reasoning."""
    grade_temperature: StageTemperatures = StageTemperatures()
    """Sampling temperature of grades, by stage."""
    rubric_temperature: Annotated[float, TEMPERATURE] = 0.0
    """Sampling temperature of rubric writing."""
    gate_temperature: Annotated[float, TEMPERATURE] = 0.0
    """Sampling temperature of the quality gates."""
    grade_tokens: Count = 16384
    """Most new tokens of a grade."""
    rubric_tokens: Count = 8192
    """Most new tokens of rubric writing in Challenger training."""
    rubric_tokens_tasks: Count = 16384
    """Most new tokens of rubric writing in task creation."""
    gate_tokens: Count = 256
    """Most new tokens of a gate; 1024 for a thinking judge."""
    votes: Count = 1
    """k, verdicts asked for each grade, whose mean it is; where the temperature is 0
    they would all be the same, and one is asked."""
    retry: bool = True
    """Ask once more, in the same conversation, for a grade that could not be read."""
    min_coverage: Share = 0.5
    """An answer with a smaller share of readable grades is discarded."""
    pad: Share = 0.0
    """Value of an unreadable grade of an answer that is not discarded."""
    gates: tuple[str, ...] = ("entity", "source_relevance")
    """Quality gates a task must pass."""
    required_gates: CountOrZero = 2
    """Smallest sum of the gates' scores that passes; at most the number of gates."""
    weights: RubricWeights = RubricWeights()
    """How much each rubric counts in the Solver's reward."""
    drop_duplicates: bool = False
    """Leave out rubrics that say the same as one before; the task must keep 3."""
    evidence: Share = 0.0
    """Share of a task's rubrics whose evidence, which the writer of rubrics is then
    asked to quote, must stand word for word in the document or the search results; 0
    asks for none. The small world's judge cannot quote."""
    answerable: Share = 0.0
    """Score that the judge itself must reach on a task with the document, the search
    results and `distractors` other documents before it; 0 does not ask. SSP has 0.5."""
    distractors: CountOrZero = 4
    """Documents of other subjects among those that it answers from."""
    answer_tokens: Count = 2048
    """Most new tokens of an answer of the judge's own."""
    bias: JudgeBias = JudgeBias()
    """What makes it count rubrics as met that are not, to study reward hacking."""

    def __post_init__(self):
        check_fields(self)
        if unknown := [name for name in self.gates if name not in GATES]:
            known = ", ".join(GATES)
            raise UserError(f"gates={unknown[0]}: no such gate: use any of {known}")
        if self.required_gates > (most := len(set(self.gates))):
            raise UserError(
                f"required_gates={self.required_gates}: exceeds the number of gates, "
                f"{most}, so no task could pass: set it to {most} or less"
            )


DEFAULT = JudgeConfig()
"""The judge with the reference's settings."""


@dataclass(frozen=True)
class RubricsParse:
    """The rubrics that a judge wrote; ``errors`` say why they cannot be used.

    ``evidence`` has one quotation per rubric, empty where there is none.
    """

    valid: bool
    rubrics: tuple[Rubric, ...]
    errors: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


def documents_text(source: str, passages: Sequence[str]) -> str:
    """What a rubric writer is shown: the source document, then what was retrieved."""
    blocks = [block.strip() for block in (source, *passages)]
    return "\n\n---\n\n".join(block for block in blocks if block)


def grade_prompts(
    prompts: PromptSet,
    task: str,
    answer: str,
    rubrics: Sequence[Rubric],
    *,
    thinking: bool = False,
) -> list[tuple[Message, ...]]:
    """One conversation per rubric, each asking for the grade of ``answer`` on it."""
    return [
        prompts.grade(task, answer, f"{number}. {rubric.text}", thinking=thinking)
        for number, rubric in enumerate(rubrics, 1)
    ]


def verdict_text(text: str, compat: Compat) -> str | None:
    """The part of a judge's output that may hold its verdict; None if there is none."""
    return text if compat.verdicts_in_thinking else formats.after_thinking(text)


_PRIORITY = re.compile(r"\bpriority=[\"']?([^\"'>\s]+)[\"']?")
_EVIDENCE = re.compile(r"\bevidence=\"([^\"]*)\"")
_WORD = re.compile(r"\w")


def parse_rubrics(text: str, *, compat: Compat = OFF) -> RubricsParse:
    """Reads ``<rubrics>`` (spec 6): 3 to 10, none blank; priorities as written."""
    verdict = verdict_text(text, compat)
    if verdict is None:
        return RubricsParse(False, (), ("unclosed thinking block",))
    block = formats.first_pair(verdict, "rubrics")
    if block is None:
        return RubricsParse(False, (), ("no closed rubrics block",))
    # One too many is enough to know that there are too many.
    found = tuple(itertools.islice(_rubrics(block.content), MAX_RUBRICS + 1))
    rubrics = tuple(rubric for rubric, _ in found)
    errors = []
    if any(not rubric.text for rubric in rubrics):
        errors.append("blank rubric")
    if len(rubrics) < MIN_RUBRICS:
        errors.append("too few rubrics")
    if len(rubrics) > MAX_RUBRICS:
        errors.append("too many rubrics")
    evidence = tuple(quoted for _, quoted in found)
    return RubricsParse(not errors, rubrics, tuple(errors), evidence)


def without_duplicates(parse: RubricsParse) -> RubricsParse:
    """The rubrics, each once; too few of them are unusable, as always."""
    if not parse.valid:
        return parse
    kept = rubric_quality.without_duplicates(parse.rubrics)
    evidence = dict(zip(parse.rubrics[::-1], parse.evidence[::-1], strict=True))
    errors = () if len(kept) >= MIN_RUBRICS else ("too few different rubrics",)
    return RubricsParse(not errors, kept, errors, tuple(evidence[one] for one in kept))


def _rubrics(block: str) -> Iterator[tuple[Rubric, str]]:
    """Every ``<rubric\\b([^>]*)>(.*?)</rubric>`` of ``block``, and its evidence."""
    opening, closing = "<rubric", "</rubric>"
    position = 0
    while (start := block.find(opening, position)) >= 0:
        position = start + len(opening)
        if _WORD.match(block, position):  # <rubrics>, not <rubric ..>
            continue
        inside = block.find(">", position)
        close = block.find(closing, inside + 1) if inside >= 0 else -1
        if close < 0:
            return
        priority = _PRIORITY.search(block[position:inside])
        evidence = _EVIDENCE.search(block[position:inside])
        text = block[inside + 1 : close].strip()
        rubric = Rubric(text, priority[1] if priority else None)
        yield rubric, evidence[1].strip() if evidence else ""
        position = close + len(closing)


_SCORE = re.compile(r"<score>\s*+([\d.]++)\s*+</score>")
_GATE = re.compile(r"<score>\s*+(0|1)\s*+</score>")


def parse_grade(text: str, *, compat: Compat = OFF) -> float | None:
    """Reads one grade, 0, 0.5 or 1 (spec 7); None if there is none to read."""
    verdict = verdict_text(text, compat)
    if verdict is None:
        return None
    if match := _SCORE.search(verdict):
        return _score(match[1])
    if span := formats.first_pair(verdict, "scores"):
        return _score(span.content)
    return _score(formats.strip_closed_thinking(verdict))


def _score(text: str) -> float | None:
    stripped = text.strip()
    if not re.fullmatch(r"[\d.]+", stripped):  # float() takes signs, nan and more
        return None
    try:
        value = float(stripped)
    except ValueError:
        return None
    return value if value in (0.0, 0.5, 1.0) else None


def parse_gate(text: str, *, compat: Compat = OFF) -> int | None:
    """Reads a gate's verdict, the first score that is 0 or 1 (spec 8)."""
    verdict = verdict_text(text, compat)
    match = _GATE.search(verdict) if verdict is not None else None
    return int(match[1]) if match else None


def parse_answer(text: str) -> str:
    """The judge's own answer to a task: its last ``<answer>``; empty if there is none.

    What its thinking drafts does not count.
    """
    said = formats.after_thinking(text)
    found = formats.last_pair(said, "answer") if said is not None else None
    return found.content.strip() if found else ""


def gates_pass(scores: Mapping[str, int | None], required: int) -> bool:
    """Whether every gate's score could be read and they sum to ``required``."""
    readable = [score for score in scores.values() if score is not None]
    return len(readable) == len(scores) and sum(readable) >= required


def vote(scores: Sequence[float | None]) -> float | None:
    """A grade from k verdicts on the same answer: the mean of those that can be read.

    Formula:
      s = mean of the k sampled verdicts that can be read

    References:
      SPCT (arXiv 2504.02495), its vote without a meta reward model
    """
    read = [score for score in scores if score is not None]
    return sum(read) / len(read) if read else None


def unreadable_gates(scores: Mapping[str, int | None]) -> list[str]:
    """A class of error for each gate whose verdict could not be read."""
    return [
        f"unreadable gate {name}" for name, score in scores.items() if score is None
    ]


def rubric_score(
    grades: Sequence[float | None], n_rubrics: int, config: JudgeConfig = DEFAULT
) -> float | None:
    """The sum S of an answer's grades (spec 7), or None: too few could be read."""
    read = [grade for grade in grades if grade is not None][:n_rubrics]
    if not read or len(read) / n_rubrics < config.min_coverage:
        return None
    return sum(read) + (n_rubrics - len(read)) * config.pad


# Lines of a reward's or a task's explanation ------------------------------------------


def rubrics_line(rubrics: RubricsParse) -> str:
    """How many rubrics the judge wrote, or why they are unusable."""
    if rubrics.valid:
        return f"rubrics: {len(rubrics.rubrics)} written by the judge"
    return f"rubrics: unusable ({'; '.join(rubrics.errors)})"


def gates_lines(gates: Mapping[str, int | None], config: JudgeConfig) -> list[str]:
    """One line with every gate's score and the verdict; none if no gate was asked."""
    if not gates:
        return []
    shown = ", ".join(
        f"{name} {'unreadable' if score is None else score}"
        for name, score in gates.items()
    )
    total, needed = sum(score or 0 for score in gates.values()), config.required_gates
    if None in gates.values():
        verdict = "an unreadable one fails"
    else:
        verdict = "passed" if total >= needed else "failed"
    return [f"gates: {shown}: sum {total} of {needed} needed: {verdict}"]


def attempts_lines(
    grades: Sequence[Sequence[float | None] | None],
    matches: Sequence[bool | None],
    config: JudgeConfig,
) -> list[str]:
    """One line per difficulty rollout of the previous Solver.

    Args:
      grades: per rollout, None where there is nothing to grade.
      matches: per rollout, whether its answer is the known one; None where there is no
        answer, or none is known.
      config: how unreadable grades count.
    """
    lines = []
    for number, (given, match) in enumerate(itertools.zip_longest(grades, matches), 1):
        if match is not None:
            found = f"answer {'right' if match else 'wrong'}"
        elif given is None:
            found = "left out: no valid answer"
        else:
            found = met_line(given, config)
        lines.append(f"Solver rollout {number}: {found}")
    return lines


def met_line(
    grades: Sequence[float | None], config: JudgeConfig, score: float | None = None
) -> str:
    """Rubrics met, how unreadable grades count (spec 7), and the ``score`` if given."""
    read = [grade for grade in grades if grade is not None]
    line = f"{sum(read):.4g} of {len(grades)} met"
    if len(read) < len(grades):
        line += f", {len(grades) - len(read)} unreadable"
        if not read or len(read) / len(grades) < config.min_coverage:
            return f"{line}: left out, too few are readable"
        line += f" (counted {config.pad:.4g} each)"
    return line if score is None else f"{line}: score {score:.4g}"
