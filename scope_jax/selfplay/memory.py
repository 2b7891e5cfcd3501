"""What a training stage remembers from step to step, beside its weights.

It is made from finished steps only and kept in the stage's checkpoints, so that a
resumed stage goes on as if nothing had happened.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from scope_jax.method.challenger_shapes import RECENT
from scope_jax.selfplay.rollouts import Rollout


class Memory(Protocol):
    """Remembers; the same in every process of the trainer."""

    def learn(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Takes in a finished step's rollouts, in order; returns metrics."""

    def saved(self) -> Any:
        """All of it, as JSON."""

    def restore(self, saved: Any) -> None:
        """Becomes what ``saved`` was; None is nothing yet."""


class RecentTasks:
    """The tasks that the Challenger wrote last, before the step that is played.

    Attributes:
      tasks: up to 100 of them, oldest first.
    """

    def __init__(self):
        self.tasks: tuple[str, ...] = ()

    def learn(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Adds the tasks of a step, in the order of prompts and samples."""
        written = [one.trace["task"] for one in rollouts if one.trace.get("task")]
        self.tasks = (*self.tasks, *written)[-RECENT:]
        return {}

    def saved(self) -> list[str]:
        """The tasks."""
        return list(self.tasks)

    def restore(self, saved: list[str] | None) -> None:
        """Becomes these tasks."""
        self.tasks = tuple(saved or ())
