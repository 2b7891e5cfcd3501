"""Task creation, first half: the trained Challenger writes tasks (spec 11.1 to 11.3).

What a batch of prompts is made into is a function of seed and number only; it is kept
as a file while it waits for its filters, so that a killed run need not write it again.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from scope_jax import challenger, explain
from scope_jax.documents import PromptRow, prompt_rows
from scope_jax.formats import Message
from scope_jax.rollouts import Limits, converse
from scope_jax.run_folder import write_json_lines
from scope_jax.session import Session
from scope_jax.stages import challenger_spec, gather
from scope_jax.training import Progress
from scope_jax.types import Document


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A task as written.

    Attributes:
      uid: iteration/tasks/batch/prompt/sample.
      row: the prompt it was written for.
      text: the task.
      target: the known answer of a short question, else None.
      passages: what its searches brought, for the writer of rubrics.
      messages: the conversation that led to it, for people.
    """

    uid: str
    row: PromptRow
    text: str
    target: str | None
    passages: tuple[str, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a batch of prompts was made into.

    Attributes:
      candidates: tasks of the right format, in row order.
      rejected: a record per conversation without one, in row order, for people.
      errors: classes of errors in what was written.
      tokens: sampled for all of them.
      seconds: that it took; 0 if it was read from a file.
    """

    candidates: tuple[Candidate, ...]
    rejected: tuple[dict[str, Any], ...]
    errors: tuple[str, ...]
    tokens: int
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Conversations played."""
        return len(self.candidates) + len(self.rejected)


def task_seed(seed: int, iteration: int) -> int:
    """Seed of an iteration's task creation: 44, 46, 48 from 42 (spec 1.3)."""
    return seed + 2 * (iteration - 1) + 2


def batch_rows(session: Session, iteration: int, number: int) -> list[PromptRow]:
    """The prompts of batch ``number``, from 1: documents that no batch before had."""
    config = session.config
    seed = task_seed(config.seed, iteration)
    return prompt_rows(
        session.passages,
        session.renderer,
        rows=config.tasks.prompts_per_batch,
        seed=seed,
        # a batch of its own draws: the reference repeats them (spec Q25)
        draw_seed=seed + number - 1,
        offset=config.tasks.prompts_per_batch * (number - 1),
        config=config,
    )


async def write_batch(
    session: Session, iteration: int, number: int, progress: Progress
) -> Written:
    """Plays every conversation of a batch, or reads what came of them from its file."""
    path = session.folder.task_drafts(iteration, number)
    if path.is_file():
        return read_written(path)
    started = time.monotonic()
    rows = batch_rows(session, iteration, number)
    played = await gather(
        (
            _play(session, iteration, number, row, sample)
            for row in rows
            for sample in range(session.config.tasks.samples)
        ),
        progress,
    )
    written = Written(
        candidates=tuple(p.what for p in played if isinstance(p.what, Candidate)),
        rejected=tuple(p.what for p in played if isinstance(p.what, dict)),
        errors=tuple(error for p in played for error in p.errors),
        tokens=sum(p.tokens for p in played),
    )
    save_written(path, written)
    return replace(written, seconds=time.monotonic() - started)


class _Played(NamedTuple):
    """One conversation: its task, or a record of why there is none."""

    what: Candidate | dict[str, Any]
    errors: tuple[str, ...]
    tokens: int


async def _play(
    session: Session, iteration: int, number: int, row: PromptRow, sample: int
) -> _Played:
    """Plays and reads one conversation."""
    config = session.config
    parts = (iteration, "tasks", number, row.index, sample)
    uid = "/".join(map(str, parts))
    episode = await converse(
        challenger_spec(session, "task", row.searches, config.tasks.max_turns),
        session.prompts.challenger(row.document.text, row.task_type, row.searches),
        complete=session.policy,
        search=session.search,
        renderer=session.renderer,
        sampling=config.tasks.sampling,
        limits=Limits(
            context=config.tasks.max_context_tokens,
            response=config.tasks.max_context_tokens,
            whole_turns=True,
        ),
        uid=uid,
        seed=(config.seed, *parts),
    )
    found = challenger.assess(
        episode.state.episode,
        row.searches,
        config.tool_format,
        task_type=row.task_type,
        compat=config.compat,
        strict_think=True,
    )
    score, parse = found.format, found.parse
    short = row.task_type == challenger.SHORT
    right = score.tool >= 1 and score.structure >= 1 and parse.valid
    if right and (parse.reference_answer or not short):
        candidate = Candidate(
            uid=uid,
            row=row,
            text=parse.task,
            target=parse.reference_answer if short else None,
            passages=episode.state.passages,
            messages=episode.state.messages,
        )
        return _Played(candidate, found.errors, episode.sampled_tokens)
    errors = found.errors
    if short and not parse.reference_answer:
        errors = (*errors, "no reference answer")
    record = {
        "uid": uid,
        "type": row.task_type,
        "outcome": "bad_format",
        "why": explain.task_lines("bad_format"),
        "asked_searches": row.searches,
        "format": vars(score),
        "errors": list(errors),
        "finish": episode.finish,
        "messages": list(episode.state.messages),
    }
    return _Played(record, errors, episode.sampled_tokens)


def save_written(path: Path, written: Written) -> None:
    """Writes what a batch came to as JSON lines, the first one about all of them."""
    lines: list[dict[str, Any]] = [
        {"tokens": written.tokens, "errors": list(written.errors)}
    ]
    lines += [{"candidate": asdict(candidate)} for candidate in written.candidates]
    lines += [{"rejected": record} for record in written.rejected]
    write_json_lines(path, lines)


def read_written(path: Path) -> Written:
    """Reads what ``save_written`` wrote."""
    # Not splitlines: models write line separators that JSON leaves as they are.
    first, *lines = [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").split("\n")
        if line
    ]
    return Written(
        candidates=_of("candidate", lines, _candidate),
        rejected=_of("rejected", lines, dict),
        errors=tuple(first["errors"]),
        tokens=first["tokens"],
    )


def _of(kind: str, lines: list[dict], make: Callable[[dict], Any]) -> tuple[Any, ...]:
    return tuple(make(line[kind]) for line in lines if kind in line)


def _candidate(stored: dict[str, Any]) -> Candidate:
    row = stored["row"]
    return Candidate(
        **stored
        | {
            "row": PromptRow(**row | {"document": Document(**row["document"])}),
            "passages": tuple(stored["passages"]),
            "messages": tuple(stored["messages"]),
        }
    )
