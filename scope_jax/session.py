"""The live parts of a run: models, engine, updates, and the inference process.

Made once a process. The stages (``stages``, ``tasks``) use it; nothing here knows their
order.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import jax

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from models.sharding import make_mesh
from retrieval.search import format_passages, open_passages
from rl.engine import Engine
from rl.engine_thread import EngineThread
from rl.optimizer import Params
from rl.programs import describe
from rl.records import Completion, Request, SamplingParams
from rl.update import Updater
from scope_jax import engines, hosts, prompts
from scope_jax.compilation import Compilations, keep_programs
from scope_jax.config import Config, StageConfig
from scope_jax.demo import assets
from scope_jax.inference.client import (
    Client,
    InferenceError,
    RequestRefused,
    ServerUnavailable,
)
from scope_jax.inference.config import ModelSource
from scope_jax.inference.supervisor import Supervisor
from scope_jax.run_folder import RunFolder
from scope_jax.tracking import Tracker

log = logging.getLogger("scope_jax")

T = TypeVar("T")


def resolve(config: Config) -> Config:
    """The configuration with ``demo`` replaced by the files that it stands for.

    Only for use in this process: the saved configuration keeps the word, so that a run
    folder can be moved between machines.
    """
    if config.model.path == "demo":
        model = replace(config.model, path=str(assets.model_path()))
        config = replace(config, model=model)
    if config.retrieval.passages == "demo":
        passages = str(assets.passages_path())
        retrieval = replace(config.retrieval, passages=passages)
        config = replace(config, retrieval=retrieval)
    return config


class Session:
    """Everything alive in the trainer process; a context manager.

    Attributes:
      config: resolved (see ``resolve``).
      renderer: chat template and tokenizer of all three roles.
      reference: parameters of the base model on the mesh, in the compute dtype.
    """

    def __init__(
        self, config: Config, folder: RunFolder, tracker: Tracker, *, profile: int = 0
    ):
        self.config = resolve(config)
        self.folder, self.tracker, self._profile = folder, tracker, profile
        self.prompts = prompts.load(config.prompts, config.tool_format)
        self.tokenizer = hf.load_tokenizer(self.config.model.path)
        self.renderer = ChatRenderer.from_tokenizer(
            self.tokenizer, template=config.model.template
        )
        keep_programs()
        self.compilations = Compilations()
        self._updaters: dict[str, Updater] = {}
        self._own_meter, self._served_meter = engines.Meter(), engines.Meter()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Session":
        with contextlib.ExitStack() as stack:
            self._runner = stack.enter_context(asyncio.Runner())
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Loads this process's model while the inference process loads its own."""
        placement = self.config.placement
        inference = placement.inference
        base = self.config.model.path
        self.supervisor = Supervisor(
            self.config.inference,
            self.folder.path,
            retrieval=None
            if self.config.inference.retrieval_url
            else self.config.retrieval,
            models={
                name: ModelSource(path=base)
                for name in ("judge", "solver")
                if not (name == "judge" and self.config.inference.judge_url)
            },
            environment=inference.environment(),
            replicas=inference.replicas,
        )
        stack.callback(self.supervisor.stop)
        with ThreadPoolExecutor(1) as starter:
            started = None
            if hosts.leads():
                started = starter.submit(self.supervisor.start)
            try:
                self._load(stack)
            except BaseException:
                self.supervisor.stop()
                raise
            url = hosts.told(lambda: started.result())
        url = hosts.reachable(url, self.config.inference.host)
        self.client = Client(self.config.inference, url)
        stack.callback(lambda: self._runner.run(self.client.close()))
        log.info("inference process: ready at %s", url)

    def _load(self, stack: contextlib.ExitStack) -> None:
        self.passages = open_passages(self.config.retrieval)
        mesh = self.config.placement.trainer.mesh
        self.mesh = make_mesh(data=mesh.data, fsdp=mesh.fsdp, tensor=mesh.tensor)
        self.decoder, base = hf.load(
            self.config.model.path, mesh=self.mesh, dtype="float32"
        )
        hosts.check_mesh(self.mesh)
        updater = self.updater("solver")
        log.info(
            "attention: %s in updates, cache blocks in rollouts", updater.attention
        )
        self.reference = updater.states.reference_params(base)
        engine = Engine(
            hosts.own_copy(self.reference, self.mesh),
            self.decoder,
            self.tokenizer,
            self.config.engine,
            mesh=hosts.own_mesh(self.mesh),
        )
        log.info("engine: %s", describe(engine.compile()))
        self._engine = EngineThread(engine)
        stack.callback(self._engine.close)

    # --- training --------------------------------------------------------------

    def stage_config(self, role: str) -> StageConfig:
        """Settings of a role's training stage."""
        return {
            "challenger": self.config.challenger_train,
            "solver": self.config.solver_train,
        }[role]

    def updater(self, role: str) -> Updater:
        """The compiled update of a role, made when first asked for."""
        if role not in self._updaters:
            stage = self.stage_config(role)
            loss = stage.loss
            if self.config.compat.micro_batch_mean:
                loss = replace(loss, aggregation="micro_batch_mean")
            self._updaters[role] = Updater(
                self.decoder,
                loss,
                stage.optimizer,
                stage.update,
                self.mesh,
                valid_vocab=hf.vocab_rows(self.tokenizer),
            )
        return self._updaters[role]

    def load(self, path: str) -> Params:
        """A checkpoint's parameters, as the trainer's own engine takes them."""
        dtype = str(self.updater("solver").compute_dtype)
        return hf.load(path, mesh=self.mesh, dtype=dtype)[1]

    def base(self) -> Params:
        """The base model's parameters, float32, read anew."""
        return hf.load(self.config.model.path, mesh=self.mesh, dtype="float32")[1]

    def use_policy(self, params: Params | None) -> None:
        """Gives the trainer's own engine new weights (in the compute dtype).

        None takes them and the cache away: while an update runs, their memory is needed
        elsewhere.
        """
        params = hosts.own_copy(params, self.mesh)
        swapped = self._engine.call(lambda e: e.set_params(params), when_idle=True)
        swapped.result()

    def export(self, iteration: int, role: str, params: Params) -> None:
        """Writes weights as a Hugging Face folder, which other programs read too."""
        params = hosts.own_copy(params, self.mesh)
        hosts.told(
            lambda: hf.save(
                self.folder.export(iteration, role),
                self.decoder,
                params,
                tokenizer=self.tokenizer,
                template=self.renderer.template,
                stop_ids=self.renderer.stop_ids,
            )
        )

    def serve_solver(self, iteration: int) -> None:
        """Makes ``solver`` on the server the Solver of the iteration before."""
        path = self.config.model.path
        if iteration > 1:
            path = str(self.folder.export(iteration - 1, "solver").absolute())

        def load() -> None:
            content = hf.content_hash(path)
            self.run(self.client.load_model("solver", path, content))

        hosts.told(load)

    @contextlib.contextmanager
    def profiled(self, step: int, name: str) -> Iterator[None]:
        """Traces steps 2 .. 1 + profile of a stage, where ``step`` counts from 1."""
        if not 2 <= step < 2 + self._profile:
            yield
            return
        with jax.profiler.trace(str(self.folder.path / "profile" / name)):
            yield

    # --- sampling, judging, searching -------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end.

        Raises:
          UserError: the inference process is down for good, or refuses what this
            configuration needs, such as a model that it does not serve.
        """
        self.supervisor.check()
        try:
            return self._runner.run(work)
        except ServerUnavailable as error:
            self.supervisor.check()
            raise UserError(
                f"inference process: {error}: see {self.supervisor.log_file}; the same "
                "command goes on from the last checkpoint"
            ) from error
        except RequestRefused as error:
            raise UserError(f"inference process: {error}") from error

    async def policy(self, request: Request) -> Completion:
        """A completion of the policy in training, from this process's engine."""
        return await asyncio.wrap_future(self._engine.complete(request))

    async def engine_work(self) -> tuple[engines.Totals, dict[str, engines.Totals]]:
        """What the engines have done since this was asked last.

        Returns:
          of this process's own engine; and, in the leader, of the inference process's,
          by the model: ``judge`` where the Solver's weights are the judge's. Empty at
          the first time, and where the server does not say.
        """
        own = asyncio.wrap_future(self._engine.call(engines.totals))
        served = None
        if hosts.leads():
            served = await self.client.engines(tuple(self.supervisor.settings.models))
        done = self._served_meter.since(served)
        own_done = self._own_meter.since({"own": await own})
        return own_done.get("own", {}), {name: one for (name, _), one in done.items()}

    async def previous_solver(self, request: Request) -> Completion:
        """A completion of the previous Solver, from the server."""
        return await self.client.complete("solver", request)

    async def ask_judge(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        seed64: int,
    ) -> str:
        """What the judge says; the empty string if the prompt does not fit it."""
        completion = await self.client.complete(
            "judge",
            Request(
                ids=tuple(self.renderer.prompt_ids(messages)),
                sampling=SamplingParams(
                    temperature=temperature, max_new_tokens=max_tokens
                ),
                stop_ids=self.renderer.stop_ids,
                seed64=seed64,
            ),
        )
        return completion.text

    async def search(self, queries: Sequence[str]) -> list[str]:
        """For each query its passages as one text, or what went wrong (spec 2.4)."""
        try:
            found = await self.client.search(queries, self.config.retrieval.top_k)
        except InferenceError as error:
            log.warning("search failed: %s", error)
            return [f"Search error: {type(error).__name__}"] * len(queries)
        return [
            format_passages([passage for passage, _ in hits])
            if hits
            else "Search error: no results"
            for hits in found
        ]
