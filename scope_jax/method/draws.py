"""Task type and number of searches of each Challenger prompt, drawn by seed."""

import random
import re

from models.errors import UserError
from scope_jax.method.challenger import SHORT
from scope_jax.method.prompts import TASK_TYPES


def search_schedule(spec: str, rows: int, seed: int) -> list[int]:
    """How many searches each of ``rows`` prompts asks for (spec 3.3).

    Args:
      spec: ``"2"`` for two in every row; ``"4:3:2"`` for shares of one, two and three,
        by largest remainder, shuffled.
      rows: number of prompts.
      seed: seed of the shuffle.

    Raises:
      UserError: ``spec`` is neither, or all its shares are 0.
    """
    weights = _weights(spec)
    if len(weights) == 1:
        return weights * rows
    total = sum(weights)
    counts = [rows * weight // total for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda i: (-(rows * weights[i] % total), i)
    )
    for i in by_remainder[: rows - sum(counts)]:
        counts[i] += 1
    schedule = [n for n, count in enumerate(counts, 1) for _ in range(count)]
    random.Random(seed).shuffle(schedule)
    return schedule


def most_searches(spec: str) -> int:
    """The most searches that a prompt of this schedule may ask for.

    Raises:
      UserError: see ``search_schedule``.
    """
    weights = _weights(spec)
    if len(weights) == 1:
        return weights[0]
    return max(n for n, weight in enumerate(weights, 1) if weight)


def _weights(spec: str) -> list[int]:
    if not re.fullmatch(r"[0-9]{1,9}(:[0-9]{1,9})*", spec):
        raise UserError(
            f"challenger.schedule={spec!r}: expected a number of searches (2) or "
            "shares (4:3:2)"
        )
    weights = [int(weight) for weight in spec.split(":")]
    if len(weights) > 1 and not any(weights):
        raise UserError(f"challenger.schedule={spec!r}: all shares are 0: raise one")
    return weights


def task_types(rows: int, seed: int, *, short_form_qa_ratio: float = 0.0) -> list[str]:
    """The task type of each of ``rows`` prompts (spec 3.2)."""
    rng = random.Random(seed)
    others = [name for name in TASK_TYPES if name != SHORT]
    return [
        # A ratio of 0 takes no draw, so that the sequence is the reference's.
        SHORT
        if short_form_qa_ratio > 0 and rng.random() < short_form_qa_ratio
        else rng.choice(others)
        for _ in range(rows)
    ]
