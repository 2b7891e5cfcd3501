"""The Solver's true score on held-out tasks of the small world.

No judge is asked: the wanted facts are known, and the score of an answer is the share
of them that it states. Every task is answered twice, sampled and greedily.
"""

from collections.abc import Sequence

import numpy as np

from scope_jax.evaluation.solving import MODES, Solution, solve
from scope_jax.selfplay.training import Progress
from scope_jax.selfplay.world import World
from scope_jax.small_world.tasks import (
    Blank,
    heldout_tasks,
    read_task,
    true_score,
)
from scope_jax.small_world.truth import sentences
from scope_jax.small_world.world import Fact, Split, generate

HELDOUT_SEED = 7


async def evaluate(
    world: World, count: int, split: Split, name: str, progress: Progress
) -> tuple[dict[str, float], list[dict]]:
    """Scores the policy on ``count`` held-out tasks.

    Args:
      world: whose policy plays.
      count: how many tasks; more of them begin with the same ones.
      split: the part of the small world that they are about, ``dev`` or ``test``.
      name: of the policy.
      progress: told of each task that is answered.

    Returns:
      metrics ``eval/MODE/..``, and per task a record for people. Scores are means over
      tasks, with ``.._stderr`` and ``.._n``; a ``score_2_hops`` is of those facts only
      that take two searches one after another, in the tasks that want one.
    """
    known = generate()
    tasks = heldout_tasks(count, HELDOUT_SEED, split)
    blanks = [read_task(known, task.text) for task in tasks]
    records = [
        {
            "task": task.text,
            "wanted": [fact.sentence() for fact in task.facts],
            "entities": len(task.subjects),
            "hops": max(blank.hops for blank in found),
        }
        for task, found in zip(tasks, blanks, strict=True)
    ]
    texts = [task.text for task in tasks]
    entities = [len(task.subjects) for task in tasks]
    metrics: dict[str, float] = {}
    for mode in MODES:
        solutions = await solve(world, texts, name, progress, mode=mode)
        answers = [
            _answered(solution, task.facts)
            for task, solution in zip(tasks, solutions, strict=True)
        ]
        for record, answer in zip(records, answers, strict=True):
            record[mode] = answer
        found = _metrics(entities, blanks, answers)
        metrics |= {f"eval/{mode}/{what}": value for what, value in found.items()}
    return metrics, records


def _answered(solution: Solution, wanted: Sequence[Fact]) -> dict:
    """One answer, for people and for the metrics."""
    return {
        "answer": solution.answer,
        "true_score": true_score(solution.answer, wanted),
        "sentences": sentences(solution.answer),
        "searches": solution.rollout.searches,
        "messages": list(solution.rollout.messages),
    }


def _metrics(
    entities: Sequence[int],
    blanks: Sequence[Sequence[Blank]],
    answers: Sequence[dict],
) -> dict[str, float]:
    """Metrics of one mode, without a prefix; arguments are by task."""
    scores = [answer["true_score"] for answer in answers]
    found = measured("true_score", scores)
    for number in sorted(set(entities)):
        chosen = [s for s, n in zip(scores, entities, strict=True) if n == number]
        found |= measured(f"true_score_{number}_entities", chosen)
    for hops in sorted({blank.hops for each in blanks for blank in each}):
        shares = []
        for answer, each in zip(answers, blanks, strict=True):
            facts = [blank.fact for blank in each if blank.hops == hops and blank.fact]
            if facts:
                shares.append(true_score(answer["answer"], facts))
        found |= measured(f"true_score_{hops}_hops", shares)
    for name in ("searches", "sentences"):
        found[name] = float(np.mean([answer[name] for answer in answers]))
    found["answered"] = float(np.mean([bool(answer["answer"]) for answer in answers]))
    return found


def measured(name: str, values: Sequence[float]) -> dict[str, float]:
    """A mean under its name, with standard error (of two or more) and number."""
    found = {name: float(np.mean(values))}
    if len(values) > 1:
        error = np.std(values, ddof=1) / len(values) ** 0.5
        found[f"{name}_stderr"] = float(error)
    return found | {f"{name}_n": float(len(values))}
