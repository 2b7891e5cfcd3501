"""The inference process as the trainer uses it: judge, previous Solver and search."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from retrieval.search import format_passages
from rl.engine.counters import Meter, Totals
from rl.records import Completion, Request, SamplingParams
from scope_jax.config import Config
from scope_jax.inference.client import Client, RequestRefused, ServerUnavailable
from scope_jax.inference.config import ModelSource
from scope_jax.inference.supervisor import Supervisor
from scope_jax.run.sizes import one_base
from scope_jax.selfplay.broken_models import ErrorGuard
from scope_jax.selfplay.own_parts import tool_of, use
from scope_jax.selfplay.policy_engine import PolicyEngine
from scope_jax.selfplay.world import AskJudge
from scope_jax.system import stopping
from scope_jax.system.files import read_json, write_text
from scope_jax.system.hosts import Hosts
from scope_jax.system.stopping import Stopped

log = logging.getLogger("scope_jax")

NOTHING = "Search error: no results"
# In the folder of the inference process: content hash of each model that judges.
PINNED = "judges.json"

T = TypeVar("T")


class Serving:
    """Starts the inference process, asks it, and stops it; a context manager.

    It starts in the background when the context is entered, so that the trainer can
    load its own model meanwhile; ``connect`` waits for it.

    Args:
      config: of the run.
      folder: gets the inference process's log, settings and state.
      renderer: chat template of judge and Solver.
      hosts: the trainer's processes.
      models: name -> folder of what it serves. None: the roles of a run.
      search: whether it searches. A process that serves nothing is not started.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        renderer: ChatRenderer,
        hosts: Hosts,
        *,
        models: Mapping[str, str] | None = None,
        search: bool = True,
    ):
        self._config, self._renderer, self._hosts = config, renderer, hosts
        self._meter = Meter()
        self._tool = tool_of(config)
        self._client: Client | None = None
        inference, placement = config.inference, config.placement.inference
        names = ["solver"] if inference.judge_url else ["judge", "solver"]
        self._own: tuple[str, ...] = ()
        self._engine: PolicyEngine | None = None
        if models is None and one_base(config):
            self._own, names = tuple(names), []
        paths = dict.fromkeys(names, config.model.path) | inference.judges()
        paths = paths if models is None else dict(models)
        self._guards = {name: ErrorGuard(name) for name in ("judge", *paths)}
        self._renderers = {
            name: ChatRenderer.from_tokenizer(
                hf.load_tokenizer(path), date=config.model.date
            )
            for name, path in inference.judges().items()
        }
        self.supervisor = Supervisor(
            inference,
            folder,
            retrieval=config.retrieval
            if search and not inference.retrieval_url and not self._tool
            else None,
            models={name: ModelSource(path=path) for name, path in paths.items()},
            environment=placement.environment(),
            dtype=config.model.dtype,
            replicas=placement.replicas,
        )
        told = self.supervisor.settings
        self._serves = bool(told.models or told.retrieval or inference.url)

    def __enter__(self) -> "Serving":
        self._runner = asyncio.Runner()
        self._starter = ThreadPoolExecutor(1)
        if self._hosts.is_leader and self._serves:
            self._started = self._starter.submit(self.supervisor.start)
        return self

    def __exit__(self, *exception: object) -> None:
        # All of it, whatever fails: nobody else would end the inference process.
        with contextlib.ExitStack() as last_first:
            last_first.callback(self._runner.close)
            last_first.callback(self._starter.shutdown)
            last_first.callback(self.supervisor.stop)
            if self._client:
                self._runner.run(self._client.close())

    def serve_from(self, engine: PolicyEngine) -> None:
        """Has the trainer's own engine answer for the roles that share its model."""
        self._engine = engine

    def connect(self) -> None:
        """Waits until the inference process answers.

        Raises:
          UserError: it does not start.
          Stopped: on a signal.
        """
        if not self._serves:
            self._client = Client(self._config.inference)
            return
        url = self._hosts.from_leader(lambda: stopping.result(self._started))
        url = self._hosts.reachable(url, self._config.inference.host)
        secrets = self._hosts.from_leader(lambda: self.supervisor.secrets)
        self._client = Client(self._config.inference, url, secrets)
        self._pin()
        log.info("inference process: ready at %s", url)

    def _pin(self) -> None:
        """Agrees on the weights that judge, for the whole run.

        Raises:
          UserError: they are not those that this run began with.
        """
        judges = [name for name in self.supervisor.settings.models if name != "solver"]
        file = self.supervisor.folder / PINNED

        def agree() -> dict[str, str]:
            served = self.run(self._client.served())
            found = {name: served[name] for name in judges if name in served}
            if "judge" in self._own:
                found["judge"] = hf.content_hash(self._config.model.path)
            pinned = read_json(file) if file.is_file() else {}
            for name, weights in found.items():
                if pinned.get(name, weights) != weights:
                    raise UserError(
                        f"inference process: {name} has weights {weights}, and this "
                        f"run began with {pinned[name]}: serve those, or start a new "
                        "run folder"
                    )
            if pinned != pinned | found:
                write_text(file, json.dumps(pinned | found, indent=2) + "\n")
            return found

        found = self._hosts.from_leader(agree)
        self._client.weights.update({n: found[n] for n in judges if n in found})

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end, or cancels it where the run has to end before.

        Raises:
          Stopped: on a signal, or because a server stays away: the inference process is
            down for good, or another's did not answer for ``outage_timeout``.
          UserError: a server refuses what this configuration needs, such as a model
            that it does not serve.
        """
        try:
            return self._runner.run(stopping.watched(work, self._check))
        except ServerUnavailable as error:
            raise Stopped(
                f"error: inference: {error}: the same command goes on once it answers",
                1,
            ) from error
        except RequestRefused as error:
            raise UserError(f"inference process: {error}") from error

    def _check(self) -> None:
        """Looks at all that may keep work waiting for ever."""
        if self._client:
            self._client.say_waits()
        stopping.check()
        if self.supervisor.failure and not stopping.is_deferred():
            raise Stopped(
                f"error: {self.supervisor.failure}; the same command goes on", 1
            )

    def load_solver(self, path: str) -> None:
        """Makes the weights of a folder the previous Solver."""
        if "solver" in self._own:
            self._engine.use_folder(path, solver=True)
            return

        def load() -> str:
            content = hf.content_hash(path)
            return self.run(self._client.load_model("solver", path, content))

        self._client.weights["solver"] = self._hosts.from_leader(load)

    async def solver(self, request: Request) -> Completion:
        """A completion of the previous Solver.

        Raises:
          UserError: its weights are broken, see ``broken_models``.
        """
        return await self._complete("solver", request)

    async def judge(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        seed64: int,
        name: str = "judge",
    ) -> str:
        """What the judge says; see ``said``."""
        sampling = SamplingParams(temperature=temperature, max_new_tokens=max_tokens)
        return (await self.said(messages, sampling, seed64, name)).text

    async def said(
        self,
        messages: Sequence[dict[str, Any]],
        sampling: SamplingParams,
        seed64: int,
        name: str = "judge",
    ) -> Completion:
        """The judge's answer; its text is empty if the prompt does not fit it.

        What its chat template wrote of it is in the text (an opened thinking block).

        Args:
          messages: that it answers.
          sampling: how it is sampled.
          seed64: with which.
          name: under which the model is served.

        Raises:
          UserError: its weights are broken, see ``broken_models``.
        """
        renderer = self._renderers.get(name, self._renderer)
        prompt = tuple(renderer.prompt_ids(messages))
        completion = await self._complete(
            name,
            Request(
                ids=prompt,
                sampling=sampling,
                stop_ids=renderer.stop_ids,
                seed64=seed64,
            ),
        )
        text = completion.text
        return replace(
            completion, text=renderer.opening_of(prompt) + text if text else ""
        )

    async def _complete(self, model: str, request: Request) -> Completion:
        if model in self._own:
            return await self._engine.answer(model, request)
        completion = await self._client.complete(model, request)
        return self._guards[model].checked(completion)

    def judge_of(self, name: str) -> AskJudge | None:
        """The model that does one of the judge's jobs in its place, if there is one."""
        return partial(self.judge, name=name) if name in self._renderers else None

    async def search(self, queries: Sequence[str]) -> list[str]:
        """For each query its passages as one text, or why it was refused (spec 2.4).

        A server that is away is no search result: that is waited for, see ``run``. A
        tool of the user's gives the texts in place of the passages.
        """
        if self._tool is not None:
            found = await use(self._tool, queries)
            return [text or NOTHING for text in found]
        try:
            found = await self._client.search(queries, self._config.retrieval.top_k)
        except RequestRefused as error:
            log.warning("search failed: %s", error)
            return [f"Search error: {type(error).__name__}"] * len(queries)
        return [
            format_passages([passage for passage, _ in hits]) if hits else NOTHING
            for hits in found
        ]

    async def work(self) -> dict[str, Totals]:
        """What each served model's engines have done since this was asked last.

        The name is ``judge`` where the Solver's weights are the judge's. Empty the
        first time, where the server does not say, and in all processes but the leader.
        """
        served = None
        if self._hosts.is_leader:
            models = tuple(self.supervisor.settings.models)
            served = await self._client.engines(models)
        done = self._meter.since(served)
        return {name: one for (name, _), one in done.items()}
