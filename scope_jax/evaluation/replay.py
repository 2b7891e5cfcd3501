"""The replay probe: one model searches, another writes the answer from what was found.

The searcher's conversations are those that it was evaluated on, up to the turn that
answers (forced or not); the writer has that turn, and no search. What the writer adds
is the difference to the searcher's own score, question by question. ``swap`` plays all
pairs of two Solvers in the small world.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from models.errors import UserError
from models.mixed_text import mixed, outside
from scope_jax.evaluation.answering import Question, answer, kept, played
from scope_jax.evaluation.entries import Entry
from scope_jax.evaluation.journal import Journal
from scope_jax.evaluation.solving import converse_as_evaluated
from scope_jax.method.formats import RESULT_TAG, Message
from scope_jax.method.types import ToolFormat
from scope_jax.selfplay.training import Progress, gather
from scope_jax.selfplay.world import World
from scope_jax.suite.openings import opening


def pair_name(searcher: Entry, writer: Entry) -> str:
    """The name of the pair among the models that are compared.

    Raises:
      UserError: the two write searches in different ways.
    """
    if searcher.tool_format != writer.tool_format:
        raise UserError(
            f"--answer_from {writer.name}: writes searches as {writer.tool_format}, "
            f"and {searcher.name} as {searcher.tool_format}: choose two of one format"
        )
    return f"{searcher.name}+{writer.name}"


async def replay_all(
    world: World,
    wanted: Sequence[Question],
    searched: Mapping[str, Any],
    temperature: float,
    journal: Journal,
    progress: Progress,
) -> None:
    """Has the policy write the answers that the journal lacks, and adds them.

    Args:
      world: whose policy is the writer.
      wanted: questions.
      searched: the searcher's answers, by key.
      temperature: of the writer.
      journal: of the pair's answers.
      progress: told of each.
    """
    missing = {q.key: q for q in wanted if q.key not in journal.records}

    async def write(question: Question) -> None:
        record = await _write(world, question, searched[question.key], temperature)
        journal.add({"key": question.key} | record)

    await gather((write(question) for question in missing.values()), progress)


async def _write(
    world: World, question: Question, before: Mapping[str, Any], temperature: float
) -> dict[str, Any]:
    row = question.row
    if row.opening == "raw":  # nothing was searched for
        return await answer(world, question, temperature)
    shown = opening(row, world.prompts, world.config.solver.max_searches_eval)
    found = before["messages"][before["opening"] : before["answer_at"]]
    restored = [_restored(m, world.config.tool_format) for m in found]
    seed = (world.config.seed, "replay", row.source, row.question, question.sample)
    rollout = await converse_as_evaluated(
        world, (*shown, *restored), temperature, seed, 1
    )
    return kept(world, question, played(rollout))


def _restored(message: Message, tool_format: ToolFormat) -> Message:
    """A stored message that knows again which of its text came from outside."""
    tag, text = RESULT_TAG[tool_format], message["content"]
    first, last = f"<{tag}>", f"</{tag}>"
    if message["role"] == "tool":
        text = outside(text)
    elif message["role"] == "user" and text.startswith(first) and text.endswith(last):
        inside = text.removeprefix(first).removesuffix(last)
        text = mixed(first, outside(inside), last)
    return {**message, "content": text}
