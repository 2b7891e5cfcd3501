"""The models of the server: names, the engines behind them, and weights in and out.

Names with the same content hash share engines: in the first iteration the Solver is the
judge. A name whose weights change keeps its compiled engines where the architecture and
tokenizer stay the same; only its parameters are exchanged, when nothing is in flight.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from models import hf
from models.chat import ChatRenderer
from models.config import DecoderConfig
from models.errors import UserError
from models.precision import Dtype
from models.sharding import make_mesh
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.engine.thread import EngineThread
from scope_jax.inference.config import ModelSource
from scope_jax.inference.errors import ApiError, bad_field, without_paths
from scope_jax.inference.served import Served
from scope_jax.system.heap import settle

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class ModelTable:
    """Which weights are served under which name. Lives on the event loop's thread."""

    def __init__(
        self,
        engine_config: EngineConfig,
        *,
        replicas: int = 1,
        dtype: Dtype = "auto",
        roots: Sequence[str] = (),
        on_change: Callable[[], None] = lambda: None,
    ):
        self.engine_config = engine_config
        self.mesh = _mesh(replicas)
        self.dtype = dtype
        self.roots = [Path(root).expanduser().absolute() for root in roots]
        self.on_change = on_change
        self.names: dict[str, Served] = {}
        self.wanted: dict[str, ModelSource] = {}
        """What was asked for last: what a restarted server loads again."""
        self.loading: dict[str, str] = {}
        """What is being done for a name that cannot answer yet."""
        self._changed = asyncio.Condition()
        self._one_at_a_time = asyncio.Lock()

    async def get(self, name: str) -> Served:
        """The model called ``name``; waits while its weights are being loaded.

        Raises:
          ApiError: 404 for a name that nobody loaded.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: name not in self.loading)
        if name not in self.names:
            known = ", ".join(sorted(self.names)) or "none"
            raise ApiError(
                404,
                f"model: {name!r}: not served here: use one of: {known}",
                code="model_not_found",
            )
        return self.names[name]

    async def all(self) -> dict[str, Served]:
        """What is served under each name, once nothing is being loaded."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.loading)
        return dict(self.names)

    def check_name(self, name: str) -> None:
        """Raises `ApiError` for what is no name of a model."""
        if not NAME.fullmatch(name):
            raise bad_field("model", name, "must be a name of letters, digits, . _ - /")

    def check_folder(self, path: str, named: Container[str]) -> None:
        """Refuses weights from anywhere but below ``roots``.

        One answer for all that is refused: nobody learns which folders there are.

        Args:
          named: what may be loaded besides, by these very words.

        Raises:
          ApiError: 400.
        """
        if path in named:
            return
        try:
            given = Path(path).expanduser()
            # As it is written: a run's owner may keep its exports behind a link.
            places = {given.absolute(), given.resolve()} if given.is_dir() else set()
        except (OSError, RuntimeError, ValueError):
            places = set()  # too long, a loop of links, an unknown user, a NUL
        roots = {*self.roots, *(root.resolve() for root in self.roots)}
        below = any(place.is_relative_to(root) for place in places for root in roots)
        if below and ".." not in given.parts:
            return
        raise ApiError(
            400,
            "path: no model folder below one of the folders that this server loads "
            "models from: start it with another of them",
            code="model_load_failed",
        )

    async def load(self, name: str, source: ModelSource) -> ModelSource:
        """Serves the weights of a folder as ``name``; returns the source with its hash.

        Raises:
          ApiError: 400 if the folder cannot be loaded or has another content hash. What
            was served as ``name`` stays.
        """
        self.check_name(name)
        old_wanted = self.wanted.get(name)
        self.wanted[name] = source
        await self._progress(name, "waiting for its turn")
        try:
            async with self._one_at_a_time:
                source = await self._load(name, source)
                await asyncio.to_thread(settle)
            self.wanted[name] = source
        except UserError as error:
            if old_wanted is None:
                self.wanted.pop(name, None)
            else:
                self.wanted[name] = old_wanted
            why = without_paths(str(error))
            raise ApiError(400, why, code="model_load_failed") from error
        finally:
            await self._progress(name, None)
        self.on_change()
        return source

    async def unload(self, name: str) -> None:
        """Ends serving ``name``; its engines go unless another name shares them.

        Raises:
          ApiError: 404 for a name that nobody loaded.
        """
        await self.get(name)
        async with self._one_at_a_time:
            served = self.names.pop(name, None)
            self.wanted.pop(name, None)
            self.on_change()
            if served:
                await self._release(served)
            await asyncio.to_thread(settle)

    async def close(self) -> None:
        """Ends all engines, whatever they are doing."""
        for served in set(self.names.values()):
            await asyncio.to_thread(served.thread.close)
        self.names.clear()

    async def _load(self, name: str, source: ModelSource) -> ModelSource:
        await self._progress(name, "reading its weights")
        digest = await asyncio.to_thread(hf.content_hash, source.path)
        if source.hash and digest != source.hash:
            raise UserError(
                f"{Path(source.path).name}: content hash {digest} is not "
                f"{source.hash}: the folder was changed, or another one was meant"
            )
        source = ModelSource(path=source.path, hash=digest)
        current = self.names.get(name)
        if current and current.source.hash == digest:
            return source
        for served in self.names.values():
            if served.source.hash == digest:
                self.names[name] = served
                if current:
                    await self._release(current)
                return source
        shared = current and sum(s is current for s in self.names.values()) > 1
        if current and not shared and await self._exchange(current, source):
            return source
        new = await self._build(source, lambda what: self._progress(name, what))
        self.names[name] = new
        if current:
            await self._release(current)
        return source

    async def _build(
        self, source: ModelSource, progress: Callable[[str], Awaitable[None]]
    ) -> Served:
        def place() -> tuple[Engine, DecoderConfig, Any, ChatRenderer]:
            tokenizer = hf.load_tokenizer(source.path)
            renderer = ChatRenderer.from_tokenizer(tokenizer)
            config, params = hf.load(source.path, mesh=self.mesh, dtype=self.dtype)
            engine = Engine(
                params, config, tokenizer, self.engine_config, mesh=self.mesh
            )
            return engine, config, tokenizer, renderer

        engine, config, tokenizer, renderer = await asyncio.to_thread(place)
        log.info("attention over the cache: %s", engine.attention)
        await progress("compiling")
        await asyncio.to_thread(engine.compile)
        thread, length = EngineThread(engine), self.engine_config.max_length
        return Served(source, config, tokenizer, renderer, thread, length)

    async def _exchange(self, served: Served, source: ModelSource) -> bool:
        """Puts new weights under compiled engines, if they fit."""
        tokenizer = await asyncio.to_thread(hf.load_tokenizer, source.path)
        if _spelling(tokenizer) != _spelling(served.tokenizer):
            return False
        # The original config.json may name another precision or library version.
        config = await asyncio.to_thread(hf.load_config, source.path)
        if replace(config, hf="") != replace(served.config, hf=""):
            return False
        _, params = await asyncio.to_thread(
            hf.load, source.path, mesh=self.mesh, dtype=self.dtype
        )

        def exchange(engine: Engine) -> None:
            engine.set_params(params)
            served.source = source

        await served.until_unused()
        await served.call(exchange, when_idle=True)
        log.info("exchanged the weights of a compiled engine: %s", source.path)
        return True

    async def _release(self, served: Served) -> None:
        if any(s is served for s in self.names.values()):
            return
        await served.until_unused()
        await served.call(lambda engine: None, when_idle=True)
        await asyncio.to_thread(served.thread.close)

    async def _progress(self, name: str, what: str | None) -> None:
        async with self._changed:
            if what is None:
                self.loading.pop(name, None)
            else:
                self.loading[name] = what
                log.info("model %s: %s", name, what)
            self._changed.notify_all()


def _mesh(replicas: int) -> Mesh | None:
    visible = jax.device_count()
    if replicas > visible:
        raise UserError(
            f"placement.inference.replicas={replicas}: only {visible} devices are "
            "visible: lower it, or set placement.inference.devices"
        )
    return make_mesh(data=replicas) if replicas > 1 else None


def _spelling(tokenizer: Any) -> tuple[str, str | None]:
    """Everything of a tokenizer that an engine or a renderer depends on."""
    return tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template
