"""The low-rank adapters of an engine, where its programs read them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from models import lora
from models.errors import UserError
from models.fingerprint import fingerprint
from models.lora import LoraConfig
from rl.engine.sampler import Sampler


class Adapters:
    """Places for a few adapters, counted from 1; an empty place adds nothing.

    They lie beside one another in every layer (``models.lora.unstacked``), so that one
    dispatch serves sequences of all of them, and of the model itself.
    """

    def __init__(self, sampler: Sampler, settings: LoraConfig, dtype: Any):
        """All places are empty."""
        config, count = sampler.config, sampler.adapters
        self._shapes = lora.shapes(config, settings)
        self._finite = jax.jit(_all_finite)
        self._fingerprint = jax.jit(lambda placed, at: fingerprint(_one(placed, at)))

        def make() -> Any:
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), self._shapes)
            one = lora.unstacked(zeros, config.num_layers)
            return jax.tree_util.tree_map_with_path(
                lambda path, x: jnp.repeat(x, count, axis=_axis(path, x)), one
            )

        def put(placed: Any, at: Array, adapter: Any) -> Any:
            new = lora.unstacked(adapter, config.num_layers)
            return jax.tree_util.tree_map_with_path(
                lambda path, old, new: jax.lax.dynamic_update_slice_in_dim(
                    old, new.astype(old.dtype), at, _axis(path, old)
                ),
                placed,
                new,
            )

        everywhere = sampler.everywhere()
        self._put = jax.jit(put, donate_argnums=0, out_shardings=everywhere)
        self.placed = jax.jit(make, out_shardings=everywhere)()

    def put(self, number: int, adapter: Any) -> None:
        """An adapter, scaled, takes a place; None empties it.

        Raises:
          UserError: it has numbers that are not finite; in the same product, they would
            reach the sequences of others.
        """
        if adapter is None:
            adapter = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._shapes)
        if not self._finite(adapter):
            raise UserError("the adapter has weights that are not finite")
        self.placed = self._put(self.placed, np.int32(number - 1), adapter)

    def attached(self, params: Any) -> Any:
        """The engine's parameters with all adapters among them."""
        blocks = map(lora.united, params["blocks"], self.placed)
        return params | {"blocks": tuple(blocks)}

    def fingerprint(self, number: int) -> tuple[int, ...]:
        """Of one adapter as it is placed, see ``models.fingerprint``."""
        found = self._fingerprint(self.placed, np.int32(number - 1))
        return tuple(np.asarray(found).tolist())


def _axis(path: Any, leaf: Any) -> int:
    """The axis of a placed array along which adapters lie beside one another."""
    return leaf.ndim - 2 if path[-1].key.endswith("_a") else 0


def _one(placed: Any, at: Array) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.dynamic_index_in_dim(x, at, _axis(path, x)), placed
    )


def _all_finite(adapter: Any) -> Array:
    leaves = jax.tree.leaves(adapter)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
