"""Task creation, second half: judge and previous Solver sift what was written (11.4).

Candidates are gated, given rubrics, attempted and graded many at a time, and judged in
row order: what is kept depends on that order only, never on who answers first.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scope_jax import challenger, explain, judge
from scope_jax.rewards import Attempt, Rewards, attempt_json
from scope_jax.session import Session
from scope_jax.stages import solver_prompt_tokens
from scope_jax.task_writing import Candidate
from scope_jax.training import Progress
from scope_jax.types import Rubric, Task


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one candidate; ``task`` if it is within the window."""

    outcome: explain.Outcome
    record: dict[str, Any]
    errors: tuple[str, ...] = ()
    task: Task | None = None
    difficulty: float | None = None


@dataclass(frozen=True, kw_only=True)
class Sifted:
    """What became of a batch, up to the candidate that met the target.

    Attributes:
      kept: tasks, in row order.
      records: one per candidate that was looked at, for people.
      outcomes: how many went which way.
      difficulties: of those that were measured, in row order.
      errors: classes of errors in what the judge wrote.
    """

    kept: tuple[Task, ...]
    records: tuple[dict[str, Any], ...]
    outcomes: Counter[str]
    difficulties: tuple[float, ...]
    errors: tuple[str, ...]


async def sift(
    session: Session,
    candidates: Sequence[Candidate],
    wanted: int,
    progress: Progress,
) -> Sifted:
    """The first ``wanted`` candidates, in row order, that pass everything.

    ``tasks.sub_batch`` of them are under way at any time; those still under way when
    the last one is found are called off.
    """
    config = session.config.tasks
    sifter = Sifter(session)
    places, finished = asyncio.Semaphore(config.sub_batch), 0

    async def one(candidate: Candidate) -> Verdict:
        nonlocal finished
        async with places:
            verdict = await sifter.verdict(candidate)
        finished += 1
        progress(finished, len(candidates))
        return verdict

    kept: list[Task] = []
    records: list[dict[str, Any]] = []
    outcomes: Counter[str] = Counter()
    difficulties: list[float] = []
    errors: list[str] = []
    per_prompt: Counter[int] = Counter()
    running = [asyncio.create_task(one(candidate)) for candidate in candidates]
    try:
        for candidate, task in zip(candidates, running, strict=True):
            if len(kept) >= wanted:
                break
            verdict = await task
            outcome, record = verdict.outcome, verdict.record
            errors += verdict.errors
            if verdict.difficulty is not None:
                difficulties.append(verdict.difficulty)
            if verdict.task is not None:
                prompt = candidate.row.index
                if per_prompt[prompt] < config.max_per_document:
                    per_prompt[prompt] += 1
                    kept.append(verdict.task)
                else:
                    outcome = "another_of_its_prompt"
            window = (config.low, config.high)
            why = explain.task_lines(
                outcome, difficulty=verdict.difficulty, window=window
            )
            record["why"] += why
            outcomes[outcome] += 1
            records.append(record | {"outcome": outcome})
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return Sifted(
        kept=tuple(kept),
        records=tuple(records),
        outcomes=outcomes,
        difficulties=tuple(difficulties),
        errors=tuple(errors),
    )


class Sifter:
    """Measures one candidate after another way, on behalf of one stage."""

    def __init__(self, session: Session):
        self._session, self._config = session, session.config
        self._rewards = Rewards(session, "tasks")

    async def verdict(self, candidate: Candidate) -> Verdict:
        """Length, gates, rubrics and difficulty of one candidate, as far as needed."""
        row, text = candidate.row, candidate.text
        seed = (self._config.seed, *candidate.uid.split("/"))
        record: dict[str, Any] = {
            "uid": candidate.uid,
            "why": [],
            "task": text,
            "type": row.task_type,
            "asked_searches": row.searches,
            "messages": list(candidate.messages),
        }
        limit = self._config.solver_train.max_prompt_tokens
        if solver_prompt_tokens(self._session, text) > limit:
            return Verdict(outcome="too_long", record=record)
        gates, record["gates_raw"] = await self._rewards.gates(
            text, row.task_type, row.document.text, seed
        )
        record["gates"] = gates
        record["why"] += explain.gates_lines(gates, self._config.judge)
        if not judge.gates_pass(gates, self._config.judge.required_gates):
            errors = tuple(judge.unreadable_gates(gates))
            return Verdict(outcome="gates_failed", record=record, errors=errors)
        parse, raw = await self._rewards.rubrics(
            text,
            row.task_type,
            judge.documents_text(row.document.text, candidate.passages),
            seed,
        )
        record["rubrics"] = [rubric.text for rubric in parse.rubrics]
        record["rubrics_raw"] = raw
        record["why"].append(explain.rubrics_line(parse))
        if not parse.valid:
            return Verdict(outcome="no_rubrics", record=record, errors=parse.errors)
        attempts = await self._rewards.attempts(
            text,
            parse.rubrics,
            self._config.tasks.solver_rollouts,
            seed,
            target=candidate.target,
        )
        return self._measured(candidate, parse.rubrics, gates, attempts, record)

    def _measured(
        self,
        candidate: Candidate,
        rubrics: Sequence[Rubric],
        gates: dict[str, int | None],
        attempts: Sequence[Attempt],
        record: dict[str, Any],
    ) -> Verdict:
        """Whether the previous Solver's mean score lies within the window."""
        config = self._config.tasks
        shown = [attempt_json(attempt) for attempt in attempts]
        score, used = self._mean_score(attempts, len(rubrics))
        record["attempts"] = shown
        record["difficulty"] = score
        record["why"] += explain.attempts_lines(attempts, self._config.judge)
        if score < config.low:
            return Verdict(outcome="too_hard", record=record, difficulty=score)
        if score > config.high:
            return Verdict(outcome="too_easy", record=record, difficulty=score)
        task = Task(
            uid=candidate.uid,
            type=candidate.row.task_type,
            text=candidate.text,
            document=candidate.row.document,
            searches=candidate.row.searches,
            rubrics=tuple(rubrics),
            gate_scores=gates,
            difficulty=score,
            target=candidate.target,
            trace={"usable_rollouts": used, "attempts": shown},
        )
        return Verdict(outcome="kept", record=record, task=task, difficulty=score)

    def _mean_score(
        self, attempts: Sequence[Attempt], n_rubrics: int
    ) -> tuple[float, int]:
        """Mean score of the rollouts that count, 0 if none does, and their number.

        Of a question whose answer is known: the share of right answers.
        """
        judged = self._config.judge
        matches = [attempt.match for attempt in attempts if attempt.match is not None]
        if matches:
            return sum(matches) / len(matches), len(matches)
        sums = challenger.usable_sums(
            [attempt.scores for attempt in attempts],
            n_rubrics,
            min_coverage=judged.min_coverage,
            pad=judged.pad,
        )
        mean = sum(sums) / len(sums) if sums else 0.0
        return challenger.difficulty(mean, n_rubrics, kind="normalized"), len(sums)
