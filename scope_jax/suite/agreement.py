"""How far two judges agree: on the same verdicts, and on the order of answers."""

import math
from collections import Counter
from collections.abc import Sequence


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa: agreement beyond what chance would give (1960).

    Args:
      first: a judge's verdicts, as categories.
      second: the other's on the same.

    Returns:
      1 for full agreement, 0 for chance; None without verdicts, and where both judges
      always say one and the same, for then chance alone agrees fully.
    """
    n = len(first)
    if not n:
        return None
    same = sum(a == b for a, b in zip(first, second, strict=True)) / n
    ones, twos = Counter(first), Counter(second)
    chance = sum(ones[label] * twos[label] for label in ones) / n**2
    return None if chance == 1 else (same - chance) / (1 - chance)


def rank(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's correlation of two judges' scores of the same answers.

    None where a judge gives one and the same to all, or there are fewer than two.
    """
    if len(first) < 2 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy import stats  # here: it takes seconds to import, and few need it

    found = float(stats.spearmanr(first, second).statistic)
    return None if math.isnan(found) else found
