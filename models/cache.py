"""The KV cache: for each layer, keys and values [slots, K, S, H], apart.

Layers and the two tensors are separate arrays so that a donated cache is updated in
place; stacked in one array, every step would copy it whole. The positions of a head
are one stretch of memory: in the order [S, K, H] a CPU turned every block round before
it multiplied, which took half of attention's time.
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
    shape = (slots, config.num_kv_heads, length, config.head_dim)
    return tuple(
        (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        for _ in range(config.num_layers)
    )


def write_tokens(
    tensor: Float[Array, "B K S H"],
    new: Float[Array, "B K H"],
    positions: Int[Array, " B"],
    active: Bool[Array, " B"],
) -> Float[Array, "B K S H"]:
    """Put one token into each active slot; inactive slots are left untouched."""
    slots, kv_heads, length, width = tensor.shape
    # The indexed axes come first, or XLA would turn the whole cache round and back.
    heads = tensor.reshape(slots * kv_heads, length, width)
    outside = jnp.repeat(jnp.where(active, positions, length), kv_heads)
    at = heads.at[jnp.arange(slots * kv_heads), outside]
    new = new.reshape(-1, width).astype(tensor.dtype)
    return at.set(new, mode="drop", unique_indices=True).reshape(tensor.shape)


def write_chunks(
    tensor: Float[Array, "B K S H"],
    new: Float[Array, "R C K H"],
    slots: Int[Array, " R"],
    starts: Int[Array, " R"],
) -> Float[Array, "B K S H"]:
    """Put aligned chunks into slots; a slot index of B writes nothing."""
    rows, kv_heads, length, width = tensor.shape
    chunk = new.shape[1]
    heads = tensor.reshape(rows * kv_heads, length // chunk, chunk, width)
    index = slots[:, None] * kv_heads + jnp.arange(kv_heads)
    at = heads.at[index.reshape(-1), jnp.repeat(starts // chunk, kv_heads)]
    new = new.swapaxes(1, 2).reshape(-1, chunk, width).astype(tensor.dtype)
    return at.set(new, mode="drop").reshape(tensor.shape)


def read_rows(
    tensor: Float[Array, "B K S H"], start: Int[Array, ""], block: int
) -> Float[Array, "B K block H"]:
    """One block of positions of every slot."""
    return jax.lax.dynamic_slice_in_dim(tensor, start, block, axis=2)


def read_slots(
    tensor: Float[Array, "B K S H"],
    slots: Int[Array, " R"],
    start: Int[Array, ""],
    block: int,
) -> Float[Array, "R K block H"]:
    """One block of positions of the given slots."""
    _, kv_heads, _, width = tensor.shape

    def one(slot):
        sizes = (1, kv_heads, block, width)
        return jax.lax.dynamic_slice(tensor, (slot, 0, start, 0), sizes)[0]

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
            sizes = (1, tensor.shape[1], chunk, tensor.shape[3])
            block = jax.lax.dynamic_slice(tensor, (source, 0, start, 0), sizes)
            return jax.lax.dynamic_update_slice(tensor, block, (target, 0, start, 0))

        return jax.tree.map(copy, cache)

    return jax.lax.fori_loop(0, count, body, cache)
