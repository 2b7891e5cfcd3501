"""The optional losses in float64 NumPy, one rollout after another.

``Case`` is what a rollout is trained on. What a loss treats as a constant is computed
from ``held``, the policy's log-probs that are not moved when ``new`` is, so that finite
differences over ``new`` are the gradient. ``wrong`` puts a mistake into a formula.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """One rollout: log-probs [tokens], advantage(s), and what single losses read."""

    new: np.ndarray
    old: np.ndarray
    advantage: np.ndarray | float
    outcome: float = 0.0
    rate: float = 0.0
    teacher: np.ndarray | None = None
    teacher_weight: float = 1.0


def clipped(case, held, *, low=0.2, high=0.2, dual=3.0, wrong=""):
    a = case.advantage
    ratio = np.exp(case.new - case.old)
    both = -a * ratio, -a * np.clip(ratio, 1 - low, 1 + high)
    each = np.minimum(*both) if wrong == "minimum" else np.maximum(*both)
    return np.where(a < 0, np.minimum(each, -a * dual), each)


def sequence(case, held, *, low=3e-4, high=4e-4, wrong=""):
    a = case.advantage
    mean = np.mean(held - case.old)
    if wrong == "sum":
        mean = np.sum(held - case.old)
    own = case.new - held if wrong != "no gradient" else 0.0
    ratio = np.exp(np.minimum(mean + own, 10.0))
    each = np.maximum(-a * ratio, -a * np.clip(ratio, 1 - low, 1 + high))
    return each if wrong != "dual clip" else np.minimum(each, np.abs(a) * 3.0)


def sapo(case, held, *, positive=1.0, negative=1.05, wrong=""):
    a = case.advantage
    tau = np.where(a > 0, positive, negative)
    if wrong == "one temperature":
        tau = positive
    ratio = np.exp(case.new - case.old)
    return -a * 4 / tau / (1 + np.exp(-tau * (ratio - 1)))


def cispo(case, held, *, low=0.2, high=0.2, wrong=""):
    weight = np.clip(np.exp(held - case.old), 1 - low, 1 + high)
    if wrong == "not clipped":
        weight = np.exp(held - case.old)
    return -weight * case.advantage * case.new


def nft(case, held, *, negative=1.0, balance="deviation", wrong=""):
    q = np.clip(case.rate, 0.02, 0.98)
    if case.rate in (0, 1):
        return np.zeros_like(case.new)
    f = 1 - q if balance == "rate" else np.sqrt((1 - q) / q)
    ratio = np.exp(np.minimum(case.new - case.old, 10.0))
    if case.outcome:
        return -f * np.log(ratio)
    kept = np.exp(np.minimum(held - case.old, 10.0))
    rest, at_held = (1 - q * ratio) / (1 - q), (1 - q * kept) / (1 - q)
    shift = np.maximum(at_held, 1.0) - at_held if wrong != "no floor" else 0.0
    with np.errstate(invalid="ignore"):
        return -f * negative * np.log(rest + shift)


LOSSES = {
    "clip": clipped,
    "sequence": sequence,
    "sapo": sapo,
    "cispo": cispo,
    "nft": nft,
}
WRONG = [
    ("clip", "minimum"),
    ("sequence", "sum"),
    ("sequence", "no gradient"),
    ("sequence", "dual clip"),
    ("sapo", "one temperature"),
    ("cispo", "not clipped"),
    ("nft", "no floor"),
]


def with_teacher(case, coefficient):
    """The case with the distillation term in its advantages."""
    away = np.where(np.isnan(case.teacher), 0.0, case.teacher - case.old)
    return np.asarray(case.advantage) + coefficient * case.teacher_weight * away


def gradients(kind, cases, *, step=1e-6, **options):
    """d (sum of each token's loss) / d new, by central differences, case by case."""
    out = []
    for case in cases:
        grad = np.zeros_like(case.new)
        for t in range(len(grad)):
            sides = []
            for sign in (1, -1):
                moved = case.new.copy()
                moved[t] += sign * step
                at = Case(**(vars(case) | {"new": moved}))
                sides.append(LOSSES[kind](at, case.new, **options).sum())
            grad[t] = (sides[0] - sides[1]) / (2 * step)
        out.append(grad)
    return out
