"""What a reward needs of the judge and of the previous Solver: who is asked, and when.

The rules are in ``challenger``, ``solver`` and ``judge``; here are the calls between
them (spec 9.2, 10, 11.4). All calls of one rollout that can run together do.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rl.sampling import seed64
from scope_jax import challenger, explain, judge, solver
from scope_jax.conversation import ConversationSpec
from scope_jax.documents import PromptRow
from scope_jax.formats import Reward
from scope_jax.judge import RubricsParse, Stage
from scope_jax.rollouts import Episode, Limits, converse
from scope_jax.session import Session
from scope_jax.types import Grade, Rubric, Task

Seed = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One difficulty rollout of the previous Solver, graded.

    ``grades`` is None where there was no valid answer to grade; ``match`` says whether
    a valid answer is the known one, where one is known and the judge is not asked.
    """

    answer: str
    grades: tuple[Grade, ...] | None
    searches: int
    turns: int
    finish: str
    match: bool | None = None

    @property
    def scores(self) -> tuple[float | None, ...] | None:
        """The grades' scores, None for an unreadable one."""
        return None if self.grades is None else tuple(g.score for g in self.grades)


class Rewards:
    """Asks judge and previous Solver on behalf of one stage."""

    def __init__(self, session: Session, stage: Stage):
        self._session, self._stage = session, stage
        self._config = session.config
        self._encode = session.renderer.encode_text
        self._decode = session.renderer.decode

    # --- the judge's three jobs ---------------------------------------------------

    async def rubrics(
        self, task: str, task_type: str, documents: str, seed: Seed
    ) -> tuple[RubricsParse, str]:
        """Rubrics for a task, and the judge's own words."""
        config = self._config.judge
        raw = await self._session.ask_judge(
            self._session.prompts.rubric(self._shown(task), task_type, documents),
            temperature=config.rubric_temperature,
            max_tokens=config.rubric_tokens_tasks
            if self._stage == "tasks"
            else config.rubric_tokens,
            seed64=seed64(*seed, "rubrics"),
        )
        return judge.parse_rubrics(raw, compat=self._config.compat), raw

    async def gates(
        self, task: str, task_type: str, document: str, seed: Seed
    ) -> tuple[dict[str, int | None], dict[str, str]]:
        """Every gate's score, None where it can't be read, and the judge's words."""
        config = self._config.judge
        short = task_type == challenger.SHORT and self._stage == "challenger"

        async def ask(name: str) -> tuple[int | None, str]:
            if short and name == "source_relevance":  # spec 8: passes by itself
                return 1, ""
            raw = await self._session.ask_judge(
                self._session.prompts.gate(name, task=task, document=document),
                temperature=config.gate_temperature,
                max_tokens=config.gate_tokens,
                seed64=seed64(*seed, "gate", name),
            )
            return judge.parse_gate(raw, compat=self._config.compat), raw

        asked = dict(
            zip(
                config.gates,
                await asyncio.gather(*map(ask, config.gates)),
                strict=True,
            )
        )
        return (
            {name: score for name, (score, _) in asked.items()},
            {name: raw for name, (_, raw) in asked.items()},
        )

    async def grade(
        self, task: str, answer: str, rubrics: Sequence[Rubric], seed: Seed
    ) -> tuple[Grade, ...]:
        """One grade per rubric; an unreadable one is asked for once more (spec 7)."""
        config, compat = self._config.judge, self._config.compat
        conversations = judge.grade_prompts(
            self._session.prompts,
            self._shown(task),
            answer,
            rubrics,
            thinking=config.thinking,
        )

        async def ask(number: int, messages: Sequence[dict[str, Any]]) -> Grade:
            async def once(messages: Sequence[dict[str, Any]], attempt: int) -> str:
                return await self._session.ask_judge(
                    messages,
                    temperature=getattr(config.grade_temperature, self._stage),
                    max_tokens=config.grade_tokens,
                    seed64=seed64(*seed, "grade", number, attempt),
                )

            raw = await once(messages, 0)
            score = judge.parse_grade(raw, compat=compat)
            if score is not None or not config.retry:
                return Grade(score=score, raw=raw)
            again = self._session.prompts.grade_retry(messages, raw)
            first, raw = raw, await once(again, 1)
            score = judge.parse_grade(raw, compat=compat)
            return Grade(score=score, raw=raw, retried=True, first_raw=first)

        return tuple(
            await asyncio.gather(*(ask(i, m) for i, m in enumerate(conversations)))
        )

    def _shown(self, task: str) -> str:
        """The task as the judge sees it (spec Q3: the reference hid it in stage 2)."""
        hidden = self._stage == "tasks" and self._config.compat.empty_task_prompt
        return "" if hidden else task

    # --- the previous Solver ------------------------------------------------------

    async def attempts(
        self,
        task: str,
        rubrics: Sequence[Rubric],
        count: int,
        seed: Seed,
        *,
        target: str | None = None,
    ) -> list[Attempt]:
        """``count`` graded difficulty rollouts of the previous Solver (spec 3.8).

        Where the answer is known (``target``), answers are compared with it and the
        judge is not asked.
        """
        config = self._config

        async def play(number: int) -> Attempt:
            sampling = config.challenger.rollout_sampling
            if self._stage == "tasks":
                sampling = replace(
                    sampling, max_new_tokens=config.challenger.rollout_tokens_tasks
                )
            own = (*seed, "attempt", number)
            episode = await converse(
                self.solver_spec("difficulty"),
                self._session.prompts.solver(task, config.solver.max_searches),
                complete=self._session.previous_solver,
                search=self._session.search,
                renderer=self._session.renderer,
                sampling=sampling,
                limits=Limits(
                    context=config.inference.engine.max_length,
                    response=config.inference.engine.max_length,
                ),
                uid="/".join(map(str, own)),
                seed=own,
            )
            # Only the last turn's answer counts here (spec 3.8).
            spoken = [m for m in episode.state.episode if m["role"] == "assistant"]
            parse = solver.parse_answer(spoken[-1:])
            grades, match = None, None
            if parse.valid and target is not None:
                match = solver.exact_match(parse.answer, [target])
            elif parse.valid:
                grades = await self.grade(task, parse.answer, rubrics, own)
            return Attempt(
                answer=parse.answer,
                grades=grades,
                searches=episode.state.searches,
                turns=episode.state.turns,
                finish=episode.finish,
                match=match,
            )

        return list(await asyncio.gather(*map(play, range(count))))

    def solver_spec(self, kind: str) -> ConversationSpec:
        """How a Solver's conversation of ``kind`` goes."""
        config = self._config
        return ConversationSpec(
            kind=kind,
            tool_format=config.tool_format,
            prompts=self._session.prompts,
            max_turns=config.solver.max_turns,
            forced_rounds=config.solver.forced_rounds,
            tool_tokens=config.challenger.tool_tokens,
            compat=config.compat,
        )

    # --- whole rewards --------------------------------------------------------------

    async def challenger(
        self, episode: Episode, row: PromptRow, seed: Seed
    ) -> tuple[Reward, list[Attempt]]:
        """The reward of a Challenger's rollout (spec 9.2); asks only what it needs."""
        config = self._config
        assessment = challenger.assess(
            episode.scored,
            row.searches,
            config.tool_format,
            task_type=row.task_type,
            compat=config.compat,
        )
        rubrics, raw, gates, gates_raw, attempts = None, "", {}, {}, []
        task, matches = assessment.parse.task, None
        if assessment.value > 0 and assessment.parse.valid:
            documents = judge.documents_text(row.document.text, episode.state.passages)
            (rubrics, raw), (gates, gates_raw) = await asyncio.gather(
                self.rubrics(task, row.task_type, documents, seed),
                self.gates(task, row.task_type, row.document.text, seed),
            )
            if rubrics.valid and judge.gates_pass(gates, config.judge.required_gates):
                short = row.task_type == challenger.SHORT
                attempts = await self.attempts(
                    task,
                    rubrics.rubrics,
                    config.challenger.rollouts,
                    seed,
                    target=assessment.parse.reference_answer if short else None,
                )
                if short:
                    found = [attempt.match for attempt in attempts]
                    matches = [match for match in found if match is not None]
        reward = challenger.reward(
            config.challenger,
            assessment,
            rubrics=rubrics,
            gates=gates,
            required_gates=config.judge.required_gates,
            grades=[attempt.scores for attempt in attempts],
            matches=matches,
            min_coverage=config.judge.min_coverage,
            pad=config.judge.pad,
        )
        why = explain.challenger(
            config.challenger,
            config.judge,
            reward,
            searches=row.searches,
            rubrics=rubrics,
            attempts=attempts,
        )
        trace = {
            "why": why,
            **reward.trace,
            "rubrics": [r.text for r in rubrics.rubrics] if rubrics else [],
            "rubrics_raw": raw,
            "gates_raw": gates_raw,
            "attempts": [attempt_json(attempt) for attempt in attempts],
            "conversation": list(episode.state.trace),
        }
        return replace(reward, trace=trace), attempts

    async def solver(
        self, episode: Episode, task: Task, seed: Seed
    ) -> tuple[Reward, tuple[Grade, ...]]:
        """The reward of a Solver's rollout (spec 10)."""
        config = self._config
        assessment = solver.assess(
            config.solver,
            episode.scored,
            config.tool_format,
            encode=self._encode,
            decode=self._decode,
        )
        grades: tuple[Grade, ...] = ()
        if assessment.graded is not None and task.target is None:
            grades = await self.grade(task.text, assessment.graded, task.rubrics, seed)
        reward = solver.reward(
            config.solver,
            assessment,
            [grade.score for grade in grades],
            len(task.rubrics),
            judge=config.judge,
            targets=() if task.target is None else (task.target,),
        )
        trace = {
            "why": explain.solver(config.solver, config.judge, reward),
            **reward.trace,
            "task": task.text,
            "rubrics": [rubric.text for rubric in task.rubrics],
            "judge": [grade_json(grade) for grade in grades],
            "conversation": list(episode.state.trace),
        }
        return replace(reward, trace=trace), grades


def grade_json(grade: Grade) -> dict[str, Any]:
    """A grade and the judge's own words, as a person reads them in a trace."""
    shown: dict[str, Any] = {"score": grade.score, "raw": grade.raw}
    if grade.retried:
        shown |= {"asked_again_after": grade.first_raw}
    return shown


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """An attempt as a person reads it in a trace."""
    shown: dict[str, Any] = {
        "answer": attempt.answer,
        "scores": None if attempt.scores is None else list(attempt.scores),
        "judge": [grade_json(grade) for grade in attempt.grades or ()],
        "searches": attempt.searches,
        "turns": attempt.turns,
        "finish": attempt.finish,
    }
    if attempt.match is not None:
        shown["match"] = attempt.match
    return shown


def judge_metrics(grades: Sequence[Grade]) -> dict[str, float]:
    """How readable a rollout's grades were; nothing if there were none."""
    if not grades:
        return {}
    return {
        "judge/unparseable": sum(g.score is None for g in grades) / len(grades),
        "judge/retried": sum(g.retried for g in grades) / len(grades),
    }
