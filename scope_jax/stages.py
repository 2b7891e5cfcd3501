"""Stages 1 and 3: what a training step of the Challenger and of the Solver plays."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

from models.errors import UserError
from rl import loader
from scope_jax import hosts
from scope_jax.config import StageConfig
from scope_jax.conversation import ConversationSpec
from scope_jax.documents import PromptRow, prompt_rows
from scope_jax.formats import Message, Reward
from scope_jax.rewards import Rewards, Seed, judge_metrics
from scope_jax.rollouts import Episode, Limits, converse
from scope_jax.session import Session
from scope_jax.task_file import read_tasks
from scope_jax.training import Progress, Scored, carry_over, train
from scope_jax.types import Task

log = logging.getLogger("scope_jax")

T = TypeVar("T")

DATA_SEED = 1  # of the training data's order (spec 1.3)


def challenger_seed(seed: int, iteration: int) -> int:
    """Seed of an iteration's Challenger prompts: 43, 45, 47 from 42 (spec 1.3)."""
    return seed + 2 * (iteration - 1) + 1


def challenger_spec(
    session: Session, kind: str, searches: int, max_turns: int
) -> ConversationSpec:
    """How a Challenger's conversation of ``kind`` goes."""
    config = session.config
    return ConversationSpec(
        kind=kind,
        tool_format=config.tool_format,
        prompts=session.prompts,
        num_searches=searches,
        max_turns=max_turns,
        style=config.challenger.style,
        tool_tokens=config.challenger.tool_tokens,
        compat=config.compat,
    )


async def gather(work: Iterable[Awaitable[T]], progress: Progress) -> list[T]:
    """All results in order, telling ``progress`` of each that is finished."""
    finished = 0

    async def one(task: Awaitable[T]) -> T:
        nonlocal finished
        result = await task
        finished += 1
        progress(finished, len(tasks))
        return result

    tasks = list(work)
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(task)) for task in tasks]
    except BaseExceptionGroup as failed:  # the first reason; the others follow from it
        raise failed.exceptions[0] from None
    return [task.result() for task in running]


def train_challenger(session: Session, iteration: int) -> None:
    """Stage 1: rewarded where the previous Solver's score is near one half."""
    config = session.config
    stage = config.challenger_train
    rewards = Rewards(session, "challenger")
    session.serve_solver(iteration)

    def rows(step: int) -> list[PromptRow]:
        count = config.documents.rows
        return prompt_rows(
            session.passages,
            session.renderer,
            rows=count,
            seed=challenger_seed(config.seed, iteration),
            config=config,
            only=loader.order(
                count,
                seed=DATA_SEED,
                step=_position(step, stage),
                batch=stage.prompts_per_step,
            ),
        )

    async def play(step: int, prompt: int, sample: int, row: PromptRow) -> Scored:
        episode, uid, seed = await _episode(
            session,
            challenger_spec(
                session, "challenger", row.searches, config.challenger.max_turns
            ),
            session.prompts.challenger(row.document.text, row.task_type, row.searches),
            (iteration, "challenger", step, prompt, sample),
        )
        reward, attempts = await rewards.challenger(episode, row, seed)
        grades = [g for attempt in attempts for g in attempt.grades or ()]
        asked = {"task_type": row.task_type, "asked_searches": row.searches}
        return _scored(
            episode,
            reward,
            uid=uid,
            group=prompt,
            role="challenger",
            asked=asked,
            metrics={"rollout/solver_turns": _mean(a.turns for a in attempts)}
            | {"rollout/solver_searches": _mean(a.searches for a in attempts)}
            | judge_metrics(grades),
        )

    async def collect(step: int, progress: Progress) -> list[Scored]:
        return await gather(
            (
                play(step, prompt, sample, row)
                for prompt, row in hosts.mine(list(enumerate(rows(step))))
                for sample in range(stage.group_size)
            ),
            progress,
        )

    for row in rows((iteration - 1) * stage.steps + 1):
        _check_prompt(session, row)
    train(session, iteration, "challenger", collect)


