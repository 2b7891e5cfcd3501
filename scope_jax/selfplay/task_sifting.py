"""Task creation, second half: judge and previous Solver sift candidates (spec 11.4).

Many candidates at a time are gated, given rubrics, attempted and graded; what is kept
is decided in prompt order, so it never depends on which answer arrives first.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scope_jax.method import judge
from scope_jax.method.judge import RubricsParse
from scope_jax.method.outcomes import Outcome, outcome_line
from scope_jax.method.rubric_quality import quality
from scope_jax.method.types import Task
from scope_jax.selfplay.attempts import mean_score, play_attempts
from scope_jax.selfplay.checking import check_task
from scope_jax.selfplay.judging import Judging
from scope_jax.selfplay.task_writing import Candidate
from scope_jax.selfplay.training import Progress
from scope_jax.selfplay.world import World


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one candidate.

    Attributes:
      outcome: "kept", or why not.
      record: how that was found, for people.
      errors: classes of errors in what the judge wrote.
      task: of a candidate that is kept.
      difficulty: the previous Solver's mean score, if it was measured.
    """

    outcome: Outcome
    record: dict[str, Any]
    errors: tuple[str, ...] = ()
    task: Task | None = None
    difficulty: float | None = None


async def sift(
    world: World,
    candidates: Sequence[Candidate],
    wanted: int,
    progress: Progress,
) -> list[Verdict]:
    """Verdicts in prompt order, up to the candidate with which ``wanted`` are kept.

    ``tasks.sub_batch`` candidates are in progress at any time; those still in progress
    when the last one is found are cancelled.
    """
    config = world.config.tasks
    judging = Judging(world, "tasks")
    places, finished = asyncio.Semaphore(config.sub_batch), 0

    async def one(candidate: Candidate) -> Verdict:
        nonlocal finished
        async with places:
            verdict = await _verdict(world, judging, candidate)
        finished += 1
        progress(finished, len(candidates))
        return verdict

    verdicts: list[Verdict] = []
    kept: Counter[int] = Counter()  # of each prompt
    running = [asyncio.create_task(one(candidate)) for candidate in candidates]
    try:
        for candidate, task in zip(candidates, running, strict=True):
            if kept.total() >= wanted:
                break
            verdict = await task
            if verdict.task and kept[candidate.prompt.index] >= config.max_per_document:
                verdict = replace(verdict, outcome="another_of_its_prompt", task=None)
            kept[candidate.prompt.index] += verdict.task is not None
            verdicts.append(_explained(verdict, (config.low, config.high)))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return verdicts


def _explained(verdict: Verdict, window: tuple[float, float]) -> Verdict:
    """The verdict with its outcome, and the reason, in its record."""
    why = outcome_line(verdict.outcome, difficulty=verdict.difficulty, window=window)
    record = verdict.record | {"why": [*verdict.record["why"], why]}
    return replace(verdict, record=record | {"outcome": verdict.outcome})


async def _verdict(world: World, judging: Judging, candidate: Candidate) -> Verdict:
    """Length, gates, rubrics, checks, difficulty of a candidate, as far as needed."""
    config, prompt, text = world.config, candidate.prompt, candidate.text
    seed = (config.seed, *candidate.uid.split("/"))
    why: list[str] = []
    record: dict[str, Any] = {
        "uid": candidate.uid,
        "why": why,
        "task": text,
        "document": prompt.document.title,
        "type": prompt.task_type,
        "asked_searches": prompt.searches,
        "messages": list(candidate.messages),
    }
    if world.solver_prompt_tokens(text) > config.solver_train.max_prompt_tokens:
        return Verdict(outcome="too_long", record=record)
    gates, record["gates_raw"] = await judging.gates(
        text, prompt.task_type, prompt.document.text, seed
    )
    record["gates"] = gates
    why += judge.gates_lines(gates, config.judge)
    if not judge.gates_pass(gates, config.judge.required_gates):
        errors = tuple(judge.unreadable_gates(gates))
        return Verdict(outcome="gates_failed", record=record, errors=errors)
    documents = judge.documents_text(prompt.document.text, candidate.passages)
    parse, raw = await judging.rubrics(text, prompt.task_type, documents, seed)
    record["rubrics"] = [rubric.text for rubric in parse.rubrics]
    record["rubrics_raw"] = raw
    why.append(judge.rubrics_line(parse))
    if not parse.valid:
        return Verdict(outcome="no_rubrics", record=record, errors=parse.errors)
    found = (prompt.document.text, *candidate.passages)
    checks = await check_task(
        world, judging, text, parse, found, seed, target=candidate.target
    )
    if checks:
        why += [check.line for check in checks]
        record["checks"] = {check.name: check.value for check in checks}
        record["evidence"] = list(parse.evidence)
    if not all(check.passed for check in checks):
        return Verdict(outcome="checks_failed", record=record)
    return await _measured(world, judging, candidate, parse, gates, record)


async def _measured(
    world: World,
    judging: Judging,
    candidate: Candidate,
    parse: RubricsParse,
    gates: dict[str, int | None],
    record: dict[str, Any],
) -> Verdict:
    """How hard a candidate is that has passed everything else."""
    config, why = world.config, record["why"]
    attempts = await play_attempts(
        world,
        judging,
        candidate.text,
        parse.rubrics,
        config.tasks.solver_rollouts,
        (config.seed, *candidate.uid.split("/")),
        target=candidate.target,
    )
    why += judge.attempts_lines(
        [attempt.scores for attempt in attempts],
        [attempt.match for attempt in attempts],
        config.judge,
    )
    score, used = mean_score(attempts, len(parse.rubrics), config.judge)
    shown = [attempt.json() for attempt in attempts]
    found = quality(parse.rubrics, [attempt.scores for attempt in attempts])
    known = {name: value for name, value in found.items() if math.isfinite(value)}
    record |= {"attempts": shown, "difficulty": score, "rubric_quality": known}
    if score < config.tasks.low:
        return Verdict(outcome="too_hard", record=record, difficulty=score)
    if score > config.tasks.high:
        return Verdict(outcome="too_easy", record=record, difficulty=score)
    task = candidate.task(
        rubrics=parse.rubrics,
        gate_scores=gates,
        difficulty=score,
        trace={"usable_rollouts": used, "attempts": shown},
    )
    return Verdict(outcome="kept", record=record, task=task, difficulty=score)
