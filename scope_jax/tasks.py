"""Stage 2: the trained Challenger writes tasks, the judge and the Solver sift them.

Spec 11. A batch of prompts is written to (``samples`` conversations each), what has the
right format is gated, given rubrics, attempted by the previous Solver and kept if its
mean score lies within the window. Every finished batch is a file, so that a stage that
was killed goes on with the next one; a batch is a function of seed and number only.
"""

import logging
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from rl import checkpoint
from scope_jax import challenger, judge
from scope_jax.documents import PromptRow, prompt_rows
from scope_jax.rewards import Rewards, attempt_json
from scope_jax.rollouts import Episode, Limits, converse
from scope_jax.run_folder import write_json_lines
from scope_jax.session import Session
from scope_jax.stages import challenger_spec, gather, solver_prompt_tokens
from scope_jax.task_file import read_tasks, write_tasks
from scope_jax.training import Progress, error_counts
from scope_jax.types import Task

log = logging.getLogger("scope_jax")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A task as written: by whom, for what, and the conversation that led to it."""

    uid: str
    row: PromptRow
    episode: Episode
    text: str


def task_seed(seed: int, iteration: int) -> int:
    """Seed of an iteration's task creation: 44, 46, 48 from 42 (spec 1.3)."""
    return seed + 2 * (iteration - 1) + 2


def create_tasks(session: Session, iteration: int) -> None:
    """Runs stage 2 of an iteration and writes its tasks."""
    config = session.config.tasks
    folder = session.folder
    session.serve_solver(iteration)
    _use_challenger(session, iteration)
    folder.record(f"iter_{iteration}/tasks", status="running")
    tasks: list[Task] = []
    batch = 1
    while batch <= config.max_batches and folder.task_batch(iteration, batch).exists():
        tasks += read_tasks(folder.task_batch(iteration, batch))
        batch += 1
    session.tracker.rewind(iteration, "tasks", batch - 1)
    with session.tracker.stage(
        iteration, "tasks", total=config.target, done=min(len(tasks), config.target)
    ) as bar:
        while batch <= config.max_batches and len(tasks) < config.target:
            compilations, started = session.compilations.count, time.monotonic()
            made = Batch(session, iteration, batch, wanted=config.target - len(tasks))
            kept = session.run(made.run(bar.inside))
            seconds = time.monotonic() - started
            metrics = made.metrics() | {
                "time/batch": seconds,
                "perf/compilations": float(session.compilations.count - compilations),
            }
            tokens = metrics["rollout/tokens"]
            metrics["perf/tokens_per_second"] = tokens / max(seconds, 1e-9)
            records = sorted(made.records, key=lambda record: record["uid"])
            write_json_lines(folder.rollouts(iteration, "tasks", batch), records)
            session.tracker.log(metrics, iteration=iteration, stage="tasks", step=batch)
            write_tasks(folder.task_batch(iteration, batch), kept)
            bar.advance(metrics, len(kept))
            tasks += kept
            batch += 1
    tasks = tasks[: config.target]
    if len(tasks) < config.target:
        log.warning(
            "iteration %d: %d of %d tasks after %d batches of %d prompts",
            iteration,
            len(tasks),
            config.target,
            batch - 1,
            config.prompts_per_batch,
        )
    write_tasks(folder.tasks(iteration), tasks)
    folder.record(f"iter_{iteration}/tasks", status="done", tasks=len(tasks))


def _use_challenger(session: Session, iteration: int) -> None:
    """Puts this iteration's Challenger on the trainer's own engine."""
    updater = session.updater("challenger")
    state, _, _ = checkpoint.restore(
        session.folder.checkpoints(iteration, "challenger"), updater.abstract_state()
    )
    session.use_policy(updater.policy_params(state))


