"""Any prompts with rubrics, answered by the policy and graded by the judge.

One JSON object per line: ``{"prompt": "..", "rubrics": ["..", ".."]}``, or with
``questions`` in place of ``rubrics``: then one call rates how far the answer covers
each of them (see ``ratings``). Other keys are carried into the results.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.errors import UserError
from rl.engine.sampling import seed64
from scope_jax.evaluation.solving import solve
from scope_jax.method import judge
from scope_jax.method.judge import JudgeConfig
from scope_jax.method.types import Rubric
from scope_jax.selfplay.judging import Judging
from scope_jax.selfplay.training import Progress, gather
from scope_jax.selfplay.world import World
from scope_jax.suite import ratings
from scope_jax.system.files import json_rows, read_text

FORM = '{"prompt": "..", "rubrics": ["..", ..]}, or "questions" for "rubrics"'


def read(path: Path) -> list[dict]:
    """The file's rows.

    Raises:
      UserError: the file is missing or empty, or a line is not of the form above.
    """
    text = read_text(Path(path), "name a file of prompts")
    rows = json_rows(str(path), text, _good, FORM)
    if not rows:
        raise UserError(f"{path}: holds no prompt: add at least one line")
    return rows


def _good(row: object) -> bool:
    """Whether a row has a prompt, and either rubrics or questions."""
    if not isinstance(row, dict) or ("rubrics" in row) == ("questions" in row):
        return False
    prompt, asked = row.get("prompt"), row.get("rubrics", row.get("questions"))
    return (
        isinstance(prompt, str)
        and bool(prompt.strip())
        and isinstance(asked, list)
        and bool(asked)
        and all(isinstance(text, str) and text.strip() for text in asked)
    )


async def evaluate(
    world: World, rows: list[dict], name: str, progress: Progress
) -> tuple[dict[str, float], list[dict]]:
    """Answers every prompt and has the judge grade the answers, unweighted.

    Returns:
      metrics, and per row a record for people. A row without a valid answer, or with
      too few readable grades, scores 0.
    """
    config, compat = world.config.judge, world.config.compat
    judging = Judging(world, "solver")
    solutions = await solve(world, [row["prompt"] for row in rows], name, progress)

    async def rate(row: dict, answer: str, seed: tuple[str | int, ...]) -> dict:
        raw = await world.judge(
            ratings.ask(row["prompt"], answer, row["questions"]),
            temperature=config.grade_temperature.solver,
            max_tokens=config.grade_tokens,
            seed64=seed64(*seed, "ratings"),
        )
        score = ratings.score(raw, len(row["questions"]), compat=compat)
        return {"score": score, "judge": [raw]}

    async def grade(number: int) -> dict:
        row, solution = rows[number], solutions[number]
        seed = (world.config.seed, "evaluation", name, number)
        shown = {"answer": solution.answer}
        shown["messages"] = list(solution.rollout.messages)
        if "questions" in row:
            rated: dict = {"score": 0.0, "judge": []}
            if solution.answer:
                rated = await rate(row, solution.answer, seed)
            return row | shown | rated
        rubrics = [Rubric(text) for text in row["rubrics"]]
        grades = ()
        if solution.answer:
            grades = await judging.grade(row["prompt"], solution.answer, rubrics, seed)
        scores = [grade.score for grade in grades]
        graded: dict = {
            "score": _share_met(scores, len(rubrics), config),
            "grades": scores,
            "judge": [grade.raw for grade in grades],
        }
        if config.bias.on:
            unbiased = [grade.unbiased for grade in grades]
            graded["score_unbiased"] = _share_met(unbiased, len(rubrics), config)
        return row | shown | graded

    records = await gather(map(grade, range(len(rows))), lambda n, of: None)
    metrics = {
        "eval/rubric_score": float(np.mean([r["score"] for r in records])),
        "eval/answered": float(np.mean([bool(r["answer"]) for r in records])),
    }
    if config.bias.on:  # ratings have no grades to raise
        metrics["eval/rubric_score_unbiased"] = float(
            np.mean([r.get("score_unbiased", r["score"]) for r in records])
        )
    return metrics, records


def _share_met(
    grades: Sequence[float | None], n_rubrics: int, config: JudgeConfig
) -> float:
    """An answer's score; 0 where too few of its grades could be read."""
    return (judge.rubric_score(grades, n_rubrics, config) or 0.0) / n_rubrics
