"""Attention over a KV cache, read page by page and no further than it is filled.

Chunks of prompts have many queries per row: all rows go through their blocks together,
with a running softmax. Single tokens have one query per row: the blocks that the rows
need form one list, processed a fixed number at a time whichever rows they belong to, so
that neither a short row nor an empty slot costs as much as the longest row.

Softmax is in float32. What is computed for a row does not depend on the other rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.blocked_attention import MASKED

# Below every sum of a softmax, which is at least exp(0) = 1.
TINY = 1e-30
# Rows, block indices -> keys [W, K, H, block], values [W, K, block, H].
ReadBlocks = Callable[[Int[Array, " W"], Int[Array, " W"]], tuple[Array, Array]]


class Needed(NamedTuple):
    """The blocks that rows need, row after row, in one list of fixed size P.

    Attributes:
      rows, blocks: of each entry; values after the last entry are meaningless.
      starts: index of each row's first entry.
      counts: entries of each row; a row that isn't live has none.
    """

    rows: Int[Array, " P"]
    blocks: Int[Array, " P"]
    starts: Int[Array, " B"]
    counts: Int[Array, " B"]


def needed_blocks(
    positions: Int[Array, " B"],
    live: Bool[Array, " B"],
    *,
    length: int,
    block: int,
    window: int = 0,
) -> Needed:
    """List the blocks that a query at each row's position sees.

    Args:
      live: rows whose result is wanted.
      length: most positions of a row, a multiple of ``block``.
      block: positions per block.
      window: most positions, its own included, that a query sees; 0 means all.
    """
    most = length // block
    first = jnp.zeros_like(positions)
    if window:
        most = min(most, (window - 2) // block + 2)
        first = jnp.maximum(positions - window + 1, 0) // block
    counts = jnp.where(live, positions // block + 1 - first, 0)
    ends = jnp.cumsum(counts)
    starts = ends - counts
    entries = jnp.arange(len(positions) * most)
    rows = jnp.searchsorted(ends, entries, side="right", method="compare_all")
    rows = jnp.minimum(rows, len(positions) - 1)
    return Needed(rows, entries - starts[rows] + first[rows], starts, counts)


def token_attention(
    q: Float[Array, "B N H"],
    read: ReadBlocks,
    positions: Int[Array, " B"],
    needed: Needed,
    *,
    block: int,
    window: int = 0,
) -> Float[Array, "B N H"]:
    """Attention of one query per row over the cache positions up to its own.

    Each block yields a softmax of its own; a row's blocks are combined at the end, in
    order. The result of rows that need no blocks is meaningless.

    Args:
      read: returns blocks of the cache.
      needed: from ``needed_blocks``, with the same block and window.

    Reference: the split softmax of https://pytorch.org/blog/flash-decoding.
    """
    batch, heads, width = q.shape
    kv_heads = jax.eval_shape(read, needed.rows, needed.blocks)[0].shape[1]
    q = (q * width**-0.5).reshape(batch, kv_heads, heads // kv_heads, width)

    def body(index, carry):
        start = index * batch
        rows, blocks = (
            jax.lax.dynamic_slice_in_dim(x, start, batch)
            for x in (needed.rows, needed.blocks)
        )
        k, v = read(rows, blocks)
        at = (blocks * block)[:, None] + jnp.arange(block)
        last = positions[rows][:, None]
        seen = at <= last
        if window:
            seen &= at > last - window
        # Unused positions may hold NaN, which a weight of 0 doesn't cancel.
        v = jnp.where(seen[:, None, :, None], v, 0)
        seen = seen[:, None, None]
        scores = jnp.einsum(
            "WKGH,WKHS->WKGS", q[rows], k, preferred_element_type=jnp.float32
        )
        scores = jnp.where(seen, scores, MASKED)
        highest = scores.max(-1)
        weights = jnp.exp(scores - highest[..., None])
        out = jnp.einsum(
            "WKGS,WKSH->WKGH",
            weights.astype(v.dtype),
            v,
            preferred_element_type=jnp.float32,
        )
        found = highest, weights.sum(-1), out
        return jax.tree.map(
            lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new, start, 0),
            carry,
            found,
        )

    shape = (len(needed.rows), *q.shape[1:3])
    parts = (
        jnp.full(shape, MASKED, jnp.float32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros((*shape, width), jnp.float32),
    )
    total = needed.counts.sum()
    parts = jax.lax.fori_loop(0, (total + batch - 1) // batch, body, parts)
    return _combined(parts, needed).reshape(batch, heads, width).astype(q.dtype)


def _combined(parts, needed: Needed) -> Float[Array, "B K G H"]:
    """Softmax over all of a row's blocks, from each block's own."""
    most = len(needed.rows) // len(needed.counts)
    nth = jnp.arange(most)
    index = jnp.minimum(needed.starts[:, None] + nth, len(needed.rows) - 1)
    highest, totals, outs = (x[index] for x in parts)
    own = (nth < needed.counts[:, None])[..., None, None]
    # Other entries may hold NaN, which a weight of 0 doesn't cancel.
    highest = jnp.where(own, highest, MASKED)
    totals, outs = jnp.where(own, totals, 0), jnp.where(own[..., None], outs, 0)
    scale = jnp.exp(highest - highest.max(1, keepdims=True))
    total = (scale * totals).sum(1)
    out = (scale[..., None] * outs).sum(1)
    return out / jnp.maximum(total, TINY)[..., None]


def chunk_attention(
    q: Float[Array, "B T N H"],
    read_block: Callable[[Int[Array, ""]], tuple[Array, Array]],
    positions: Int[Array, "B T"],
    *,
    live: Bool[Array, " B"],
    block: int,
    window: int = 0,
) -> Float[Array, "B T N H"]:
    """Attention of several queries per row over the cache positions up to their own.

    Only the blocks that a query of a live row needs are read. A block that is masked
    for a row leaves its running maximum, sum and output exactly as they were.

    Args:
      read_block: block index -> keys [B, K, H, block] and values [B, K, block, H] of
        the positions from ``index * block`` on.
      live: rows whose result is wanted; that of the others is meaningless.
      window: most positions, its own included, that a query sees; 0 means all.

    Reference: the running softmax of arXiv:1805.02867.
    """
    batch, queries, heads, width = q.shape
    kv_heads = jax.eval_shape(read_block, jnp.int32(0))[0].shape[1]
    groups = heads // kv_heads
    # A key head's queries together, Q = G * T: each key head is read once.
    q = q.reshape(batch, queries, kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, groups * queries, width) * width**-0.5
    wanted = jnp.where(live[:, None], positions, 0)
    num_blocks = wanted.max() // block + 1
    first = jnp.int32(0)
    if window:
        wanted = jnp.where(live[:, None], positions, num_blocks * block)
        first = jnp.maximum(wanted.min() - window + 1, 0) // block
    positions = jnp.tile(positions, groups)[:, None, :, None]

    def body(index, carry):
        highest, total, out = carry
        k, v = read_block(index)
        at = index * block + jnp.arange(block)
        seen = at <= positions
        if window:
            seen &= at > positions - window
        scores = jnp.einsum("BKQH,BKHS->BKQS", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(seen, scores, MASKED)
        new_highest = jnp.maximum(highest, scores.max(-1))
        # In a block that a row does not see, decay is exp(0) = 1 and weights are 0.
        decay = jnp.exp(highest - new_highest)
        weights = jnp.where(seen, jnp.exp(scores - new_highest[..., None]), 0.0)
        # Past the row's own tokens may be NaN, which a weight of 0 doesn't cancel.
        v = jnp.where((at <= positions.max(2))[..., None], v, 0)
        added = jnp.einsum(
            "BKQS,BKSH->BKQH",
            weights.astype(v.dtype),
            v,
            preferred_element_type=jnp.float32,
        )
        total = total * decay + weights.sum(-1)
        return new_highest, total, out * decay[..., None] + added

    shape = q.shape[:3]
    start = (
        jnp.full(shape, MASKED, jnp.float32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros((*shape, width), jnp.float32),
    )
    _, total, out = jax.lax.fori_loop(first, num_blocks, body, start)
    # A row that isn't live may have seen nothing.
    out = (out / jnp.maximum(total, TINY)[..., None]).astype(q.dtype)
    out = out.reshape(batch, kv_heads, groups, queries, width)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, queries, heads, width)
