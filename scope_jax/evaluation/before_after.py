"""One held-out task, answered by the base model and by the last Solver.

The task is chosen by a rule and not by a person: the first one of those whose true
score rose most.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scope_jax.evaluation.solving import Mode
from scope_jax.report.comparison import Comparison, Side, comparison_markdown
from scope_jax.system import settings
from scope_jax.system.files import write_text

MODE: Mode = "greedy"
"""What is compared: with draws, it would be luck too."""

RULE = "Of {count} held-out tasks, answered greedily, the first with the largest gain"

Records = Sequence[Mapping[str, Any]]


def compare(names: tuple[str, str], before: Records, after: Records) -> Comparison:
    """The two answers to one task.

    Args:
      names: of the two Solvers.
      before: records of ``small_world.evaluate``, by task.
      after: the same of the other Solver.
    """
    gains = [
        round(new[MODE]["true_score"] - old[MODE]["true_score"], 6)  # 1 - 1/3 is 2/3
        for old, new in zip(before, after, strict=True)
    ]
    chosen = gains.index(max(gains))
    sides = [
        Side(
            name=name,
            messages=tuple(records[chosen][MODE]["messages"]),
            answer=records[chosen][MODE]["answer"],
            true_score=records[chosen][MODE]["true_score"],
        )
        for name, records in zip(names, (before, after), strict=True)
    ]
    return Comparison(
        rule=RULE.format(count=len(gains)),
        task=before[chosen]["task"],
        wanted=tuple(before[chosen]["wanted"]),
        before=sides[0],
        after=sides[1],
    )


def write(folder: Path, shown: Comparison) -> None:
    """Writes it for people (``before_after.md``) and for the report (``.json``)."""
    write_text(folder / "before_after.md", comparison_markdown(shown))
    settings.save(shown, folder / "before_after.json", recorded=True)
