"""What becomes of a task that the Challenger wrote (spec 11.3, 11.4)."""

from typing import Literal

Outcome = Literal[
    "kept",
    "bad_format",
    "too_long",
    "gates_failed",
    "no_rubrics",
    "checks_failed",
    "too_hard",
    "too_easy",
    "another_of_its_prompt",
]


def outcome_line(
    outcome: Outcome,
    *,
    difficulty: float | None = None,
    window: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Why a task was kept or dropped.

    Args:
      outcome: what became of it.
      difficulty: the previous Solver's mean score; None if it was not measured.
      window: lowest and highest score of a task that is kept.
    """
    low, high = window
    score = "" if difficulty is None else f"the Solver's mean score {difficulty:.4g} "
    return {
        "kept": f"{score}lies within {low:.4g} to {high:.4g}: kept",
        "bad_format": "its conversation or its task has a wrong format: dropped",
        "too_long": "the Solver's prompt with it is over the limit: dropped",
        "gates_failed": "gates failed: dropped",
        "no_rubrics": "no rubrics: dropped",
        "checks_failed": "a check beside the gates failed: dropped",
        "too_hard": f"{score}is below {low:.4g}: too hard: dropped",
        "too_easy": f"{score}is above {high:.4g}: too easy: dropped",
        "another_of_its_prompt": f"{score}is fine, but enough tasks of its prompt "
        "were kept before: dropped",
    }[outcome]
