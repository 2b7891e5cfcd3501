"""The trainer's own engine: it plays the policy in training."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from models import hf
from models.errors import UserError
from models.lora import LoraConfig, scaled
from rl.engine.config import EngineConfig
from rl.engine.counters import Meter, Totals, totals
from rl.engine.engine import Engine
from rl.engine.programs import describe
from rl.engine.thread import EngineThread
from rl.learner.optimizer import Params
from rl.records import Completion, Request
from scope_jax.selfplay.base_model import BaseModel
from scope_jax.selfplay.broken_models import ErrorGuard

log = logging.getLogger("scope_jax")


class StaleWeightsError(RuntimeError):
    """The policy that was sampled is not the one in training: a fault of ours."""


POLICY, SOLVER = 1, 2
"""Adapters of an engine that plays adapters."""


class PolicyEngine:
    """An engine on this process's devices whose weights are swapped between updates.

    Args:
      params: of the base model. Without ``lora`` the policy's take their place; with
        it the policy is an adapter, and they stay.
      lora: shape of adapters.
      serves: the previous Solver is an adapter of this engine, and the judge is its
        base model: ``answer``. The engine takes ``params`` for itself, so that the
        model is in memory once.

    Attributes:
      base_params: of the base model, as the engine computes with them.
    """

    def __init__(
        self,
        base: BaseModel,
        params: Params,
        config: EngineConfig,
        *,
        lora: LoraConfig | None = None,
        serves: bool = False,
    ):
        self._base, self._meter = base, Meter()
        self._guards: dict[str, ErrorGuard] = {}
        self._lora = lora
        self._policy = POLICY if lora else 0
        self._longest = config.max_length
        engine = Engine(
            base.hosts.local_copy(params, base.mesh),
            base.decoder,
            base.tokenizer,
            config,
            mesh=base.hosts.local_mesh(base.mesh),
            lora=lora,
            adapters=(SOLVER if serves else POLICY) if lora else 0,
            take=serves,
        )
        self.base_params = engine.params
        log.info("attention in rollouts: %s", engine.attention)
        log.info("engine: %s", describe(engine.compile()))
        self._thread = EngineThread(engine)

    async def complete(self, request: Request) -> Completion:
        """A completion of the policy.

        Raises:
          UserError: its weights are broken, see ``broken_models``.
        """
        return await self._complete(request, self._policy, "policy")

    async def answer(self, role: str, request: Request) -> Completion:
        """A completion of ``solver`` or ``judge``, where the engine serves them.

        Raises:
          UserError: its weights are broken, see ``broken_models``.
        """
        number = {"solver": SOLVER, "judge": 0}[role]
        return await self._complete(request, number, role)

    async def _complete(self, request: Request, number: int, name: str) -> Completion:
        future = self._thread.complete(replace(request, adapter=number))
        guard = self._guards.setdefault(name, ErrorGuard(name))
        return guard.checked(await asyncio.wrap_future(future))

    async def logprobs(self, ids: Sequence[int], temperature: float) -> list[float]:
        """Log-probs of ``ids`` but the first under the policy that is played."""
        options = {"alternatives": 0, "adapter": self._policy}
        scores = self._thread.call(lambda e: e.score(ids, temperature, **options))
        return (await asyncio.wrap_future(scores)).logprobs

    def prepare_scoring(self) -> None:
        """Compiles what ``logprobs`` needs, or a step would wait for it."""
        scorer = self._thread.call(lambda engine: engine.scorer).result()
        length = self._longest
        while length:
            scorer.prepare(length)
            length //= 2

    def use(self, params: Params | None) -> None:
        """Gives the engine the policy's weights (in the compute dtype).

        None takes them and the cache away: while an update runs, their memory is needed
        elsewhere. Of a policy that is an adapter, it takes the cache alone.

        Args:
          params: of the policy; an adapter is scaled.
        """
        params = self._base.hosts.local_copy(params, self._base.mesh)

        def swap(engine: Engine) -> None:
            if not self._lora:
                engine.set_params(params)
            elif params is None:
                engine.free_cache()
            else:
                engine.set_adapter(POLICY, params)

        self._thread.call(swap, when_idle=True).result()

    def use_folder(self, path: str, *, solver: bool = False) -> None:
        """Gives the engine the adapter of a folder, as policy or as previous Solver.

        Args:
          path: an adapter of the base model, or the base model itself.
        """
        number, adapter = SOLVER if solver else POLICY, None
        if path != self._base.path:
            found, lora = hf.load_adapter(path, self._base.decoder)
            if replace(lora, learning_rate_factor=1.0) != replace(
                self._lora, learning_rate_factor=1.0
            ):
                raise UserError(f"{path}: is no adapter of this run's form: {lora}")
            adapter = scaled(found, lora)
        swapped = self._thread.call(
            lambda engine: engine.set_adapter(number, adapter), when_idle=True
        )
        swapped.result()

    def check(self, fingerprint: tuple[int, ...]) -> None:
        """Makes sure that what was sampled came from weights with this fingerprint.

        Raises:
          StaleWeightsError: from others, or with a cache that others have computed.
        """
        number = self._policy
        held, pages = self._thread.call(lambda e: e.weights(number)).result()
        if held != fingerprint:
            raise StaleWeightsError(
                f"the engine plays weights {held} and the trainer has {fingerprint}"
            )
        if pages:
            raise StaleWeightsError(
                f"{pages} pages of the engine's cache are of earlier weights"
            )

    async def work(self) -> Totals:
        """What the engine has done since this was asked last; empty the first time."""
        now = await asyncio.wrap_future(self._thread.call(totals))
        return self._meter.since({"own": now}).get("own", {})

    def close(self) -> None:
        """Stops the engine's thread."""
        self._thread.close()
