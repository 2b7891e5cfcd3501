"""Any prompts with rubrics, answered by the policy and graded by the judge.

One JSON object a line: ``{"prompt": "..", "rubrics": ["..", ".."]}``; other keys are
carried into the results.
"""

import json
from pathlib import Path

import numpy as np

from models.errors import UserError
from scope_jax import judge
from scope_jax.evaluation.solving import solve
from scope_jax.rewards import Rewards
from scope_jax.session import Session
from scope_jax.stages import gather
from scope_jax.training import Progress
from scope_jax.types import Rubric


def read(path: Path) -> list[dict]:
    """The file's rows.

    Raises:
      UserError: the file is missing or empty, or a line is not of the form above.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from error
        good = (
            isinstance(row, dict)
            and isinstance(row.get("prompt"), str)
            and row["prompt"].strip()
            and isinstance(row.get("rubrics"), list)
            and row["rubrics"]
            and all(isinstance(r, str) and r.strip() for r in row["rubrics"])
        )
        if not good:
            raise UserError(
                f'{path}:{number}: not {{"prompt": "..", "rubrics": ["..", ..]}}: '
                "mend or remove the line"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no prompt: add at least one line")
    return rows


async def evaluate(
    session: Session, rows: list[dict], name: str, progress: Progress
) -> tuple[dict[str, float], list[dict]]:
    """Answers every prompt and has the judge grade the answers, unweighted.

    Returns:
      metrics, and per row a record for people. A row without a valid answer, or with
      too few readable grades, scores 0.
    """
    config = session.config.judge
    rewards = Rewards(session, "solver")
    solutions = await solve(session, [row["prompt"] for row in rows], name, progress)

    async def grade(number: int) -> dict:
        row, solution = rows[number], solutions[number]
        rubrics = [Rubric(text) for text in row["rubrics"]]
        seed = (session.config.seed, "evaluation", name, number)
        grades = ()
        if solution.answer:
            grades = await rewards.grade(row["prompt"], solution.answer, rubrics, seed)
        total = judge.rubric_score(
            [grade.score for grade in grades],
            len(rubrics),
            min_coverage=config.min_coverage,
            pad=config.pad,
        )
        return row | {
            "answer": solution.answer,
            "score": (total or 0.0) / len(rubrics),
            "grades": [grade.score for grade in grades],
            "judge": [grade.raw for grade in grades],
            "messages": list(solution.episode.state.messages),
        }

    records = await gather(map(grade, range(len(rows))), lambda n, of: None)
    metrics = {
        "eval/rubric_score": float(np.mean([r["score"] for r in records])),
        "eval/answered": float(np.mean([bool(r["answer"]) for r in records])),
    }
    return metrics, records
