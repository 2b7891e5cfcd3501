"""Replay swaps: one Solver searches, another writes the answer from what was found.

A searcher plays held-out tasks; its conversation up to its last search result is given
to a writer, which has one turn left (and is told to answer, as at the end of any
evaluation, should it search again). All four pairs of two Solvers are played like this,
the unmixed ones too, so that nothing but who searched and who wrote differs. What a
swap changes is the gain over the first Solver doing both, task by task.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scope_jax.evaluation.solving import converse_as_evaluated
from scope_jax.method import solver_output
from scope_jax.method.formats import Message
from scope_jax.method.turn_rules import LAST_SEARCH
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.rollouts import Rollout
from scope_jax.selfplay.training import Progress, gather
from scope_jax.selfplay.world import World
from scope_jax.small_world.tasks import WorldTask, true_score

TEMPERATURES = {"greedy": 0.0, "sampled": 1.0}
Opening = tuple[Message, ...]


class Written(NamedTuple):
    """An answer, empty if there is none, and whether its writer would have searched on.

    Such a writer answers, if it does, where it would not have stopped.
    """

    answer: str
    unfinished: bool


def swap(
    parts: Parts,
    solvers: Mapping[str, str],
    tasks: Sequence[WorldTask],
    progress: Progress = lambda done, of: None,
) -> dict[str, Any]:
    """True scores of every pair of searcher and writer, greedily and at T=1.

    Args:
      parts: of the run whose Solvers they are.
      solvers: name -> Hugging Face folder; the first one is what gains are over.
      tasks: held-out ones.
      progress: told of each conversation.

    Returns:
      ``summary`` of the scores, for each of ``TEMPERATURES``.
    """
    world, texts = parts.world, [task.text for task in tasks]
    found: dict[str, dict[str, list[Opening]]] = {kind: {} for kind in TEMPERATURES}
    for searcher, folder in solvers.items():
        parts.trainer.use_folder(folder)
        for kind, temperature in TEMPERATURES.items():
            work = searches(world, texts, searcher, temperature, progress)
            found[kind][searcher] = parts.serving.run(work)
    scores: dict[str, dict[tuple[str, str], list[float]]] = {k: {} for k in found}
    unfinished: dict[str, dict[tuple[str, str], float]] = {k: {} for k in found}
    for writer, folder in solvers.items():
        parts.trainer.use_folder(folder)
        for kind, temperature in TEMPERATURES.items():
            for searcher, openings in found[kind].items():
                name = f"{searcher}/{writer}"
                work = answers(world, openings, name, temperature, progress)
                written = parts.serving.run(work)
                scores[kind][searcher, writer] = [
                    true_score(one.answer, task.facts)
                    for one, task in zip(written, tasks, strict=True)
                ]
                share = sum(one.unfinished for one in written) / len(written)
                unfinished[kind][searcher, writer] = share
    first = next(iter(solvers))
    return {
        kind: summary(pairs, first, unfinished[kind]) for kind, pairs in scores.items()
    }


async def searches(
    world: World,
    tasks: Sequence[str],
    name: str,
    temperature: float,
    progress: Progress = lambda done, of: None,
) -> list[Opening]:
    """The policy's conversation about each task, up to its last search result."""
    limit = world.config.solver.max_searches_eval

    async def play(number: int, task: str) -> Opening:
        seed = (world.config.seed, "swap", "search", name, str(temperature), number)
        opening = world.prompts.solver(task, limit)
        rollout = await converse_as_evaluated(world, opening, temperature, seed)
        return until_last_search(rollout)

    return await gather((play(i, task) for i, task in enumerate(tasks)), progress)


async def answers(
    world: World,
    openings: Sequence[Opening],
    name: str,
    temperature: float,
    progress: Progress = lambda done, of: None,
) -> list[Written]:
    """What the policy answers after each opening."""

    async def play(number: int, opening: Opening) -> Written:
        seed = (world.config.seed, "swap", "answer", name, str(temperature), number)
        rollout = await converse_as_evaluated(world, opening, temperature, seed, 1)
        parse = solver_output.parse_answer(rollout.played)
        unfinished = rollout.turn_log[0]["what"] == LAST_SEARCH
        return Written(parse.answer if parse.valid else "", unfinished)

    return await gather((play(i, one) for i, one in enumerate(openings)), progress)


def until_last_search(rollout: Rollout) -> Opening:
    """The conversation up to the last result that came back; the prompt if none did."""
    ran = [
        line["turn"]
        for line in rollout.turn_log
        if any(not isinstance(call, str) for call in line.get("calls", ()))
    ]
    if not ran:
        return rollout.messages[: rollout.opening]
    spoken = [
        place
        for place, message in enumerate(rollout.messages)
        if place >= rollout.opening and message["role"] == "assistant"
    ]
    later = spoken[ran[-1] :]  # turns count from 1
    return rollout.messages[: later[0]] if later else rollout.messages


def until_answer(rollout: Rollout) -> int:
    """How many messages come before the turn that answers.

    That is the first turn that was forced to, else the last one.
    """
    spoken = [
        place
        for place, message in enumerate(rollout.messages)
        if place >= rollout.opening and message["role"] == "assistant"
    ]
    for place, line in zip(spoken, rollout.turn_log, strict=True):
        if line["what"] == "forced answer":
            return place
    return spoken[-1] if spoken else len(rollout.messages)


def summary(
    pairs: Mapping[tuple[str, str], Sequence[float]],
    first: str,
    unfinished: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """Mean score and gain of each pair, with standard errors over tasks.

    Args:
      pairs: (searcher, writer) -> score of each task.
      first: the Solver over which gains are measured.
      unfinished: of each pair, the share of writers who would have searched on.
    """
    base = pairs[first, first]
    rows = []
    for (searcher, writer), scores in pairs.items():
        score, stderr = _mean(scores)
        gain, gain_stderr = _mean([a - b for a, b in zip(scores, base, strict=True)])
        rows.append(
            {
                "searches": searcher,
                "answers": writer,
                "score": score,
                "stderr": stderr,
                "gain": gain,
                "gain_stderr": gain_stderr,
                "unfinished": unfinished[searcher, writer],
                "n": len(scores),
            }
        )
    return rows


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; one value has no error."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)
