"""ZPPO's buffer of tasks that the Solver fails, and how it is asked them again.

A task is admitted when a plain group's mean score is below ``hard``, and retired when
one reaches it. It is asked again in two ways: plainly (a replay), or re-posed, with
candidate answers behind the question. A prompt shows candidates and never rubrics, or
the Solver would learn to read what it is graded by.

    ncq    answers of its own that were wrong, and that they were
    bcq    one that is right, the judge's, and one that is wrong, in random order

All of this is pure: ``selfplay.reposing`` plays it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from models.ranges import Count, Share, check_fields
from scope_jax.method.solver_output import plain
from scope_jax.method.types import Document, Rubric, Task


@dataclass(frozen=True, kw_only=True)
class ReposingConfig:
    """Tasks that the Solver fails, asked again with candidate answers (ZPPO)."""

    kind: Literal["off", "ncq", "bcq"] = "off"
    """ncq: a re-posed task shows wrong answers. bcq: it shows a right and a wrong one
    where the judge, given the document and the rubrics, has found a right one."""
    hard: Share = 0.5
    """Mean rubric score below which a task is held, and at which it is retired."""
    share: Share = 0.25
    """Re-posed prompts per plain prompt of a step, in addition to it; hardest first."""
    replay: Share = 0.25
    """Held tasks that are asked plainly once more, likewise: only a plain group can
    retire a task."""
    cap: Count = 1024
    """Most tasks held; the oldest goes first. (ZPPO holds 10,000 of a larger run.)"""
    candidates: Count = 4
    """Most wrong answers that a prompt shows."""
    candidate_tokens: Count = 512
    """Tokens to which each is cut."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Held:
    """A task in the buffer.

    Attributes:
      task: without its trace.
      score: mean rubric score of its last plain group.
      wrong: answers of that group that were wrong, worst first.
      right: the judge's answer, if it is right; else empty.
    """

    task: Task
    score: float
    wrong: tuple[str, ...] = ()
    right: str = ""

    def json(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return asdict(self)

    @classmethod
    def read(cls, saved: dict[str, Any]) -> "Held":
        """What ``json`` wrote."""
        task = saved["task"]
        made = Task(
            **task
            | {
                "document": Document(**task["document"]),
                "rubrics": tuple(Rubric(**rubric) for rubric in task["rubrics"]),
            }
        )
        return cls(**saved | {"task": made, "wrong": tuple(saved["wrong"])})


def wrong_answers(
    answers: Sequence[str], scores: Sequence[float], config: ReposingConfig
) -> tuple[str, ...]:
    """A group's different answers below ``hard``, worst first, as far as shown."""
    found: dict[str, str] = {}
    for score, answer in sorted(
        zip(scores, answers, strict=True), key=lambda pair: pair[0]
    ):
        if score < config.hard and answer.strip():
            found.setdefault(plain(answer), answer.strip())
    return tuple(found.values())[: config.candidates]


def after_group(
    held: Sequence[Held], group: Held, config: ReposingConfig
) -> tuple[Held, ...]:
    """The buffer after a plain group: its task admitted, renewed or retired.

    A task that is held already keeps its place. Beyond ``cap`` the oldest is dropped.

    Formula:
      admit a task if the mean g of a plain group < 1/2, retire it at >= 1/2; pose
      the hardest again, as a group of its own, with wrong answers, or one right and one

    References:
      ZPPO (arXiv 2606.18216), with SCOPE's judge for its teacher
    """
    places = {one.task.uid: place for place, one in enumerate(held)}
    kept = list(held)
    place = places.get(group.task.uid)
    failed = group.score < config.hard
    task = replace(group.task, trace={})
    if place is None and failed:
        kept.append(replace(group, task=task))
    elif place is not None and failed:
        # A group in which nobody answered has no candidates: the earlier ones stay.
        before = kept[place]
        kept[place] = replace(
            group,
            task=task,
            wrong=group.wrong or before.wrong,
            right=group.right or before.right,
        )
    elif place is not None:
        del kept[place]
    return tuple(kept[max(len(kept) - config.cap, 0) :])


def hardest(held: Sequence[Held], kind: Literal["ncq", "bcq"]) -> list[Held]:
    """Held tasks with a candidate to show, in the order in which they are re-posed.

    Those with a right answer come first where it is shown, then the lower score, then
    the older.
    """
    shown = [one for one in held if one.wrong]
    return sorted(shown, key=lambda one: (kind == "bcq" and not one.right, one.score))


def replayed(
    held: Sequence[Held], count: int, asked: set[str], draw: np.random.Generator
) -> list[Held]:
    """Up to ``count`` held tasks, at random, that are not ``asked`` plainly anyway."""
    free = [one for one in held if one.task.uid not in asked]
    return [free[place] for place in draw.permutation(len(free))[:count]]
