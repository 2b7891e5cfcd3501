"""The KV cache: for each layer, pages of keys and pages of values.

A page holds S positions of one row; which pages belong to which row is up to the
caller, who passes tables of page numbers. Layers and the two tensors are separate
arrays so that a donated cache is updated in place; stacked in one array, every step
would copy all of it.

Which axes come first depends on who reads (``models.cached_backends``). In
``HeadsFirst``, for XLA, the axis that a product with a few queries sums over comes
before the one it keeps: with keys as [S, H] that product takes three times as long on a
CPU. In ``TokensFirst``, which GPU kernels take, a token's numbers are contiguous.

``HeadsFirst`` holds bfloat16 as integers of the same bits. XLA for CPUs moves bfloat16
as float32, and would make the whole cache larger, change a page, and make it small
again, in every layer of every step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt16

from models.config import DecoderConfig


class HeadsFirst(NamedTuple):
    """One layer's pages, as products by XLA want them; bfloat16 as its bits."""

    keys: Float[Array, "P K H S"] | UInt16[Array, "P K H S"]
    values: Float[Array, "P K S H"] | UInt16[Array, "P K S H"]


class TokensFirst(NamedTuple):
    """One layer's pages, as GPU kernels want them."""

    keys: Float[Array, "P S K H"]
    values: Float[Array, "P S K H"]


LayerCache = HeadsFirst | TokensFirst
Cache = tuple[LayerCache, ...]


def init_cache(
    config: DecoderConfig,
    pages: int,
    page_size: int,
    dtype: Any,
    layout: type[LayerCache] = HeadsFirst,
) -> Cache:
    """Zeros for ``pages`` pages of ``page_size`` positions."""
    heads, width = config.num_kv_heads, config.head_dim
    shapes = [(pages, heads, width, page_size), (pages, heads, page_size, width)]
    if layout is TokensFirst:
        shapes = [(pages, page_size, heads, width)] * 2
    elif dtype == jnp.bfloat16:
        dtype = jnp.uint16
    return tuple(
        layout(*(jnp.zeros(shape, dtype) for shape in shapes))
        for _ in range(config.num_layers)
    )


def shape_of(cache: Cache) -> tuple[int, int]:
    """Pages, and positions of a page."""
    pages, *others = cache[0].values.shape
    return pages, others[0 if isinstance(cache[0], TokensFirst) else 1]


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
    if isinstance(layer, TokensFirst):
        return _put_tokens(layer, k[:, None], v[:, None], pages, offsets)
    return HeadsFirst(
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
    if isinstance(layer, TokensFirst):
        return _put_tokens(layer, k, v, pages, offsets // chunk)
    k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    return HeadsFirst(
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
    new = new.reshape(-1, chunk, *width)
    if tensor.dtype == jnp.uint16:
        new = jax.lax.bitcast_convert_type(new.astype(jnp.bfloat16), jnp.uint16)
    else:
        new = new.astype(tensor.dtype)
    return at.set(new, mode="drop", unique_indices=True).reshape(tensor.shape)


def _put_tokens(layer: TokensFirst, k, v, pages, chunks) -> TokensFirst:
    """Write one chunk [C, K, H] per row, at the place of a chunk in its page."""

    def put(tensor, new):
        count, size, *others = tensor.shape
        length = new.shape[1]
        parts = tensor.reshape(count, size // length, length, *others).at[pages, chunks]
        new = new.astype(tensor.dtype)
        return parts.set(new, mode="drop", unique_indices=True).reshape(tensor.shape)

    return TokensFirst(put(layer.keys, k), put(layer.values, v))


def read_pages(
    layer: LayerCache, pages: Int[Array, " W"]
) -> tuple[Float[Array, "W K H S"], Float[Array, "W K S H"]]:
    """Keys and values of whole pages."""
    # Where a table names no page, what is read is never used.
    keys, values = (x.at[pages].get(mode="clip") for x in layer)
    if isinstance(layer, TokensFirst):
        return keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3)
    if keys.dtype == jnp.uint16:
        keys, values = (
            jax.lax.bitcast_convert_type(x, jnp.bfloat16) for x in (keys, values)
        )
    return keys, values


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