class Batch:
    """One batch of prompts, from documents to tasks that are kept."""

    def __init__(self, session: Session, iteration: int, number: int, *, wanted: int):
        self._session, self._wanted = session, wanted
        self._iteration, self._number = iteration, number
        self._rewards = Rewards(session, "tasks")
        self._outcomes: Counter[str] = Counter()
        self._errors: list[str] = []
        self._difficulties: list[float] = []
        self._tokens = 0
        self.records: list[dict] = []

    async def run(self, inside) -> list[Task]:
        """The tasks that are kept, in row order, at most as many as are wanted."""
        config = self._session.config.tasks
        candidates = await self._write(lambda n, of: inside("tasks written", n, of))
        kept: list[Task] = []
        per_prompt: Counter[int] = Counter()
        for start in range(0, len(candidates), config.sub_batch):
            sub_batch = candidates[start : start + config.sub_batch]
            sifted = await gather(
                map(self._sift, sub_batch),
                lambda n, of: inside("tasks sifted", n, of),
            )
            for candidate, task in zip(sub_batch, sifted, strict=True):
                if task is None:
                    continue
                if per_prompt[candidate.row.index] >= config.max_per_document:
                    self._outcomes["another_of_its_prompt"] += 1
                    continue
                if len(kept) < self._wanted:
                    per_prompt[candidate.row.index] += 1
                    kept.append(task)
            if len(kept) >= self._wanted:
                break
        self._outcomes["kept"] = len(kept)
        return kept

    def metrics(self) -> dict[str, float]:
        """How many candidates went which way, and how hard they were."""
        found = {
            f"tasks/{name}": float(self._outcomes[name])
            for name in (
                "written",
                "kept",
                "bad_format",
                "too_long",
                "gates_failed",
                "no_rubrics",
                "too_hard",
                "too_easy",
                "another_of_its_prompt",
            )
        }
        found["rollout/tokens"] = float(self._tokens)
        found |= error_counts(self._errors)
        if self._difficulties:
            # sorted: they arrive in any order, and a sum of floats depends on it
            found["reward/rubric_score"] = float(np.mean(sorted(self._difficulties)))
        return found

    async def _write(self, progress: Progress) -> list[Candidate]:
        """Conversations of every prompt; those of the right format, in row order."""
        session, config = self._session, self._session.config
        rows = prompt_rows(
            session.passages,
            session.renderer,
            rows=config.tasks.prompts_per_batch,
            seed=task_seed(config.seed, self._iteration),
            # a batch of its own draws: the reference repeats them (spec Q25)
            draw_seed=task_seed(config.seed, self._iteration) + self._number - 1,
            offset=config.tasks.prompts_per_batch * (self._number - 1),
            config=config,
        )
        limits = Limits(
            context=config.tasks.max_context_tokens,
            response=config.tasks.max_context_tokens,
        )

        async def play(row: PromptRow, sample: int) -> Candidate | None:
            parts = (self._iteration, "tasks", self._number, row.index, sample)
            uid = "/".join(map(str, parts))
            episode = await converse(
                challenger_spec(session, "task", row.searches, config.tasks.max_turns),
                session.prompts.challenger(
                    row.document.text, row.task_type, row.searches
                ),
                complete=session.policy,
                search=session.search,
                renderer=session.renderer,
                sampling=config.tasks.sampling,
                limits=limits,
                uid=uid,
                seed=(config.seed, *parts),
            )
            self._tokens += episode.sampled_tokens
            found = challenger.assess(
                episode.state.episode,
                row.searches,
                config.tool_format,
                task_type=row.task_type,
                compat=config.compat,
                strict_think=True,
            )
            score = found.format
            self._errors += found.errors
            if score.tool < 1 or score.structure < 1 or not found.parse.valid:
                self._outcomes["bad_format"] += 1
                self.records.append(
                    {
                        "uid": uid,
                        "type": row.task_type,
                        "outcome": "bad_format",
                        "format": vars(score),
                        "errors": list(found.errors),
                        "messages": list(episode.state.messages),
                    }
                )
                return None
            return Candidate(uid=uid, row=row, episode=episode, text=found.parse.task)

        played = await gather(
            (play(row, s) for row in rows for s in range(config.tasks.samples)),
            progress,
        )
        self._outcomes["written"] = len(played)
        return [candidate for candidate in played if candidate is not None]

    async def _sift(self, candidate: Candidate) -> Task | None:
        """The task with rubrics and difficulty, or None if it is not to be kept."""
        config, row, text = self._session.config, candidate.row, candidate.text
        seed = (config.seed, *candidate.uid.split("/"))
        outcome, task = "too_long", None
        limit = config.solver_train.max_prompt_tokens
        record: dict = {
            "uid": candidate.uid,
            "task": text,
            "type": row.task_type,
            "messages": list(candidate.episode.state.messages),
        }
        gates: dict[str, int | None] = {}
        if solver_prompt_tokens(self._session, text) <= limit:
            outcome = "gates_failed"
            gates = await self._rewards.gates(text, row.document.text, seed)
            record["gates"] = gates
            self._errors += judge.unreadable_gates(gates)
        if gates and judge.gates_pass(gates, config.judge.required_gates):
            documents = judge.documents_text(
                row.document.text, candidate.episode.state.passages
            )
            parse, raw = await self._rewards.rubrics(
                text, row.task_type, documents, seed
            )
            outcome = "no_rubrics"
            record["rubrics"] = raw
            self._errors += parse.errors
            if parse.valid:
                outcome, task = await self._measure(
                    candidate, parse.rubrics, gates, seed, record
                )
        self._outcomes[outcome] += 1
        self.records.append(record | {"outcome": outcome})
        return task

    async def _measure(self, candidate, rubrics, gates, seed, record):
        """Difficulty from the previous Solver's attempts; the task if in the window."""
        config = self._session.config
        attempts = await self._rewards.attempts(
            candidate.text, rubrics, config.tasks.solver_rollouts, seed
        )
        sums = [
            total
            for attempt in attempts
            if attempt.scores is not None
            and (
                total := judge.rubric_score(
                    attempt.scores,
                    len(rubrics),
                    min_coverage=config.judge.min_coverage,
                    pad=config.judge.pad,
                )
            )
            is not None
        ]
        mean = sum(sums) / len(sums) if sums else 0.0
        difficulty = challenger.difficulty(mean, len(rubrics), kind="normalized")
        self._difficulties.append(difficulty)
        record["attempts"] = [attempt_json(attempt) for attempt in attempts]
        record["difficulty"] = difficulty
        if difficulty < config.tasks.low:
            return "too_hard", None
        if difficulty > config.tasks.high:
            return "too_easy", None
        row = candidate.row
        return "in_window", Task(
            uid=candidate.uid,
            type=row.task_type,
            text=candidate.text,
            document=row.document,
            searches=row.searches,
            rubrics=tuple(rubrics),
            gate_scores=gates,
            difficulty=difficulty,
            trace={"usable_rollouts": len(sums), "attempts": record["attempts"]},
        )
