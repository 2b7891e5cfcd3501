"""The judge's three jobs: rubrics for a task, gates on it, grades of an answer.

What is asked and how it is read is in ``method.judge``; here are the calls. All that
can run together do.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rl.engine.sampling import seed64
from scope_jax.method import challenger, formats, judge, judge_bias
from scope_jax.method.judge import RubricsParse, Stage
from scope_jax.method.types import Grade, Rubric, Task
from scope_jax.selfplay.rollouts import Seed
from scope_jax.selfplay.world import World


class Judging:
    """Asks the judge on behalf of one stage, whose settings hold."""

    def __init__(self, world: World, stage: Stage):
        self._world, self.stage = world, stage
        self._config, self._compat = world.config.judge, world.config.compat

    async def rubrics(
        self, task: str, task_type: str, documents: str, seed: Seed
    ) -> tuple[RubricsParse, str]:
        """Rubrics for a task, and the judge's own words."""
        config = self._config
        ask = self._world.rubric_writer or self._world.judge
        prompt = self._world.prompts.rubric(
            self._shown(task), task_type, documents, evidence=config.evidence > 0
        )
        raw = await ask(
            prompt,
            temperature=config.rubric_temperature,
            max_tokens=config.rubric_tokens_tasks
            if self.stage == "tasks"
            else config.rubric_tokens,
            seed64=seed64(*seed, "rubrics"),
        )
        parse = judge.parse_rubrics(raw, compat=self._compat)
        return judge.without_duplicates(parse) if config.drop_duplicates else parse, raw

    async def gates(
        self, task: str, task_type: str, document: str, seed: Seed
    ) -> tuple[dict[str, int | None], dict[str, str]]:
        """Every gate's score, None where it can't be read, and the judge's words."""
        config = self._config
        short = task_type == challenger.SHORT and self.stage == "challenger"

        async def ask(name: str) -> tuple[int | None, str]:
            if short and name == "source_relevance":  # passes by itself (spec 8)
                return 1, ""
            raw = await self._world.judge(
                self._world.prompts.gate(name, task=task, document=document),
                temperature=config.gate_temperature,
                max_tokens=config.gate_tokens,
                seed64=seed64(*seed, "gate", name),
            )
            return judge.parse_gate(raw, compat=self._compat), raw

        answers = await asyncio.gather(*map(ask, config.gates))
        asked = dict(zip(config.gates, answers, strict=True))
        return (
            {name: score for name, (score, _) in asked.items()},
            {name: raw for name, (_, raw) in asked.items()},
        )

    async def answer(
        self,
        task: str,
        documents: str,
        seed: Seed,
        *,
        rubrics: Sequence[Rubric] = (),
    ) -> tuple[str, str]:
        """The judge's own answer to a task, from documents, and all that it said.

        Args:
          rubrics: what it is told that its answer will be held against.
        """
        config, known = self._config, [rubric.text for rubric in rubrics]
        raw = await self._world.judge(
            self._world.prompts.judge_answer(task, documents, known),
            temperature=config.rubric_temperature,
            max_tokens=config.answer_tokens,
            seed64=seed64(*seed, "answer"),
        )
        return judge.parse_answer(raw), raw

    async def critique(self, task: Task, answer: str, verdicts: str, seed: Seed) -> str:
        """A correction of an answer by one who knows how it was graded, or nothing."""
        raw = await self._world.judge(
            self._world.prompts.critique(
                task.text, task.document.text, answer, verdicts
            ),
            temperature=self._config.rubric_temperature,
            max_tokens=self._world.config.solver.teacher.critique_tokens,
            seed64=seed64(*seed, "critique"),
        )
        return (formats.after_thinking(raw) or "").strip()

    async def grade(
        self, task: str, answer: str, rubrics: Sequence[Rubric], seed: Seed
    ) -> tuple[Grade, ...]:
        """One grade per rubric; an unreadable one is asked for once more (spec 7).

        A judge that is biased on purpose then raises some, whichever the seed draws.
        """
        config, prompts = self._config, self._world.prompts
        grader = self._world.grader or self._world.judge
        conversations = judge.grade_prompts(
            prompts, self._shown(task), answer, rubrics, thinking=config.thinking
        )
        temperature = getattr(config.grade_temperature, self.stage)
        votes = config.votes if temperature > 0 else 1

        async def once(messages: Sequence[dict], *place: int) -> Grade:
            raw = await grader(
                messages,
                temperature=temperature,
                max_tokens=config.grade_tokens,
                seed64=seed64(*seed, "grade", *place),
            )
            score = judge.parse_grade(raw, compat=self._compat)
            return Grade(score=score, raw=raw)

        async def ask(number: int, messages: Sequence[dict], *voter: int) -> Grade:
            first = await once(messages, number, 0, *voter)
            if first.score is not None or not config.retry:
                return first
            again = prompts.grade_retry(messages, first.raw)
            second = await once(again, number, 1, *voter)
            return Grade(
                score=second.score, raw=second.raw, retried=True, first_raw=first.raw
            )

        async def voted(number: int, messages: Sequence[dict]) -> Grade:
            others = (ask(number, messages, voter) for voter in range(1, votes))
            first, *rest = await asyncio.gather(ask(number, messages), *others)
            if not rest:
                return first
            given = tuple(grade.score for grade in (first, *rest))
            return replace(first, score=judge.vote(given), votes=given)

        grades = tuple(
            await asyncio.gather(*(voted(i, m) for i, m in enumerate(conversations)))
        )
        if not config.bias.on:
            return grades
        draws = [_uniform(seed64(*seed, "bias", i)) for i in range(len(grades))]
        return judge_bias.biased(config.bias, grades, self._shown(task), answer, draws)

    def _shown(self, task: str) -> str:
        """The task as the judge sees it; the reference hid it in stage 2 (spec Q3)."""
        hidden = self.stage == "tasks" and self._world.config.compat.empty_task_prompt
        return "" if hidden else task


def _uniform(seed: int) -> float:
    """A 64-bit seed as a number from 0 to below 1: its upper bits, all of a double."""
    return (seed >> 11) / 2**53


def grade_json(grade: Grade) -> dict[str, Any]:
    """A grade and the judge's own words, as a person reads them in a trace."""
    shown: dict[str, Any] = {"score": grade.score, "raw": grade.raw}
    if grade.votes:
        shown |= {"votes": list(grade.votes)}
    if grade.retried:
        shown |= {"asked_again_after": grade.first_raw}
    if grade.bias is not None:
        shown |= {"unbiased": grade.unbiased, "bias": grade.bias}
    return shown


def grade_metrics(grades: Sequence[Grade]) -> dict[str, float]:
    """How readable a rollout's grades were; nothing if there were none.

    Of a judge that is biased on purpose also ``bias/chance``, the mean chance that a
    rubric which is not met counts as met, and ``bias/raised``, the share of all grades
    that were raised.
    """
    if not grades:
        return {}
    metrics = {
        "judge/unparseable": sum(g.score is None for g in grades) / len(grades),
        "judge/retried": sum(g.retried for g in grades) / len(grades),
    }
    chances = [grade.bias for grade in grades if grade.bias is not None]
    if chances:
        raised = sum(grade.raised_from is not None for grade in grades)
        metrics["bias/chance"] = sum(chances) / len(chances)
        metrics["bias/raised"] = raised / len(grades)
    return metrics
