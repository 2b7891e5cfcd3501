"""Checks of a task beside the gates: its rubrics' evidence, and that it has an answer.

Both are off by default. A task that fails one is dropped in task creation, and earns no
difficulty in Challenger training, like one that fails a gate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Check(NamedTuple):
    """A number that a task has, and the least it needs."""

    name: str
    value: float
    needed: float

    @property
    def passed(self) -> bool:
        """Whether it is enough."""
        return self.value >= self.needed

    @property
    def line(self) -> str:
        """For a person."""
        verdict = "passed" if self.passed else "failed"
        return f"{self.name} {self.value:.4g} of {self.needed:.4g} needed: {verdict}"


def evidence_share(evidence: Sequence[str], documents: str) -> float:
    """Share of the rubrics whose evidence stands word for word in the documents.

    Spaces and case are folded. A rubric without evidence counts as one whose evidence
    is not there.

    Args:
      evidence: one quotation per rubric, empty where none was given.
      documents: the source document and what the Challenger's searches brought.

    Formula:
      keep if (rubrics whose evidence is in the documents) / (rubrics) >= s

    References:
      ours
    """
    where = folded(documents)
    found = [bool(words := folded(quoted)) and words in where for quoted in evidence]
    return sum(found) / len(found) if found else 0.0


def among(
    documents: Sequence[str], distractors: Sequence[str], draw: np.random.Generator
) -> str:
    """What the judge must answer a task from, to show that it can be answered.

    Args:
      documents: what the task was written from.
      distractors: documents of other subjects.
      draw: decides in which order they stand.

    Formula:
      keep if g(judge's answer from document, results and 4 others) >= 0.5

    References:
      SSP (arXiv 2510.18821), its retrieval check; 4 distractors were best there
    """
    shown = [*documents, *distractors]
    order = draw.permutation(len(shown))
    return "\n\n---\n\n".join(shown[place].strip() for place in order)


def folded(text: str) -> str:
    """Text in lower case with single spaces, as the prompt's writer shows it."""
    return " ".join(text.replace("&lt;", "<").lower().split())
