"""Which two of a task's answers are compared: the best against the worst (POP)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Kept = Literal["kept", "alike", "of other lengths"]


def best_and_worst(
    answers: Sequence[str],
    scores: Sequence[float],
    *,
    min_spread: float,
    max_word_gap: int,
) -> tuple[int, int, Kept]:
    """Returns the numbers of the best and of the worst answer, and if they are a pair.

    Of equal scores the first counts. Not a pair are answers whose scores hardly differ
    ("alike"), and two of very different lengths ("of other lengths"): a policy would
    learn the length.

    Args:
      answers: of one task, at least one.
      scores: of each, finite.
      min_spread: least standard deviation of the scores.
      max_word_gap: most words that one of the two may have more than the other.

    References:
      POP (arXiv 2604.20051): 0.001 and 100
    """
    best, worst = int(np.argmax(scores)), int(np.argmin(scores))
    if best == worst or np.std(scores) < min_spread:
        return best, worst, "alike"
    gap = abs(len(answers[best].split()) - len(answers[worst].split()))
    return best, worst, "of other lengths" if gap > max_word_gap else "kept"
