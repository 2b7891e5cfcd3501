"""The trainer's own engine: it plays the policy in training."""

import asyncio
import logging
from collections.abc import Sequence

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


class PolicyEngine:
    """An engine on this process's devices whose weights are swapped between updates."""

    def __init__(self, base: BaseModel, params: Params, config: EngineConfig):
        self._base, self._meter = base, Meter()
        self._guard = ErrorGuard("policy")
        self._longest = config.max_length
        engine = Engine(
            base.hosts.local_copy(params, base.mesh),
            base.decoder,
            base.tokenizer,
            config,
            mesh=base.hosts.local_mesh(base.mesh),
        )
        log.info("attention in rollouts: %s", engine.attention)
        log.info("engine: %s", describe(engine.compile()))
        self._thread = EngineThread(engine)

    async def complete(self, request: Request) -> Completion:
        """A completion of the policy.

        Raises:
          UserError: its weights are broken, see ``broken_models``.
        """
        future = self._thread.complete(request)
        return self._guard.checked(await asyncio.wrap_future(future))

    async def logprobs(self, ids: Sequence[int], temperature: float) -> list[float]:
        """Log-probs of ``ids`` but the first under the policy that is played."""
        scores = self._thread.call(
            lambda engine: engine.score(ids, temperature, alternatives=0)
        )
        return (await asyncio.wrap_future(scores)).logprobs

    def prepare_scoring(self) -> None:
        """Compiles what ``logprobs`` needs, or a step would wait for it."""
        scorer = self._thread.call(lambda engine: engine.scorer).result()
        length = self._longest
        while length:
            scorer.prepare(length)
            length //= 2

    def use(self, params: Params | None) -> None:
        """Gives the engine new weights (in the compute dtype).

        None takes them and the cache away: while an update runs, their memory is needed
        elsewhere.
        """
        params = self._base.hosts.local_copy(params, self._base.mesh)
        swapped = self._thread.call(lambda e: e.set_params(params), when_idle=True)
        swapped.result()

    def check(self, fingerprint: tuple[int, ...]) -> None:
        """Makes sure that what was sampled came from weights with this fingerprint.

        Raises:
          StaleWeightsError: from others, or with a cache that others have computed.
        """
        held, pages = self._thread.call(lambda engine: engine.weights()).result()
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
