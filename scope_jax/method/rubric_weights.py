"""Weights of rubrics in the Solver's reward (``judge.weights``).

    R = sum_j w_j alpha_j s_j / sum_j w_j alpha_j

s_j: verdict on criterion j; w_j: its weight by priority; alpha_j: how far the group's
rollouts differ in it. Equal weights give the mean of the verdicts, the method's own
score, which stays what decides how hard a task is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from models.ranges import POSITIVE, Range, Share, check_fields
from scope_jax.method.types import Rubric

VALID = 0.75
"""Share of a group's rollouts that need a verdict before a criterion is re-weighted."""


@dataclass(frozen=True, kw_only=True)
class RubricWeights:
    """How much each rubric counts in the Solver's reward."""

    kind: Literal["equal", "pow3r_instant"] = "equal"
    """equal: each rubric counts the same. pow3r_instant: POW3R's weights, from the
    rubric's priority and from how far the rollouts of its group differ in it."""
    critical: Annotated[float, POSITIVE] = 3.0
    """w of a critical rubric, and of one without a priority that is known. Three to two
    to one is ours: POW3R's come from its data."""
    important: Annotated[float, POSITIVE] = 2.0
    """w of an important rubric."""
    bonus: Annotated[float, POSITIVE] = 1.0
    """w of a bonus rubric."""
    strength: Share = 0.5
    """lambda: 0 keeps the weights of the priorities, 1 counts by differences alone. At
    one half a criterion that separates nobody keeps half of its weight. (POW3R's own
    constants are not public; this one and the next three are ours.)"""
    least: Annotated[float, Range(above=0, most=1)] = 0.25
    """Smallest alpha: no criterion falls below a quarter, so that none is forgotten."""
    most: Annotated[float, Range(least=1)] = 4.0
    """Largest alpha, the same factor the other way."""
    floor: Annotated[float, POSITIVE] = 0.01
    """eps, added to each variance: where no criterion separates, all count alike."""

    def __post_init__(self):
        check_fields(self)

    def of(self, rubric: Rubric) -> float:
        """w of a rubric."""
        name = re.sub(r"\W", "", rubric.priority or "").lower()
        return {"important": self.important, "bonus": self.bonus}.get(
            name, self.critical
        )


def rubric_weights(
    grades: Sequence[Sequence[float | None]],
    weights: Sequence[float],
    config: RubricWeights,
) -> list[float]:
    """POW3R's weight w_j alpha_j of each criterion, from one group's verdicts.

    s is a verdict, v its variance over the rollouts that have one, w the weight of a
    criterion's priority. A task is played once here, so that there is no average over
    epochs, and the categories are one. A criterion with verdicts of fewer than three
    quarters of the rollouts keeps alpha 1 and is no part of the sums.

    Args:
      grades: per rollout of the group one verdict per criterion, None where unreadable;
        a rollout without an answer has none.
      weights: w_j.
      config: lambda = ``strength``, eps = ``floor``, ``least``, ``most``.

    Formula:
      R = sum_j w_j alpha_j s_j / sum_j w_j alpha_j,
      alpha_j = clip(1 - lambda + lambda rho_j, 1/4, 4),
      rho_j = (v_j + eps) / (sum_i w_i (v_i + eps) / sum_i w_i)

    References:
      POW3R (arXiv 2605.20164); that each group is weighted by itself is
      ours, and that AXPO's continuations have the weights of the group that they are
      compared with
    """
    w = np.asarray(weights, np.float64)
    found = [
        [row[j] for row in grades if j < len(row) and row[j] is not None]
        for j in range(len(w))
    ]
    counted = np.array([len(own) >= VALID * len(grades) for own in found])
    alpha = np.ones_like(w)
    if counted.any():
        spread = np.array([np.var(own) if own else 0.0 for own in found]) + config.floor
        mean = (w * spread)[counted].sum() / w[counted].sum()
        target = 1 - config.strength + config.strength * spread[counted] / mean
        alpha[counted] = np.clip(target, config.least, config.most)
    return (w * alpha).tolist()


def weighted_score(
    grades: Sequence[float | None], weights: Sequence[float], pad: float
) -> float:
    """R: the weighted mean of an answer's verdicts; ``pad`` for an unreadable one."""
    read = [pad if grade is None else grade for grade in grades]
    return float(np.average(read, weights=weights))
