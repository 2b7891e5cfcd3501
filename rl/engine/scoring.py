"""Log-probs of given tokens, and the most likely ones in their places.

Apart from sampling: the programs of the sampler stay as they are, and nothing here is
compiled before somebody asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models import forward
from models.cache import init_cache
from rl.engine.sampler import Sampler

MOST = 20
"""Most alternatives to a token."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of each token of a text but the first, given all before it.

    Attributes:
      logprobs: of the tokens themselves.
      ids: in their places the most likely ones, best first.
      top: log-probs of ``ids``.
    """

    logprobs: list[float]
    ids: list[list[int]]
    top: list[list[float]]


class Scorer:
    """Programs for texts of up to 1, 2, 4, ... chunks; compiled when first needed.

    Log-probs are under the whole distribution at a temperature, as the sampler's are,
    and agree with them up to rounding.
    """

    def __init__(self, sampler: Sampler, params: Any):
        self._sampler = sampler
        self._params = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            params,
        )
        self._compiled: dict[int, Any] = {}

    def prepare(self, length: int) -> None:
        """Compiles what a text of this many tokens needs; from any thread."""
        rows = self._rows(length)
        if rows not in self._compiled:
            chunk = self._sampler.sizes.prefill_chunk
            tokens = jax.ShapeDtypeStruct((rows, chunk), jnp.int32)
            one = jax.ShapeDtypeStruct((), jnp.float32)
            number = jax.ShapeDtypeStruct((), jnp.int32)
            arguments = self._params, tokens, tokens, one, number
            lowered = jax.jit(self._score).lower(*arguments)
            self._compiled[rows] = lowered.compile()

    def run(
        self,
        params: Any,
        ids: Sequence[int],
        temperature: float,
        *,
        alternatives: int,
        adapter: int = 0,
    ) -> Scores:
        """Scores ``ids``; ``params`` are placed ones, with adapters if there are any.

        Args:
          temperature: as sampled with; 0 counts as 1.
          alternatives: tokens per place, up to ``MOST``.
          adapter: that scores; 0: the model itself.
        """
        count = len(ids) - 1
        if count < 1:
            return Scores(logprobs=[], ids=[], top=[])
        self.prepare(count)
        rows, chunk = self._rows(count), self._sampler.sizes.prefill_chunk
        tokens, following = np.zeros((2, rows * chunk), np.int32)
        tokens[:count], following[:count] = ids[:-1], ids[1:]
        shape = rows, chunk
        own, best, top = jax.device_get(
            self._compiled[rows](
                params,
                tokens.reshape(shape),
                following.reshape(shape),
                np.float32(temperature or 1.0),
                np.int32(adapter),
            )
        )
        return Scores(
            logprobs=own.reshape(-1)[:count].tolist(),
            ids=best.reshape(rows * chunk, -1)[:count, :alternatives].tolist(),
            top=top.reshape(rows * chunk, -1)[:count, :alternatives].tolist(),
        )

    def _rows(self, length: int) -> int:
        chunks = -(-length // self._sampler.sizes.prefill_chunk)
        return 1 << (chunks - 1).bit_length()

    def _score(
        self,
        params: Any,
        tokens: Int[Array, "R C"],
        following: Int[Array, "R C"],
        temperature: Float[Array, ""],
        adapter: Int[Array, ""],
    ) -> tuple[Float[Array, "R C"], Int[Array, "R C M"], Float[Array, "R C M"]]:
        config, size = self._sampler.config, self._sampler.sizes.page_size
        rows, chunk = tokens.shape
        pages = -(-rows * chunk // size)
        cache = init_cache(config, pages, size, params["embed"].dtype)
        tables = jnp.broadcast_to(jnp.arange(pages), (rows, pages))
        starts = jnp.arange(rows) * chunk
        select = self._sampler.select(jnp.full(rows, adapter))
        chunks = cache, tokens, tables, starts, None
        _, states = forward.prefill(params, config, *chunks, select=select)

        def one(args):
            states, following = args
            logits = forward.unembed(params, config, states) / temperature
            real = jnp.arange(logits.shape[1]) < self._sampler.valid_vocab
            logprobs = jax.nn.log_softmax(jnp.where(real, logits, -jnp.inf))
            own = jnp.take_along_axis(logprobs, following[:, None], axis=1)[:, 0]
            top, best = jax.lax.top_k(logprobs, min(MOST, self._sampler.valid_vocab))
            return own, best, top

        # One chunk after the other: logits of a long text would fill the memory.
        return jax.lax.map(one, (states, following))
