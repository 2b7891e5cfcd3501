"""The arms: what each changes, as options of ``scripts/train.py``.

``PARTS`` take a part of the method away; ``METHODS`` put another paper's in, an option
of ``docs/options.md``. Whatever is not named here is the same in all arms of a study.
What an arm needs beside options (a weakened model, a file of true tasks) is made once
and named in an option.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.errors import UserError
from scope_jax.system.settings import closest

Job = Literal["rubrics", "grades"]
Option = tuple[str, ...]
LONG = "1000000"  # tokens: more than any answer has


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is different in one arm.

    Attributes:
      about: in words, for tables.
      options: of ``train.py``, each a name and its values.
      weak: (setting, job) of a weakened model that does this job.
      true_tasks: the Solver trains on true tasks with true rubrics.
    """

    about: str
    options: tuple[Option, ...] = ()
    weak: tuple[str, Job] | None = None
    true_tasks: bool = False


PARTS = {
    "full": Arm(about="the method as it is"),
    "frozen_challenger": Arm(
        about="the base model writes the tasks of every iteration",
        options=(("--challenger_train.steps", "0"),),
    ),
    "no_gates": Arm(
        about="no task is checked before it is attempted",
        options=(("--judge.gates",), ("--judge.required_gates", "0")),
    ),
    "no_length_control": Arm(
        about="an answer of any length keeps its accuracy and is graded whole",
        options=(("--solver.length.soft", LONG), ("--solver.length.hard", LONG)),
    ),
    "weak_rubrics": Arm(
        about="rubrics by a model that is 15 points worse at writing them",
        weak=("--inference.rubric_model", "rubrics"),
    ),
    "weak_grader": Arm(
        about="grades by a model that is 15 points worse at grading",
        weak=("--inference.grader_model", "grades"),
    ),
    "curated": Arm(
        about="the Solver alone, on true tasks with true rubrics",
        options=(("--challenger_train.steps", "0"),),
        true_tasks=True,
    ),
    # Tasks are made as in `full`, so that only what the Solver is paid for differs.
    "none": Arm(
        about="the Solver is rewarded for format and searches only",
        options=(("--solver.accuracy_weight", "0"),),
    ),
}

METHODS = {
    "default": Arm(about="GRPO as it is configured"),
    "dr_grpo": Arm(
        about="Dr. GRPO: no standard deviation, a constant length",
        options=(
            ("--solver_train.advantage_std", "false"),
            ("--solver_train.loss.aggregation", "constant_length"),
        ),
    ),
    "mars": Arm(
        about="MARSHAL: an advantage for each turn",
        options=(("--solver_train.advantage", "turn"),),
    ),
    "nft": Arm(
        about="NFT: right and wrong answers, no advantage",
        options=(("--solver_train.loss.policy", "nft"),),
    ),
    "pow3r": Arm(
        about="POW3R: rubrics that separate answers count more",
        options=(("--judge.weights.kind", "pow3r_instant"),),
    ),
    "vote": Arm(
        about="SPCT's vote: a grade is the mean of three verdicts",
        options=(("--judge.votes", "3"), ("--solver_train.steps", "9")),
    ),
    "zppo": Arm(
        about="ZPPO: failed tasks are asked again with candidates",
        options=(("--solver.reposing.kind", "ncq"), ("--solver_train.steps", "12")),
    ),
}
"""All sample about as many tokens as ``default``, policies and judge together: where an
option samples more in a step, its Solver takes fewer steps. How many was fixed on seed
42, which no table uses."""

ARMS = PARTS | METHODS


@dataclass(frozen=True, kw_only=True)
class Materials:
    """Where what an arm needs is, made when it is asked for.

    Attributes:
      weak_model: folder of the model that is weak at a job.
      true_tasks: file of true tasks for a seed.
    """

    weak_model: Callable[[Job], Path] = field(repr=False)
    true_tasks: Callable[[int], Path] = field(repr=False)


def chosen(names: str, study: Mapping[str, Arm] = PARTS) -> list[str]:
    """The arms of a list such as ``full,none``, in the order given.

    Args:
      study: those that there are.

    Raises:
      UserError: no such arm.
    """
    found = list(dict.fromkeys(name for name in names.split(",") if name))
    for name in found:
        if name not in study:
            near = closest(name, list(study))
            remedy = f"did you mean {near}? " if near else ""
            raise UserError(
                f"--arms {name}: no such arm: {remedy}known: {', '.join(study)}"
            )
    if not found:
        raise UserError(f"--arms {names}: names no arm: known: {', '.join(study)}")
    return found


def options(name: str, seed: int, materials: Materials) -> list[str]:
    """Options of ``train.py`` for one run of an arm, its seed among them."""
    arm = ARMS[name]
    found: list[Sequence[str]] = list(arm.options)
    if arm.weak:
        setting, job = arm.weak
        found.append((setting, str(materials.weak_model(job))))
    if arm.true_tasks:
        found.append(("--tasks.file", str(materials.true_tasks(seed))))
    found.append(("--seed", str(seed)))
    return [word for option in found for word in option]
