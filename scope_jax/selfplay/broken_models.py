"""Stops a run whose model says nothing but errors, and says whose fault that is.

A model with broken weights (NaN after a bad file or a bad update) gives logits that are
not finite; each of its completions then ends as "error" (``rl.engine.sequence``). One
such completion is data, like any other that failed: a conversation that ended, a grade
that can't be read. A model of which nothing else comes would fill a run with them for
hours, and every reward would look like an honest 0. So would requests that an engine
refuses: a fault of the settings or of the tokenizer, which the message then names.
"""

from models.errors import UserError
from rl.records import Completion

# Few enough to stop within one step of the smallest run, and too many for chance.
MOST_ERRORS = 10


class BrokenWeightsError(UserError):
    """A model says nothing but errors, because its weights are broken.

    Attributes:
      model: its name, for people.
    """

    def __init__(self, model: str, why: str):
        super().__init__(f"{model}: {why}")
        self.model, self.why = model, why

    def __reduce__(self):
        return type(self), (self.model, self.why)


def leaves_policy_whole(error: BaseException) -> bool:
    """Whether the policy of a run that ends so is worth a checkpoint.

    One of broken weights would take the place of the last that was whole.
    """
    return not (isinstance(error, BrokenWeightsError) and error.model == "policy")


class ErrorGuard:
    """Counts the errors of one model that follow one another, by their cause.

    Args:
      name: of the model, for people: "policy", "solver" or "judge".
    """

    def __init__(self, name: str):
        self._name = name
        self._broken = self._malformed = 0

    def checked(self, completion: Completion) -> Completion:
        """The same completion.

        Raises:
          UserError: it is an error, and so were the ones before it;
            ``BrokenWeightsError`` where no request was at fault.
        """
        if completion.finish_reason == "error":
            # A request that never ran says nothing about the weights.
            self._malformed += bool(completion.problem)
            self._broken += not completion.problem
        elif completion.text:  # without, it was refused or cancelled: that says nothing
            self._broken = self._malformed = 0
        if self._malformed >= MOST_ERRORS:
            raise UserError(
                f"{self._name}: {self._malformed} requests in a row were malformed: "
                f"{completion.problem}"
            )
        if self._broken >= MOST_ERRORS:
            raise BrokenWeightsError(
                self._name,
                f"{self._broken} completions in a row ended because "
                "its logits are not finite: its weights are broken; check model.path, "
                "or resume from an earlier checkpoint with a lower "
                "optimizer.learning_rate",
            )
        return completion
