"""A judge's verdicts on the answers of one model to one source, kept as they come."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl.engine.sampling import seed64
from scope_jax.evaluation.answering import Question, read_answer
from scope_jax.evaluation.journal import Journal
from scope_jax.evaluation.judges import Judge
from scope_jax.method.formats import Message
from scope_jax.selfplay.training import Progress, gather
from scope_jax.suite import verdicts
from scope_jax.suite.rows import digest
from scope_jax.suite.verdicts import Answer, Asking, Calls, Said, Score
from scope_jax.system.stopping import Stopped

log = logging.getLogger("scope_jax")

AT_ONCE = 64
"""Answers whose calls are made together: their prefixes stay in the judge's cache."""
COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens")


@dataclass(frozen=True)
class Graded:
    """A question and the answer that a model gave."""

    question: Question
    answer: Answer


def graded(wanted: Sequence[Question], answers: Mapping[str, Any]) -> list[Graded]:
    """Questions with their answers out of a journal's records."""
    return [Graded(q, read_answer(answers[q.key])) for q in wanted]


def said_of(
    one: Graded, records: Mapping[str, Any], asking: Asking
) -> tuple[Said, Calls]:
    """What is known of an answer: what was said, and the calls still to be made."""
    heard: dict[str, str | None] = {}
    while True:
        wanted = verdicts.calls(one.question.row, one.answer, heard, asking)
        known = {
            name: records[key]["text"]
            for name, messages in wanted.items()
            if (key := key_of(messages)) in records
        }
        heard |= known
        if not known:
            return heard, wanted


def incomplete(
    wanted: Sequence[Graded], records: Mapping[str, Any], asking: Asking
) -> bool:
    """Whether a call is still to be made about some answer, or has failed."""
    for each in wanted:
        heard, left = said_of(each, records, asking)
        if left or None in heard.values():
            return True
    return False


def key_of(messages: Sequence[Message]) -> str:
    """Names a request by what is asked, whoever's answer it is about."""
    return digest([[m["role"], m["content"]] for m in messages])


async def grade_all(
    judge: Judge,
    wanted: Sequence[Graded],
    asking: Asking,
    journal: Journal,
    seed: int,
    progress: Progress,
) -> None:
    """Asks for every verdict that the journal has not, and adds it.

    A call that fails is kept with its reason and asked for again by the next command.

    Args:
      judge: who is asked.
      wanted: answers of one model to one source.
      asking: how.
      journal: of the verdicts on them.
      seed: of the judge's draws.
      progress: told of each answer that is judged.

    Raises:
      Stopped: more than half of the calls failed: no score is made of the rest.
    """
    for key in [k for k, record in journal.records.items() if record["text"] is None]:
        del journal.records[key]
    pending: dict[str, asyncio.Task] = {}
    done = 0

    async def one(each: Graded) -> None:
        while True:
            _, calls = said_of(each, journal.records, asking)
            if not calls:
                return
            await asyncio.gather(*(asked(*item) for item in calls.items()))

    async def asked(name: str, messages: Sequence[Message]) -> None:
        """Asks, or waits for one who asks the same: equal answers have equal calls."""
        key = key_of(messages)
        if key not in pending:
            pending[key] = asyncio.create_task(call(key, name, messages))
        await pending[key]

    async def call(key: str, name: str, messages: Sequence[Message]) -> None:
        reply = await judge.ask(messages, seed64(seed, "verdict", key))
        shown = [{"role": m["role"], "content": m["content"]} for m in messages]
        journal.add({"key": key, "call": name, "messages": shown, **vars(reply)})

    for first in range(0, len(wanted), AT_ONCE):
        part = wanted[first : first + AT_ONCE]
        await gather(
            map(one, part), lambda n, of, done=done: progress(done + n, len(wanted))
        )
        done += len(part)
        check(journal, wanted, asking)


def check(journal: Journal, wanted: Sequence[Graded], asking: Asking) -> None:
    """Looks whether too many calls have failed, of all that these answers take.

    Raises:
      Stopped: more than half of them.
    """
    failed = [r for r in journal.records.values() if r["text"] is None]
    if not failed:
        return
    calls = sum(
        len(heard) + len(left)
        for heard, left in (said_of(each, journal.records, asking) for each in wanted)
    )
    if 2 * len(failed) > calls:
        raise Stopped(
            f"error: {journal.path}: {len(failed)} of {calls} calls of the judge "
            f"failed, the last one because of {failed[-1]['problem']}: no score is "
            "made of so few: the same command asks for them again",
            1,
        )
    log.debug("%s: %d of %d calls failed", journal.path, len(failed), calls)


def scored(
    wanted: Sequence[Graded], records: Mapping[str, Any], asking: Asking
) -> list[Score]:
    """The score of each answer, by what was said of it."""
    found = []
    for each in wanted:
        heard, _ = said_of(each, records, asking)
        found.append(verdicts.score(each.question.row, each.answer, heard, asking))
    return found


def cost(records: Mapping[str, Any]) -> dict[str, int]:
    """Calls and tokens of verdicts, as their judge counts them."""
    counted = {
        name: sum(record[name] for record in records.values()) for name in COUNTED
    }
    failed = sum(record["text"] is None for record in records.values())
    return {"calls": len(records), "failed": failed, **counted}
