"""Stages 1 and 3: which prompts a training step has, and how a rollout is rewarded."""

import functools
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

from models.errors import UserError
from rl.learner import data_order
from rl.records import Completion
from scope_jax.config import StageConfig
from scope_jax.method.conversation import ConversationSpec
from scope_jax.method.formats import Message
from scope_jax.method.types import Task
from scope_jax.run.folder import needed_from
from scope_jax.selfplay.documents import ChallengerPrompt, challenger_prompts
from scope_jax.selfplay.memory import RecentTasks
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.reposing import SolverPrompt, TaskBuffer
from scope_jax.selfplay.resampling import with_resamples
from scope_jax.selfplay.rewards import reward_challenger, reward_solver, reweighted
from scope_jax.selfplay.rollouts import NOTHING, Limits, Rollout, Seed, converse
from scope_jax.selfplay.task_file import read_tasks
from scope_jax.selfplay.teaching import taught
from scope_jax.selfplay.training import TrainingStage, carry_over, train
from scope_jax.selfplay.world import World

log = logging.getLogger("scope_jax")

DATA_SEED = 1  # of the training data's order (spec 1.3)


def train_challenger(parts: Parts, iteration: int) -> None:
    """Stage 1: rewarded where the previous Solver's score is near one half."""
    world, config = parts.world, parts.world.config
    settings, count = config.challenger_train, config.documents.rows
    if not settings.steps:
        carry_over(parts, iteration, "challenger")
        return
    parts.serve_previous_solver(iteration)
    recent = RecentTasks()

    def prompts_of(indices: Sequence[int]) -> list[ChallengerPrompt]:
        return challenger_prompts(
            world.passages,
            world.renderer,
            count=count,
            seed=challenger_seed(config.seed, iteration),
            config=config,
            only=indices,
        )

    def prompts(step: int) -> list[ChallengerPrompt]:
        return prompts_of(_chosen(count, step, settings))

    async def rollout(prompt: ChallengerPrompt, seed: Seed) -> Rollout:
        spec = world.challenger_spec(
            "challenger", prompt.searches, config.challenger.max_turns
        )
        return await _timed(
            _play(world, settings, spec, _opening(world, prompt), seed),
            lambda played: reward_challenger(world, played, prompt, recent.tasks),
        )

    def more(step: int, start: int, wanted: int) -> list[ChallengerPrompt]:
        indices = itertools.islice(_later(count, step, settings), start, start + wanted)
        return prompts_of(list(indices))

    for prompt in prompts((iteration - 1) * settings.steps + 1):
        _check_prompt(world, prompt)
    memory = recent if config.challenger.difficulty == "paso_doble" else None
    stage = TrainingStage("challenger", prompts, rollout, memory=memory, more=more)
    train(parts, iteration, stage)


def train_solver(parts: Parts, iteration: int) -> None:
    """Stage 3: rewarded for rubrics met, at a controlled length."""
    world, config = parts.world, parts.world.config
    settings = config.solver_train
    if not settings.steps:
        carry_over(parts, iteration, "solver")
        return
    with needed_from(f"iter_{iteration}/tasks"):
        tasks = _usable(world, read_tasks(parts.folder.tasks(iteration)))

    buffer = TaskBuffer(world, tasks)

    def prompts(step: int) -> list[SolverPrompt]:
        own = [tasks[index] for index in _chosen(len(tasks), step, settings)]
        return buffer.prompts(own, step)

    def more(step: int, start: int, wanted: int) -> list[SolverPrompt]:
        indices = _later(len(tasks), step, settings)
        own = itertools.islice(indices, start, start + wanted)
        return [SolverPrompt(tasks[index], tasks[index].text) for index in own]

    async def rollout(
        prompt: SolverPrompt, seed: Seed, begun: Completion = NOTHING
    ) -> Rollout:
        spec = world.solver_spec("solver")
        opening = world.prompts.solver(prompt.text, config.solver.max_searches)
        rewarded = await _timed(
            _play(world, settings, spec, opening, seed, begun),
            lambda played: reward_solver(world, played, prompt.task),
        )
        return replace(rewarded, posed=prompt.posed)

    async def post_rollout(prompt: SolverPrompt, group: list[Rollout]) -> list[Rollout]:
        def together(rollouts: list[Rollout]) -> list[Rollout]:
            return reweighted(world, rollouts, prompt.task, by=group)

        own = await buffer.with_right_answer(prompt, together(group))
        play = functools.partial(rollout, prompt)
        own = await with_resamples(world, own, play, together)
        return await taught(world, prompt.task, own)

    if tasks:
        if config.solver.teacher.kind != "none":
            parts.trainer.engine.prepare_scoring()
        memory = None if config.solver.reposing.kind == "off" else buffer
        stage = TrainingStage("solver", prompts, rollout, post_rollout, memory, more)
        train(parts, iteration, stage)
    else:
        log.warning(
            "iteration %d: no task to train the Solver on, so it stays unchanged: see "
            "tasks/ in the table above; lower tasks.low or raise tasks.high",
            iteration,
        )
        carry_over(parts, iteration, "solver")


