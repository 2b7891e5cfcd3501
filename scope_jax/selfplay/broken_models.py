"""Stops a run whose model says nothing but errors.

A model with broken weights (NaN after a bad file or a bad update) gives logits that are
not finite; each of its completions then ends as "error" (``rl.engine.sequence``). One
such completion is data, like any other that failed: a conversation that ended, a grade
that can't be read. A model of which nothing else comes would fill a run with them for
hours, and every reward would look like an honest 0.
"""

from models.errors import UserError
from rl.records import Completion

# Few enough to stop within one step of the smallest run, and too many for chance.
MOST_ERRORS = 10


class ErrorGuard:
    """Counts the errors of one model that follow one another.

    Args:
      name: of the model, for people: "policy", "solver" or "judge".
    """

    def __init__(self, name: str):
        self._name, self._in_a_row = name, 0

    def checked(self, completion: Completion) -> Completion:
        """The same completion.

        Raises:
          UserError: it is an error, and so were the ones before it.
        """
        if completion.finish_reason == "error":
            self._in_a_row += 1
        elif completion.text:  # without, it was refused or cancelled: that says nothing
            self._in_a_row = 0
        if self._in_a_row >= MOST_ERRORS:
            raise UserError(
                f"{self._name}: {self._in_a_row} completions in a row ended because "
                "its logits are not finite: its weights are broken; check model.path, "
                "or resume from an earlier checkpoint with a lower "
                "optimizer.learning_rate"
            )
        return completion
