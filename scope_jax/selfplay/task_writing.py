"""Task creation, first half: the trained Challenger writes tasks (spec 11.1 to 11.3).

What a batch of prompts is made into is a function of seed and number only; it is kept
as a file while it waits for its filters, so that a killed run need not write it again.
"""

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax.method import challenger
from scope_jax.method.formats import Message
from scope_jax.method.outcomes import outcome_line
from scope_jax.method.types import Task
from scope_jax.selfplay.documents import ChallengerPrompt, challenger_prompts
from scope_jax.selfplay.rollouts import Limits, Rollout, converse
from scope_jax.selfplay.training import Progress, gather
from scope_jax.selfplay.world import World
from scope_jax.system import settings
from scope_jax.system.files import remove

log = logging.getLogger("scope_jax")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A task as written.

    Attributes:
      uid: iteration/tasks/batch/prompt/sample.
      prompt: what it was written for.
      text: the task.
      target: the known answer of a short question, else None.
      passages: what its searches brought, for the writer of rubrics.
      messages: the conversation that led to it, for people.
    """

    uid: str
    prompt: ChallengerPrompt
    text: str
    target: str | None
    passages: tuple[str, ...]
    messages: tuple[Message, ...]

    def task(self, **measured: Any) -> Task:
        """The task that is kept, with what was measured of it (fields of ``Task``)."""
        return Task(
            uid=self.uid,
            type=self.prompt.task_type,
            text=self.text,
            document=self.prompt.document,
            searches=self.prompt.searches,
            target=self.target,
            **measured,
        )


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a batch of prompts was made into.

    Attributes:
      candidates: tasks of the right format, in prompt order.
      rejected: a record per conversation without one, in prompt order, for people.
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

    @property
    def texts(self) -> dict[str, tuple[str, str]]:
        """By uid: every candidate's text, and the title of its document."""
        return {c.uid: (c.text, c.prompt.document.title) for c in self.candidates}


def task_seed(seed: int, iteration: int) -> int:
    """Seed of an iteration's task creation: 44, 46, 48 from 42 (spec 1.3)."""
    return seed + 2 * (iteration - 1) + 2


def batch_prompts(world: World, iteration: int, number: int) -> list[ChallengerPrompt]:
    """The prompts of batch ``number``, from 1: documents that no batch before had."""
    config = world.config
    seed = task_seed(config.seed, iteration)
    return challenger_prompts(
        world.passages,
        world.renderer,
        count=config.tasks.prompts_per_batch,
        seed=seed,
        # a batch of its own draws: the reference repeats them (spec Q25)
        draw_seed=seed + number - 1,
        offset=config.tasks.prompts_per_batch * (number - 1),
        config=config,
    )


async def write_batch(
    world: World, path: Path, iteration: int, number: int, progress: Progress
) -> Written:
    """Plays every conversation of a batch, or reads what came of them from its file."""
    if found := _earlier(path):
        return found
    started = time.monotonic()
    candidates: list[Candidate] = []
    rejected: list[dict[str, Any]] = []
    errors: list[str] = []
    work = [
        _play(world, iteration, number, prompt, sample)
        for prompt in batch_prompts(world, iteration, number)
        for sample in range(world.config.tasks.samples)
    ]
    played = await gather(work, progress)
    for prompt, rollout in played:
        found, wrong = _read(world, prompt, rollout)
        errors += wrong
        (candidates if isinstance(found, Candidate) else rejected).append(found)
    written = Written(
        candidates=tuple(candidates),
        rejected=tuple(rejected),
        errors=tuple(errors),
        tokens=sum(rollout.sampled_tokens for _, rollout in played),
    )
    settings.save(written, path, recorded=True)
    return replace(written, seconds=time.monotonic() - started)


def _earlier(path: Path) -> Written | None:
    """What an earlier start has written; a file that cannot be read is removed."""
    older = path.with_suffix(".jsonl")  # as older versions wrote it
    if path.is_file():
        with contextlib.suppress(UserError):
            return settings.load(Written, path)
    for file in (path, older):
        if file.is_file():
            log.warning("%s: cannot be read: this batch is written again", file)
            remove(file)
    return None


async def _play(
    world: World, iteration: int, number: int, prompt: ChallengerPrompt, sample: int
) -> tuple[ChallengerPrompt, Rollout]:
    """Plays one conversation."""
    config = world.config
    context = config.tasks.max_context_tokens
    return prompt, await converse(
        world,
        world.challenger_spec("task", prompt.searches, config.tasks.max_turns),
        world.prompts.challenger(
            prompt.document.text, prompt.task_type, prompt.searches
        ),
        complete=world.policy,
        sampling=config.tasks.sampling,
        limits=Limits(context=context, response=context, whole_turns=True),
        seed=(config.seed, iteration, "tasks", number, prompt.index, sample),
    )


def _read(
    world: World, prompt: ChallengerPrompt, rollout: Rollout
) -> tuple[Candidate | dict[str, Any], tuple[str, ...]]:
    """A conversation's task, or a record of why it has none; and classes of errors."""
    found = challenger.assess(
        rollout.played,
        prompt.searches,
        world.config.tool_format,
        task_type=prompt.task_type,
        compat=world.config.compat,
        strict_think=True,
    )
    score, parse, errors = found.format, found.parse, found.errors
    short = prompt.task_type == challenger.SHORT
    right = score.tool >= 1 and score.structure >= 1 and parse.valid
    if right and (parse.reference_answer or not short):
        candidate = Candidate(
            uid=rollout.uid,
            prompt=prompt,
            text=parse.task,
            target=parse.reference_answer if short else None,
            passages=rollout.passages,
            messages=rollout.messages,
        )
        return candidate, errors
    if short and not parse.reference_answer:
        errors = (*errors, "no reference answer")
    record = {
        "uid": rollout.uid,
        "type": prompt.task_type,
        "outcome": "bad_format",
        "why": [outcome_line("bad_format")],
        "asked_searches": prompt.searches,
        "format": vars(score),
        "errors": list(errors),
        "finish": rollout.finish_reason,
        "messages": list(rollout.messages),
    }
    return record, errors
