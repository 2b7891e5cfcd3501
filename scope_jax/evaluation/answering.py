"""A model's answers to the rows of benchmarks, kept as they come (spec 13.2).

Questions are played as in any evaluation, with searches and forced answers. A row that
is asked raw is one turn, and all of it but its thinking is the answer (spec Q37).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rl.engine.sampling import seed64
from rl.records import Request
from scope_jax.evaluation.journal import Journal
from scope_jax.evaluation.solving import converse_as_evaluated
from scope_jax.evaluation.swap import until_answer
from scope_jax.method import solver_output
from scope_jax.method.formats import Message, after_thinking
from scope_jax.method.solver import length_factor
from scope_jax.selfplay.rollouts import Rollout, Seed
from scope_jax.selfplay.training import Progress, gather
from scope_jax.selfplay.world import World
from scope_jax.suite.openings import opening
from scope_jax.suite.rows import Row, digest
from scope_jax.suite.verdicts import Answer


@dataclass(frozen=True)
class Question:
    """A row to be answered, once for each sample."""

    row: Row
    sample: int

    @property
    def key(self) -> str:
        """Names the answer among those of a model."""
        asked = [self.row.source, self.row.question, self.row.short, self.sample]
        return digest(asked)


def questions(rows: Sequence[Row], samples: int) -> list[Question]:
    """Each row, ``samples`` times."""
    return [Question(row, sample) for row in rows for sample in range(samples)]


async def answer_all(
    world: World,
    wanted: Sequence[Question],
    temperature: float,
    journal: Journal,
    progress: Progress,
) -> None:
    """Answers what the journal has no answer to, and adds it.

    Args:
      world: whose policy answers.
      wanted: rows that ask the same share an answer.
      temperature: 0 is greedy.
      journal: of the model's answers to the rows of one source.
      progress: told of each answer.
    """
    missing = {q.key: q for q in wanted if q.key not in journal.records}

    async def play(question: Question) -> None:
        record = await answer(world, question, temperature)
        journal.add({"key": question.key} | record)

    await gather((play(question) for question in missing.values()), progress)


async def answer(
    world: World, question: Question, temperature: float
) -> dict[str, Any]:
    """One answer, as it is stored."""
    row = question.row
    shown = opening(row, world.prompts, world.config.solver.max_searches_eval)
    seed = (world.config.seed, "benchmark", row.source, row.question, question.sample)
    if row.opening == "raw":
        return kept(world, question, await one_turn(world, shown, temperature, seed))
    rollout = await converse_as_evaluated(world, shown, temperature, seed)
    return kept(world, question, played(rollout))


def played(rollout: Rollout) -> dict[str, Any]:
    """A conversation as it is stored."""
    parse = solver_output.parse_answer(rollout.played)
    return {
        "answer": parse.answer if parse.valid else "",
        "searches": rollout.searches,
        "turns": rollout.turns,
        "finish": rollout.finish_reason,
        "sampled_tokens": rollout.sampled_tokens,
        "messages": list(rollout.messages),
        "opening": rollout.opening,
        "answer_at": until_answer(rollout),
    }


def kept(world: World, question: Question, said: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with what it is to and what of it is graded; short ones by length."""
    row, text = question.row, said["answer"]
    tokens = len(world.renderer.encode_text(text))
    limits = world.config.solver.length
    graded, length = text, 1.0
    if row.short:
        length = length_factor(tokens, limits)
        if tokens > 2 * limits.hard:
            graded, length = "", 0.0
        elif tokens > limits.hard:
            graded = world.renderer.cut_text(text, limits.hard)
    return {
        "source": row.source,
        "question": row.question,
        "sample": question.sample,
        "prompt": row.prompt or row.messages[-1]["content"],
        **said,
        "graded": graded,
        "length": length,
        "tokens": tokens,
    }


def read_answer(record: Mapping[str, Any]) -> Answer:
    """The answer of a stored record."""
    return Answer(
        text=record["answer"], graded=record["graded"], length=record["length"]
    )


async def one_turn(
    world: World, shown: Sequence[Message], temperature: float, seed: Seed
) -> dict[str, Any]:
    """A turn without search, tags or stop strings."""
    stage, renderer = world.config.solver_train, world.renderer
    ids = tuple(renderer.prompt_ids(shown))
    room = stage.max_context_tokens - len(ids) - 1
    nothing = {"answer": "", "searches": 0, "turns": 0, "finish": "length"}
    messages = [dict(message) for message in shown]
    if room < 1:
        return nothing | {"sampled_tokens": 0, "messages": messages}
    wanted = min(stage.sampling.max_new_tokens, room)
    sampling = replace(stage.sampling, temperature=temperature, max_new_tokens=wanted)
    completion = await world.policy(
        Request(
            ids=ids,
            sampling=sampling,
            stop_ids=renderer.stop_ids,
            seed64=seed64(*seed, 0),
        )
    )
    said = renderer.opening_of(ids) + completion.text
    return {
        "answer": (after_thinking(said) or "").strip(),
        "searches": 0,
        "turns": 1,
        "finish": "done" if completion.finish_reason == "stop" else "length",
        "sampled_tokens": len(completion.ids),
        "messages": [*messages, {"role": "assistant", "content": said}],
    }
