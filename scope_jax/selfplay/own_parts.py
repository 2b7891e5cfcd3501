"""The user's own reward and tool: which they are, and what is asked of them."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

from models.control_tokens import encodable
from models.errors import UserError
from rl.engine.sampling import seed64
from scope_jax.config import Config
from scope_jax.method.formats import Message
from scope_jax.method.types import Task
from scope_jax.selfplay.own_code import OwnCode, file_of, load
from scope_jax.selfplay.rollouts import Rollout
from scope_jax.selfplay.world import AskJudge

REWARD = ("task", "answer", "conversation", "judge")
TOOL = ("queries",)


def pinned(config: Config) -> Config:
    """The configuration with the hashes of its files of own code, which are checked.

    Raises:
      UserError: a file is missing, can't be used, or is another than the hash says.
    """
    solver, told = config.solver, config.tools
    if solver.reward:
        load("solver.reward", solver.reward, REWARD)
        found = _hash("solver.reward", solver.reward, solver.reward_hash)
        config = replace(config, solver=replace(solver, reward_hash=found))
    if told:
        load("tools", told, TOOL)
        config = replace(config, tools_hash=_hash("tools", told, config.tools_hash))
    return config


def _hash(setting: str, value: str, known: str) -> str:
    file = file_of(value)
    found = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    if known and known != found:
        raise UserError(
            f"{setting}={value}: has the hash {found}, not {known} as the run's "
            "settings say: restore the file, or begin another run"
        )
    return found


def reward_of(config: Config) -> OwnCode | None:
    """The user's own part of the Solver's reward, if the configuration names one.

    Raises:
      UserError: see ``load``.
    """
    solver = config.solver
    if not solver.reward:
        return None
    limit = {"limit": solver.reward_timeout, "limit_setting": "solver.reward_timeout"}
    return OwnCode("solver.reward", solver.reward, REWARD, **limit)


def tool_of(config: Config) -> OwnCode | None:
    """The user's own tool, if the configuration names one.

    Raises:
      UserError: see ``load``.
    """
    if not config.tools:
        return None
    limit = {"limit": config.tools_timeout, "limit_setting": "tools_timeout"}
    return OwnCode("tools", config.tools, TOOL, **limit)


async def score(
    own: OwnCode, judge: AskJudge, rollout: Rollout, task: Task, answer: str
) -> float:
    """The user's own part of a Solver's reward.

    Raises:
      Stopped: the code raised, took too long, or gave no finite number.
    """
    asked = itertools.count()

    async def ask(
        messages: Sequence[Message], *, temperature: float = 0.0, max_tokens: int = 512
    ) -> str:
        return await judge(
            messages,
            temperature=temperature,
            max_tokens=max_tokens,
            seed64=seed64(*rollout.seed, "own", next(asked)),
        )

    found = await own(
        task=task,
        answer=answer,
        conversation=[dict(message) for message in rollout.scored],
        judge=ask,
    )
    if isinstance(found, Real) and math.isfinite(found):
        return float(found)
    raise own.failed(f"gave {found!r:.80} for task {task.uid}, not a finite number")


async def use(tool: OwnCode, queries: Sequence[str]) -> list[str]:
    """What the user's own tool gives for each query, as one text.

    Raises:
      Stopped: the code raised, took too long, or gave no text for each query.
    """
    found = await tool(queries=list(queries))
    right = isinstance(found, list) and all(isinstance(text, str) for text in found)
    if not right or len(found) != len(queries):
        what = f"{len(found)} values" if isinstance(found, list) else f"{found!r:.80}"
        raise tool.failed(
            f"gave {what} for {len(queries)} queries, not a list with a text for each"
        )
    return [encodable(text) for text in found]
