"""One set of weights with its engine, and the requests that are using it."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from models.chat import ChatRenderer
from models.config import DecoderConfig
from rl.engine.engine import Engine
from rl.engine.scoring import Scores
from rl.engine.thread import EngineThread
from rl.records import Completion, Request
from scope_jax.inference.config import ModelSource

# Seconds for which a client that reads its stream slowly keeps weights from being
# exchanged; what it still wants of the engine then fails.
LONGEST_USE = 120.0


@dataclass(eq=False)
class Served:
    """One distinct set of weights and the engine that computes with it."""

    source: ModelSource
    config: DecoderConfig
    tokenizer: Any
    renderer: ChatRenderer
    thread: EngineThread
    max_length: int
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Of the engine: with another one, counts start from 0."""
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there are no users."""

    def __post_init__(self):
        self.unused.set()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """A request that may ask the engine again: until its end the weights stay."""
        self.users += 1
        self.unused.clear()
        try:
            yield
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()

    async def until_unused(self) -> None:
        """Waits for the requests that began before, but not for ever for a slow one."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.unused.wait(), LONGEST_USE)

    @cached_property
    def most_bytes(self) -> int:
        """Bytes of text above which a prompt cannot fit, whatever it says.

        A token stands for at most as many bytes as its name has, and a normalizer
        joins at most three characters (of Korean) to one that is as long as each.
        """
        longest = max(len(token.encode()) for token in self.tokenizer.get_vocab())
        joined = 1 if self.tokenizer.backend_tokenizer.normalizer is None else 3
        return self.max_length * longest * joined

    async def complete(
        self,
        request: Request,
        *,
        watch: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[Completion, str]:
        """Samples a completion; cancelled with its task.

        Returns:
          it, and the content hash of the weights that it was sampled from.
        """
        future = self.thread.complete(request, watch=watch)
        weights: list[str] = []
        # On the engine's thread, where the weights change: before the next change.
        future.add_done_callback(lambda _: weights.append(self.source.hash))
        completion = await asyncio.wrap_future(future)
        return completion, weights[0]

    async def score(
        self, ids: Sequence[int], temperature: float, *, alternatives: int
    ) -> Scores:
        """Log-probs of all of ``ids`` but the first; compiles what it needs first."""
        scorer = await self.call(lambda engine: engine.scorer)
        await asyncio.to_thread(scorer.prepare, len(ids) - 1)

        def score(engine: Engine) -> Scores:
            return engine.score(ids, temperature, alternatives=alternatives)

        return await self.call(score)

    async def call(
        self, fn: Callable[[Engine], Any], *, when_idle: bool = False
    ) -> Any:
        """Runs ``fn(engine)`` on the engine's thread, if so wished behind all work."""
        return await asyncio.wrap_future(self.thread.call(fn, when_idle=when_idle))
