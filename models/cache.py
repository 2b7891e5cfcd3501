"""The KV cache: for each layer, pages of keys [P, K, H, S] and of values [P, K, S, H].

A page holds S positions of one row; which pages belong to which row is up to the
caller, who passes tables of page numbers. Layers and the two tensors are separate
arrays so that a donated cache is updated in place; stacked in one array, every step
would copy all of it. In both layouts the axis that a product with a few queries sums
over comes before the one it keeps: with keys as [S, H] that product takes three times
as long on a CPU.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.config import DecoderConfig


class LayerCache(NamedTuple):
    """One layer's pages."""

    keys: Float[Array, "P K H S"]
    values: Float[Array, "P K S H"]


Cache = tuple[LayerCache, ...]


def init_cache(config: DecoderConfig, pages: int, page_size: int, dtype: Any) -> Cache:
    """Zeros for ``pages`` pages of ``page_size`` positions."""
    heads, width = config.num_kv_heads, config.head_dim
    return tuple(
        LayerCache(
            keys=jnp.zeros((pages, heads, width, page_size), dtype),
            values=jnp.zeros((pages, heads, page_size, width), dtype),
        )
        for _ in range(config.num_layers)
    )


def shape_of(cache: Cache) -> tuple[int, int]:
    """Pages, and positions of a page."""
    pages, _, page_size, _ = cache[0].values.shape
    return pages, page_size


def write_tokens(
    layer: LayerCache,
    k: Float[Array, "B K H"],
    v: Float[Array, "B K H"],
    pages: Int[Array, " B"],
    offsets: Int[Array, " B"],
) -> LayerCache:
    """Write one token per row, at an offset in a page.

    Args:
      pages: all different; one that doesn't exist writes nothing.
    """
    return LayerCache(
        _put(layer.keys, k, pages, offsets, 1),
        _put(layer.values, v, pages, offsets, 1, v.shape[-1]),
    )


def write_chunks(
    layer: LayerCache,
    k: Float[Array, "R C K H"],
    v: Float[Array, "R C K H"],
    pages: Int[Array, " R"],
    offsets: Int[Array, " R"],
) -> LayerCache:
    """Write one chunk per row, at an offset (a multiple of C) in a page.

    Several chunks may go into one page, at different offsets. See ``write_tokens``.
    """
    chunk, width = k.shape[1], v.shape[-1]
    k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    return LayerCache(
        _put(layer.keys, k, pages, offsets // chunk, chunk),
        _put(layer.values, v, pages, offsets // chunk, chunk, width),
    )


def _put(tensor, new, pages, offsets, chunk, *width):
    # The indexed axes come first, or XLA would transpose the whole cache and back.
    positions = tensor.shape[2 if width else 3]
    rows = tensor.reshape(-1, positions // chunk, chunk, *width)
    each = len(rows) // len(tensor)
    index = (pages[:, None] * each + jnp.arange(each)).reshape(-1)
    at = rows.at[index, jnp.repeat(offsets, each)]
    new = new.reshape(-1, chunk, *width).astype(tensor.dtype)
    return at.set(new, mode="drop", unique_indices=True).reshape(tensor.shape)


def read_pages(
    layer: LayerCache, pages: Int[Array, " W"]
) -> tuple[Float[Array, "W K H S"], Float[Array, "W K S H"]]:
    """Keys and values of whole pages."""
    # Where a table names no page, what is read is never used.
    return tuple(x.at[pages].get(mode="clip") for x in layer)


def copy_pages(
    cache: Cache,
    sources: Int[Array, " M"],
    targets: Int[Array, " M"],
    count: Int[Array, ""],
) -> Cache:
    """Copy the first ``count`` pages, one after another, in all layers."""

    def body(index, cache):
        def copy(tensor):
            page = jax.lax.dynamic_index_in_dim(tensor, sources[index])
            return jax.lax.dynamic_update_index_in_dim(tensor, page, targets[index], 0)

        return jax.tree.map(copy, cache)

    return jax.lax.fori_loop(0, count, body, cache)
