"""How good a task's rubrics are, as far as the grades of several answers say."""

import math
from collections.abc import Sequence

import numpy as np

from scope_jax.method.solver_output import plain
from scope_jax.method.types import Rubric


def without_duplicates(rubrics: Sequence[Rubric]) -> tuple[Rubric, ...]:
    """The rubrics without those that say the same as one before.

    Formula:
      a rubric is dropped if one before it has the same text but for case, punctuation,
      articles and spaces

    References:
      ours
    """
    found: dict[str, Rubric] = {}
    for rubric in rubrics:
        found.setdefault(plain(rubric.text), rubric)
    return tuple(found.values())


def quality(
    rubrics: Sequence[Rubric], grades: Sequence[Sequence[float | None] | None]
) -> dict[str, float]:
    """Metrics of a task's rubrics; NaN where too little was graded.

    - ``duplicates``: share of them that repeat one before.
    - ``spread``: variance of the verdicts on a rubric over the answers, mean over the
      rubrics: 0 where all answers get the same grades.
    - ``agreement``: correlation of the verdicts on a rubric with the mean of those on
      the others, mean over the rubrics for which both differ between answers.

    Args:
      rubrics: of the task.
      grades: per answer a verdict per rubric; answers with an unreadable one, or none
        at all, are left out.
    """
    count = len(rubrics)
    repeated = 1 - len(without_duplicates(rubrics)) / count if count else math.nan
    whole = [row for row in grades if row and len(row) == count and None not in row]
    found = {"duplicates": repeated, "spread": math.nan, "agreement": math.nan}
    if len(whole) < 2 or not count:
        return found
    scores = np.array(whole, np.float64)
    found["spread"] = float(scores.var(axis=0).mean())
    agreements = []
    for own in range(count):
        others = np.delete(scores, own, axis=1)
        if count > 1 and np.ptp(scores[:, own]) and np.ptp(mean := others.mean(axis=1)):
            agreements.append(float(np.corrcoef(scores[:, own], mean)[0, 1]))
    if agreements:
        found["agreement"] = sum(agreements) / len(agreements)
    return found
