"""Teachers that are the policy itself, told more: what is learnt from them.

critique    the judge's critique of this very answer stands in the teacher's prompt;
            its log-probs of the answer's tokens add to their advantages
dual_path   SCOPE of machine981 (no relative of the method here): right answers are
            made likelier, wrong ones follow a teacher who has read the document;
            rewards decide which is which and are used for nothing else
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np

from models.errors import UserError
from models.ranges import POSITIVE, Count, Finite, Share, check_fields
from scope_jax.method.types import Grade, Rubric


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A teacher of the Solver, on the tokens of its answers."""

    kind: Literal["none", "critique", "dual_path"] = "none"
    """critique: the policy that knows the judge's critique of the answer. dual_path:
    the policy that knows the document, for wrong answers; right ones become likelier.
    `solver_train.loss.distillation` is the teacher's weight, and
    `solver_train.loss.likelihood` that of right answers."""
    right: Share = 0.5
    """dual_path: mean rubric score from which an answer is right."""
    preset: Literal["own", "released"] = "own"
    """released: both powers are -1, as the published script has them, where the sign of
    the student's is the opposite of what is described. own: the two below."""
    student_power: Finite = 1.0
    """dual_path: right answers are weighted by the student's perplexity to this power;
    above 0, unusual ones count more."""
    teacher_power: Finite = -1.0
    """dual_path: wrong answers are weighted by the teacher's perplexity to this power;
    below 0, those count more that the teacher finds likely."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """dual_path: tau, which divides both powers."""
    critique_tokens: Count = 2048
    """Most new tokens of a critique."""

    def __post_init__(self):
        check_fields(self)

    @property
    def powers(self) -> tuple[float, float]:
        """Of the student's perplexity and of the teacher's."""
        if self.preset == "released":
            return -1.0, -1.0
        return self.student_power, self.teacher_power


def perplexity_weights(
    logprobs: Sequence[float], power: float, temperature: float
) -> list[float]:
    """Weights of a group's answers, their mean 1, by their perplexity to a power.

    Args:
      logprobs: l, the mean log-prob of each answer's tokens; its perplexity is exp(-l).
      power: p.
      temperature: tau.

    Formula:
      w_i = n softmax_i(-p l_i / tau) over the n right answers (p = 1, l of the student)
      or the n wrong ones (p = -1, l of the teacher); loss: -log pi w on the right ones,
      advantage w sg(log teacher - log old) on the wrong ones

    References:
      machine981, SCOPE (arXiv 2604.10688); its script has p = -1 for both
    """
    if not len(logprobs):
        return []
    scaled = -power * np.asarray(logprobs, np.float64) / temperature
    each = np.exp(scaled - scaled.max())
    return (len(each) * each / each.sum()).tolist()


def verdict_lines(rubrics: Sequence[Rubric], grades: Sequence[Grade]) -> str:
    """The rubrics and the grades of an answer on them, for the writer of a critique.

    References:
      Step-aligned critiques (arXiv 2606.11173)
    """
    lines = []
    for number, (rubric, grade) in enumerate(zip(rubrics, grades, strict=True), 1):
        score = grade.score
        said = "could not be judged" if score is None else f"graded {score:.3g} of 1"
        lines.append(f"{number}. {rubric.text} ({said})")
    return "\n".join(lines)


class Loss(Protocol):
    """What a stage's loss says of teachers."""

    distillation: float
    likelihood: float


class Stage(Protocol):
    """What a training stage says that a teacher depends on."""

    loss: Loss


def check_weights(config: TeacherConfig, solver: Stage, challenger: Stage) -> None:
    """Refuses a teacher whose word has no weight, and a weight without a teacher.

    Raises:
      UserError: naming both settings.
    """
    kind = config.kind
    named = f"solver.teacher.kind={kind}"
    needs = {"distillation": kind != "none", "likelihood": kind == "dual_path"}
    for name, wanted in needs.items():
        weight = getattr(solver.loss, name)
        if wanted and not weight:
            raise UserError(
                f"{named}: has no effect while solver_train.loss.{name} is 0, its "
                "weight: set it, or the kind to none"
            )
        if weight and not wanted:
            raise UserError(
                f"solver_train.loss.{name}={weight:g}: nothing has a part in this "
                f"term with {named}: set it to 0, or choose another kind"
            )
        if own := getattr(challenger.loss, name):
            raise UserError(
                f"challenger_train.loss.{name}={own:g}: the Challenger has no teacher: "
                "set it to 0"
            )
