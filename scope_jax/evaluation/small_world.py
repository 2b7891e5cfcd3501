"""The Solver's true score on held-out tasks of the small world.

No judge is asked: the wanted facts are known, and the score of an answer is the share
of them that it states.
"""

import numpy as np

from scope_jax.evaluation.solving import solve
from scope_jax.selfplay.training import Progress
from scope_jax.selfplay.world import World
from scope_jax.small_world.world import heldout_tasks, wanted_facts_stated

HELDOUT_SEED = 7


async def evaluate(
    world: World, count: int, name: str, progress: Progress
) -> tuple[dict[str, float], list[dict]]:
    """Scores the policy on ``count`` held-out tasks.

    Returns:
      metrics, and per task a record for people.
    """
    tasks = heldout_tasks(count, HELDOUT_SEED)
    solutions = await solve(world, [task.text for task in tasks], name, progress)
    records = [
        {
            "task": task.text,
            "wanted": [fact.sentence() for fact in task.facts],
            "answer": solution.answer,
            "true_score": wanted_facts_stated(solution.answer, task.facts),
            "entities": len(task.entities),
            "searches": solution.rollout.searches,
            "messages": list(solution.rollout.messages),
        }
        for task, solution in zip(tasks, solutions, strict=True)
    ]
    scores = np.array([record["true_score"] for record in records])
    entities = np.array([record["entities"] for record in records])
    metrics = {
        "eval/true_score": float(scores.mean()),
        "eval/true_score_stderr": float(scores.std(ddof=1) / len(scores) ** 0.5)
        if len(scores) > 1
        else float("nan"),
        "eval/answered": float(np.mean([bool(r["answer"]) for r in records])),
        "eval/searches": float(np.mean([r["searches"] for r in records])),
    }
    for number in np.unique(entities):
        metrics[f"eval/true_score_{number}_entities"] = float(
            scores[entities == number].mean()
        )
    return metrics, records
