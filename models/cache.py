"""The KV cache: for each layer, keys and values [slots, S, K, H], apart.

Layers and the two tensors are separate arrays so that a donated cache is updated in
place; stacked in one array, every step would copy it whole.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.config import DecoderConfig

LayerCache = tuple[Array, Array]
Cache = tuple[LayerCache, ...]


def init_cache(config: DecoderConfig, slots: int, length: int, dtype: Any) -> Cache:
    """Zeros for ``slots`` rows of ``length`` positions."""
    shape = (slots, length, config.num_kv_heads, config.head_dim)
    return tuple(
        (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        for _ in range(config.num_layers)
    )


def write_tokens(
    tensor: Float[Array, "B S K H"],
    new: Float[Array, "B K H"],
    positions: Int[Array, " B"],
    active: Bool[Array, " B"],
) -> Float[Array, "B S K H"]:
    """Put one token into each active slot; inactive slots are left untouched."""
    slots, length = tensor.shape[:2]
    outside = jnp.where(active, positions, length)
    at = tensor.at[jnp.arange(slots), outside]
    return at.set(new.astype(tensor.dtype), mode="drop", unique_indices=True)


def write_chunks(
    tensor: Float[Array, "B S K H"],
    new: Float[Array, "R C K H"],
    slots: Int[Array, " R"],
    starts: Int[Array, " R"],
) -> Float[Array, "B S K H"]:
    """Put aligned chunks into slots; a slot index of B writes nothing."""
    rows, length, kv_heads, width = tensor.shape
    chunk = new.shape[1]
    chunked = tensor.reshape(rows, length // chunk, chunk, kv_heads, width)
    at = chunked.at[slots, starts // chunk]
    return at.set(new.astype(tensor.dtype), mode="drop").reshape(tensor.shape)


def read_rows(
    tensor: Float[Array, "B S K H"], start: Int[Array, ""], block: int
) -> Float[Array, "B block K H"]:
    """One block of positions of every slot."""
    return jax.lax.dynamic_slice_in_dim(tensor, start, block, axis=1)


def read_slots(
    tensor: Float[Array, "B S K H"],
    slots: Int[Array, " R"],
    start: Int[Array, ""],
    block: int,
) -> Float[Array, "R block K H"]:
    """One block of positions of the given slots."""

    def one(slot):
        sizes = (1, block, *tensor.shape[2:])
        return jax.lax.dynamic_slice(tensor, (slot, start, 0, 0), sizes)[0]

    return jax.vmap(one)(slots)


def copy_chunks(
    cache: Cache,
    sources: Int[Array, " M"],
    targets: Int[Array, " M"],
    starts: Int[Array, " M"],
    count: Int[Array, ""],
    *,
    chunk: int,
) -> Cache:
    """Copy the first ``count`` (source slot, target slot, start) chunks, all layers."""

    def body(index, cache):
        source, target, start = sources[index], targets[index], starts[index]

        def copy(tensor):
            sizes = (1, chunk, *tensor.shape[2:])
            block = jax.lax.dynamic_slice(tensor, (source, start, 0, 0), sizes)
            return jax.lax.dynamic_update_slice(tensor, block, (target, start, 0, 0))

        return jax.tree.map(copy, cache)

    return jax.lax.fori_loop(0, count, body, cache)
