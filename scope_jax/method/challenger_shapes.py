"""Other shapes of the Challenger's reward (``challenger.difficulty``), from papers.

g is the mean rubric score of the previous Solver's rollouts, from 0 to 1. R-Zero's
``1 - 2 |g - 1/2|`` is the method's own tent at its default target and needs no name.
"""

import re
from collections.abc import Sequence
from typing import Literal

Shape = Literal["one_minus", "intermediate", "ssr", "paso_doble"]
SHAPES: tuple[Shape, ...] = ("one_minus", "intermediate", "ssr", "paso_doble")

ALPHA = 0.8
"""SSR: what a task costs that everybody solves, or nobody."""
INVALID = -1.0
"""SSR: reward of a task that is none."""
TOO_HARD, TOO_ALIKE = 0.2, 0.3
"""PasoDoble: a score and a diversity up to these earn nothing."""
RECENT = 100
"""PasoDoble: questions that a new one is compared with."""
ALIKE = 0.8
"""PasoDoble: above this overlap of their words two questions are the same."""


def shape(g: float, *, kind: Shape, diversity: float = 1.0) -> float:
    """The difficulty of a valid task with mean score ``g``.

    ``one_minus`` pays most for a task that nobody solves: give it a gate that shows
    that it can be (``judge.answerable``).

    Args:
      g: mean score.
      kind: the shape.
      diversity: d, from ``diversity``; for ``paso_doble`` alone.

    Formula:
      [one_minus] difficulty = 1 - g
      [intermediate] difficulty = 4 g (1 - g)
      [ssr] difficulty = 1 - (1 + alpha) g where 0 < g < 1, -alpha at 0 and at 1,
      -1 without a valid task, alpha = 0.8
      [paso_doble] difficulty = 1.1 - g + 0.2 d, 0 where g <= 0.2 or d <= 0.3; d: share
      of the last 100 tasks whose words overlap by at most 0.8 (Jaccard)

    References:
      [one_minus] SSP (arXiv 2510.18821), its default
      [intermediate] SSP (arXiv 2510.18821), its published code
      [ssr] SSR (arXiv 2512.18552), its proposer of bugs
      [paso_doble] PasoDoble (arXiv 2511.11881), its published code
    """
    if kind == "one_minus":
        return 1 - g
    if kind == "intermediate":
        return 4 * g * (1 - g)
    if kind == "ssr":
        return 1 - (1 + ALPHA) * g if 0 < g < 1 else -ALPHA
    if g <= TOO_HARD or diversity <= TOO_ALIKE:
        return 0.0
    return 1.1 - g + 0.2 * diversity


def invalid(kind: str) -> float:
    """The difficulty of what is no task: SSR alone punishes it.

    Below ``-alpha``, or a task that cannot be read would earn more than a useless one.
    """
    return INVALID if kind == "ssr" else 0.0


def diversity(task: str, recent: Sequence[str]) -> float:
    """PasoDoble's d: the share of recent tasks that are not the same as this one.

    Two are the same if their sets of words overlap (Jaccard) by more than 0.8. Without
    recent ones it is 1.
    """
    own = words(task)
    unlike = [len(own & w) <= ALIKE * len(own | w) for w in map(words, recent)]
    return sum(unlike) / len(unlike) if unlike else 1.0


def leaked(task: str, answer: str) -> bool:
    """Whether a task says the answer that its writer has in mind."""
    return bool(answer) and " ".join(answer.lower().split()) in " ".join(
        task.lower().split()
    )


def words(text: str) -> set[str]:
    """The different words of a text, in lower case."""
    return set(re.findall(r"\w+", text.lower()))