def train_solver(session: Session, iteration: int) -> None:
    """Stage 3: rewarded for rubrics met, at a controlled length."""
    config = session.config
    stage = config.solver_train
    rewards = Rewards(session, "solver")
    tasks = _usable(session, read_tasks(session.folder.tasks(iteration)))

    async def play(step: int, prompt: int, sample: int, task: Task) -> Scored:
        episode, uid, seed = await _episode(
            session,
            rewards.solver_spec("solver"),
            session.prompts.solver(task.text, config.solver.max_searches),
            (iteration, "solver", step, prompt, sample),
        )
        reward, grades = await rewards.solver(episode, task, seed)
        return _scored(
            episode,
            reward,
            uid=uid,
            group=prompt,
            role="solver",
            asked={"task_uid": task.uid, "task_type": task.type},
            metrics=judge_metrics(grades),
        )

    async def collect(step: int, progress: Progress) -> list[Scored]:
        chosen = loader.order(
            len(tasks),
            seed=DATA_SEED,
            step=_position(step, stage),
            batch=stage.prompts_per_step,
        )
        return await gather(
            (
                play(step, prompt, sample, tasks[index])
                for prompt, index in hosts.mine(list(enumerate(chosen)))
                for sample in range(stage.group_size)
            ),
            progress,
        )

    if tasks:
        train(session, iteration, "solver", collect)
    else:
        log.warning(
            "iteration %d: no task to train the Solver on: it stays as it is; see "
            "tasks/ in the table above, and widen tasks.low, tasks.high",
            iteration,
        )
        carry_over(session, iteration, "solver")


async def _episode(
    session: Session,
    spec: ConversationSpec,
    messages: Sequence[Message],
    parts: tuple[int, str, int, int, int],
) -> tuple[Episode, str, Seed]:
    """One rollout of the policy in training, with its uid and seed.

    Args:
      parts: iteration, role, step, prompt, sample.
    """
    stage = session.stage_config(parts[1])
    uid, seed = "/".join(map(str, parts)), (session.config.seed, *parts)
    episode = await converse(
        spec,
        messages,
        complete=session.policy,
        search=session.search,
        renderer=session.renderer,
        sampling=stage.sampling,
        limits=Limits(
            context=stage.max_context_tokens, response=stage.max_response_tokens
        ),
        uid=uid,
        seed=seed,
    )
    return episode, uid, seed


def _position(step: int, stage: StageConfig) -> int:
    """Steps done in this iteration, whose data are its own, before ``step``."""
    return (step - 1) % stage.steps


def _check_prompt(session: Session, row: PromptRow) -> None:
    """Refuses a Challenger prompt over the limit: its example or document is long."""
    messages = session.prompts.challenger(
        row.document.text, row.task_type, row.searches
    )
    tokens = len(session.renderer.prompt_ids(messages, session.prompts.tools()))
    limit = session.config.challenger_train.max_prompt_tokens
    if tokens > limit:
        raise UserError(
            f"Challenger prompt of {tokens} tokens exceeds "
            f"challenger_train.max_prompt_tokens={limit}: raise it, or lower "
            "documents.max_tokens"
        )


def _usable(session: Session, tasks: list[Task]) -> list[Task]:
    """The tasks whose prompts fit the Solver's limit (spec Q28)."""
    limit = session.config.solver_train.max_prompt_tokens
    fitting = [
        task for task in tasks if solver_prompt_tokens(session, task.text) <= limit
    ]
    if len(fitting) < len(tasks):
        log.warning(
            "%d tasks have prompts over %d tokens and are left out",
            len(tasks) - len(fitting),
            limit,
        )
    return fitting


def solver_prompt_tokens(session: Session, task: str) -> int:
    """Tokens of the Solver's prompt for a task, tool schema included."""
    messages = session.prompts.solver(task, session.config.solver.max_searches)
    return len(session.renderer.prompt_ids(messages, session.prompts.tools()))


def _scored(
    episode: Episode,
    reward: Reward,
    *,
    uid: str,
    group: int,
    role: str,
    asked: dict,
    metrics: dict[str, float],
) -> Scored:
    """A rollout with its reward, and its parts as metrics."""
    parts = {
        f"{'rollout' if key in _BEHAVIOUR else 'reward'}/{key}": value
        for key, value in reward.parts.items()
    }
    trajectory = episode.trajectory(
        uid=uid,
        group=group,
        role=role,
        trace={
            **asked,
            "reward": reward.value,
            "parts": reward.parts,
            "errors": list(reward.errors),
            **reward.trace,
        },
    )
    return Scored(
        trajectory=trajectory,
        reward=reward.value,
        metrics=parts | {"rollout/ran_searches": episode.state.searches} | metrics,
        sampled_tokens=episode.sampled_tokens,
        errors=reward.errors,
    )


_BEHAVIOUR = ("searches", "valid_actions", "answer_tokens", "answer_truncated")


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan
