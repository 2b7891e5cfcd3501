"""The Solver's prompts of a step: its tasks, and those of the buffer asked again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rl.engine.sampling import seed64
from scope_jax.method import judge, solver, task_buffer
from scope_jax.method.task_buffer import Held
from scope_jax.method.types import Task
from scope_jax.selfplay.judging import Judging
from scope_jax.selfplay.rollouts import Rollout
from scope_jax.selfplay.world import World

PLAIN = ("", "replay")
"""How a prompt is posed whose group says how hard its task is."""


@dataclass(frozen=True)
class SolverPrompt:
    """A task as it is asked: ``text`` is the question; ``posed`` as in ``Rollout``."""

    task: Task
    text: str
    posed: Literal["", "replay", "ncq", "bcq"] = ""


class TaskBuffer:
    """ZPPO's buffer as the memory of Solver training (``method.task_buffer``).

    Attributes:
      held: the tasks in it, oldest first.
    """

    def __init__(self, world: World, tasks: Sequence[Task]):
        self._world, self._config = world, world.config.solver.reposing
        self._known = {task.uid: task for task in tasks}
        self.held: tuple[Held, ...] = ()

    def prompts(self, tasks: Sequence[Task], step: int) -> list[SolverPrompt]:
        """A step's prompts: ``tasks`` plainly, then replays, then re-posed ones."""
        config = self._config
        made = [SolverPrompt(task, task.text) for task in tasks]
        if config.kind == "off":
            return made
        draw = np.random.default_rng(seed64(self._world.config.seed, "reposing", step))
        count = round(config.replay * len(tasks))
        asked = {task.uid for task in tasks}
        again = task_buffer.replayed(self.held, count, asked, draw)
        posed: list[SolverPrompt] = []
        for one in task_buffer.hardest(self.held, config.kind):
            if len(posed) == round(config.share * len(tasks)):
                break
            posed += self._posed(one, draw)
        replays = [SolverPrompt(one.task, one.task.text, "replay") for one in again]
        return [*made, *replays, *posed]

    def _posed(self, one: Held, draw: np.random.Generator) -> list[SolverPrompt]:
        """The task with as many candidates as its prompt has room for; else nothing."""
        prompts, question = self._world.prompts, one.task.text
        limit = self._world.config.solver_train.max_prompt_tokens
        pair = [self._cut(one.right), self._cut(one.wrong[0])]
        wrong = [self._cut(answer) for answer in one.wrong]
        tried: list[tuple[Literal["ncq", "bcq"], str]] = []
        if self._config.kind == "bcq" and one.right:
            shown = [pair[place] for place in draw.permutation(2)]
            tried.append(("bcq", prompts.both_candidates(question, shown)))
        for count in range(len(wrong), 0, -1):
            tried.append(("ncq", prompts.wrong_candidates(question, wrong[:count])))
        for posed, text in tried:
            if self._world.solver_prompt_tokens(text) <= limit:
                return [SolverPrompt(one.task, text, posed)]
        return []

    def _cut(self, answer: str) -> str:
        return self._world.renderer.cut_text(answer, self._config.candidate_tokens)

    async def with_right_answer(
        self, prompt: SolverPrompt, group: list[Rollout]
    ) -> list[Rollout]:
        """The group, with the judge's answer in its first trace where that is wanted.

        It is wanted for a task that a plain group fails and that has no right one yet.
        """
        task, config = prompt.task, self._config
        known = any(one.right for one in self.held if one.task.uid == task.uid)
        wanted = config.kind == "bcq" and prompt.posed in PLAIN and not known
        if not wanted or _mean_score(group) >= config.hard:
            return group
        judging, seed = Judging(self._world, "solver"), (*group[0].seed[:5], "judge")
        answer, _ = await judging.answer(
            task.text, task.document.text, seed, rubrics=task.rubrics
        )
        score = 0.0
        if answer and task.target is not None:
            score = float(solver.exact_match(answer, [task.target]))
        elif answer and task.rubrics:
            given = await judging.grade(task.text, answer, task.rubrics, seed)
            scores, count = [grade.score for grade in given], len(given)
            total = judge.rubric_score(scores, count, self._world.config.judge)
            score = (total or 0.0) / count
        right = answer if score >= config.hard else ""
        found = {"judge_answer": answer, "judge_answer_right": bool(right)}
        return [replace(group[0], trace=group[0].trace | found), *group[1:]]

    def learn(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Admits, renews and retires the tasks of a step's plain groups, in order."""
        before = {one.task.uid: one.task for one in self.held}
        groups: dict[int, list[Rollout]] = {}
        for one in rollouts:
            if one.posed in PLAIN:
                groups.setdefault(one.group, []).append(one)
        for group in groups.values():
            uid = group[0].trace["task_uid"]
            found = self._measured(self._known.get(uid) or before[uid], group)
            self.held = task_buffer.after_group(self.held, found, self._config)
        now = {one.task.uid for one in self.held}
        return {
            "buffer/held": float(len(now)),
            "buffer/admitted": float(len(now - set(before))),
            "buffer/retired": float(len(set(before) - now)),
            "buffer/with_right_answer": float(sum(bool(h.right) for h in self.held)),
        }

    def _measured(self, task: Task, group: Sequence[Rollout]) -> Held:
        """What a plain group says of its task."""
        scores = [one.metrics["reward/rubric_score"] for one in group]
        answers = [one.trace["answer"] for one in group]
        right = group[0].trace.get("judge_answer_right", False)
        return Held(
            task=task,
            score=_mean_score(group),
            wrong=task_buffer.wrong_answers(answers, scores, self._config),
            right=group[0].trace["judge_answer"] if right else "",
        )

    def saved(self) -> list[dict[str, Any]]:
        """The tasks, as JSON."""
        return [one.json() for one in self.held]

    def restore(self, saved: list[dict[str, Any]] | None) -> None:
        """Becomes what was saved."""
        self.held = tuple(map(Held.read, saved or ()))


def _mean_score(group: Sequence[Rollout]) -> float:
    """The group's mean rubric score, each rubric counting the same."""
    scores = [one.metrics["reward/rubric_score"] for one in group]
    return sum(scores) / len(scores)