def challenger_seed(seed: int, iteration: int) -> int:
    """Seed of an iteration's Challenger prompts: 43, 45, 47 from 42 (spec 1.3)."""
    return seed + 2 * (iteration - 1) + 1


async def _play(
    world: World,
    settings: StageConfig,
    spec: ConversationSpec,
    messages: Sequence[Message],
    seed: Seed,
    begun: Completion = NOTHING,
) -> Rollout:
    """One rollout of the policy in training."""
    return await converse(
        world,
        spec,
        messages,
        complete=world.policy,
        sampling=settings.sampling,
        limits=Limits(
            context=settings.max_context_tokens, response=settings.max_response_tokens
        ),
        seed=seed,
        begun=begun,
    )


async def _timed(
    playing: Awaitable[Rollout], reward: Callable[[Rollout], Awaitable[Rollout]]
) -> Rollout:
    """A rollout, played and rewarded, with the seconds that each has taken."""
    began = time.monotonic()
    played = await playing
    between = time.monotonic()
    rewarded = await reward(played)
    return replace(rewarded, seconds=(between - began, time.monotonic() - between))


def _chosen(
    count: int, step: int, settings: StageConfig, draw: int = 0
) -> Sequence[int]:
    """Indices of a step's prompts; every iteration starts with its own ``count``.

    Later draws take the batches behind those of all steps, each step its own.
    """
    position = (step - 1) % settings.steps + draw * settings.steps
    return data_order.order(
        count, seed=DATA_SEED, step=position, batch=settings.prompts_per_step
    )


def _later(count: int, step: int, settings: StageConfig) -> Iterator[int]:
    """Indices of what a step may draw beside its prompts: every other one, once."""
    seen = {int(index) for index in _chosen(count, step, settings)}
    for draw in itertools.count(1):
        if len(seen) >= count:
            return
        for index in map(int, _chosen(count, step, settings, draw)):
            if index not in seen:
                seen.add(index)
                yield index


def _opening(world: World, prompt: ChallengerPrompt) -> tuple[Message, ...]:
    return world.prompts.challenger(
        prompt.document.text, prompt.task_type, prompt.searches
    )


def _check_prompt(world: World, prompt: ChallengerPrompt) -> None:
    """Refuses a Challenger prompt over the limit: its example or document is long."""
    tokens = world.prompt_tokens(_opening(world, prompt))
    limit = world.config.challenger_train.max_prompt_tokens
    if tokens > limit:
        raise UserError(
            f"Challenger prompt of {tokens} tokens exceeds "
            f"challenger_train.max_prompt_tokens={limit}: raise it, or lower "
            "documents.max_tokens"
        )


def _usable(world: World, tasks: list[Task]) -> list[Task]:
    """The tasks whose prompts fit the Solver's limit (spec Q28)."""
    limit = world.config.solver_train.max_prompt_tokens
    fitting = [task for task in tasks if world.solver_prompt_tokens(task.text) <= limit]
    if len(fitting) < len(tasks):
        log.warning(
            "%d tasks have prompts over %d tokens and are left out",
            len(tasks) - len(fitting),
            limit,
        )
    return fitting
