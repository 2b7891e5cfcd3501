"""Who judges: a model that our server serves, or a chat server of somebody else's."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from models.ranges import Count, check_fields
from rl.records import SamplingParams
from scope_jax.config import Config
from scope_jax.evaluation.entries import Entry, day, day_shown, one
from scope_jax.inference.chat import ChatClient, ChatConfig, Reply
from scope_jax.method.formats import Message
from scope_jax.selfplay.serving import Serving
from scope_jax.system import stopping
from scope_jax.system.hosts import ONE_HOST

T = TypeVar("T")

CHAT = ChatConfig()
"""A chat server with the reference's settings."""


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """A judge that a command names.

    Attributes:
      name: of its folder of verdicts.
      entry: weights, for our server.
      chat: a server of somebody else's.
      temperature, max_tokens: of its answers.
    """

    name: str
    entry: Entry | None = None
    chat: ChatConfig | None = None
    temperature: float | None
    max_tokens: Count

    def __post_init__(self):
        check_fields(self)

    def facts(self, config: Config) -> dict[str, Any]:
        """All that a verdict depends on, besides what is asked."""
        who = self.chat.address if self.chat else ""
        if self.entry:
            who = hf.content_hash(self.entry.path)
        return {
            "judge": who,
            "model": self.chat.model if self.chat else "",
            "system_role": self.chat.system_role if self.chat else "",
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "dtype": "" if self.chat else config.model.dtype,
            "thinking": config.judge.thinking,
            "prompts": config.prompts,
            "seed": config.seed,
            **(day_shown(self.entry, config) if self.entry else {}),
        }


def named(what: str, config: Config, chat: ChatConfig = CHAT) -> JudgeSpec:
    """The judge that a command line names.

    Args:
      what: a model as ``entries`` reads it, or ``URL#MODEL``; empty: the
        configuration's base model. A name of its own may stand in front.
      config: says how a model of our own server judges.
      chat: how another's server is asked.

    Raises:
      UserError: it names no model, or several.
    """
    name, equals, rest = what.partition("=")
    if not equals or "://" in name or "/" in name:
        name, rest = "", what
    if "://" in rest:
        url, _, model = rest.partition("#")
        if not model:
            raise UserError(f"--judge {what}: which model? write it as {url}#MODEL")
        chat = replace(chat, url=url, model=model)
        return JudgeSpec(
            name=name or Path(model).name,
            chat=chat,
            temperature=chat.temperature,
            max_tokens=chat.max_tokens,
        )
    entry = one(rest or config.model.path, config, "--judge")
    return JudgeSpec(
        name=name or entry.name,
        entry=entry,
        temperature=config.judge.grade_temperature.solver,
        max_tokens=config.judge.grade_tokens,
    )


class Judge(Protocol):
    """A judge that answers."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine that asks it, to its end or to a signal."""

    async def ask(self, messages: Sequence[Message], seed64: int) -> Reply:
        """What it says, or why it says nothing."""


class ServedJudge:
    """Weights behind our own server, which keeps the prefix that calls share."""

    def __init__(self, serving: Serving, spec: JudgeSpec):
        self._serving = serving
        self._sampling = SamplingParams(
            temperature=spec.temperature or 0.0, max_new_tokens=spec.max_tokens
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """See ``Serving.run``."""
        return self._serving.run(work)

    async def ask(self, messages: Sequence[Message], seed64: int) -> Reply:
        """What it says; a prompt that does not fit it fails."""
        said = await self._serving.said(messages, self._sampling, seed64)
        counted = {
            "prompt_tokens": said.prompt_tokens,
            "cached_tokens": said.cached_tokens,
            "completion_tokens": len(said.ids),
        }
        if not said.text and said.finish_reason != "stop":
            why = f"prompt of {said.prompt_tokens} tokens: no room for an answer"
            return Reply(text=None, problem=f"{why} ({said.finish_reason})", **counted)
        return Reply(text=said.text, **counted)


class HostedJudge:
    """A chat server of somebody else's."""

    def __init__(self, config: ChatConfig):
        self._config = config

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` with connections of its own."""
        return asyncio.run(self._connected(work))

    async def _connected(self, work: Coroutine[Any, Any, T]) -> T:
        async with ChatClient(self._config) as self._client:
            return await stopping.watched(work)

    async def ask(self, messages: Sequence[Message], seed64: int) -> Reply:
        """What it says, or how its last attempt failed."""
        return await self._client.ask(messages, seed64)


@contextlib.contextmanager
def judging(config: Config, spec: JudgeSpec, folder: Path) -> Iterator[Judge]:
    """The judge, loaded and ready.

    Args:
      config: engine and devices of our server.
      spec: which judge.
      folder: for our server's log and state.

    Raises:
      UserError: it cannot be loaded.
    """
    if spec.entry is None:
        yield HostedJudge(spec.chat)
        return
    path = spec.entry.path
    renderer = ChatRenderer.from_tokenizer(
        hf.load_tokenizer(path), template=spec.entry.template, date=day(config)
    )
    inference = replace(
        config.inference, url="", judge_url="", rubric_model="", grader_model=""
    )
    config = replace(config, inference=inference)
    with Serving(
        config, folder, renderer, ONE_HOST, models={"judge": path}, search=False
    ) as serving:
        serving.connect()
        yield ServedJudge(serving, spec)
