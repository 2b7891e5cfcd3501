"""What a model is shown of a row: the opening messages of its conversation."""

from models.mixed_text import outside
from scope_jax.method.formats import Message
from scope_jax.method.prompts import PromptSet
from scope_jax.suite.rows import Row


def opening(row: Row, prompts: PromptSet, max_searches: int) -> tuple[Message, ...]:
    """The messages that a model is asked with (spec 13.1).

    Args:
      row: what is asked.
      prompts: the prompt set of the model's family.
      max_searches: that the rules allow.
    """
    if row.opening == "raw":
        return ({"role": "user", "content": outside(row.prompt)},)
    if row.opening == "dialogue":
        return prompts.dialogue(row.messages, max_searches)
    return prompts.solver(row.prompt, max_searches)
