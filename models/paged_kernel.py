"""A kernel for GPUs: attention of one query per row over the pages of its cache.

One program of the grid takes the queries of one key head of one row and a part of the
row's pages, with a running softmax; the parts are combined at the end. Where the parts
are cut depends on shapes alone, so a row's result does not depend on the other rows. On
a CPU the same kernel is interpreted, which is slow: for tests.

Written in Pallas, for Triton. Not run on a GPU yet: it is lowered for CUDA, and its
numbers are compared, interpreted.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from models.blocked_attention import MASKED

BLOCK = 64
"""Positions that a program reads at once: keys and values of two such blocks, heads of
128 in 16 bits, take 64 KB of a processor's shared memory."""
PROGRAMS = 528
"""Programs that are wanted at least: four for each of the 132 processors of an H100."""
MOST = 4096
"""Most positions of a part, or one long row would keep a few processors busy alone."""
FEWEST_QUERIES = 16
"""A matrix unit takes no fewer rows; a key head with fewer queries is padded."""


def paged_attention(
    q: Float[Array, "B N H"],
    keys: Float[Array, "P S K H"],
    values: Float[Array, "P S K H"],
    tables: Int[Array, "B W"],
    last: Int[Array, " B"],
    *,
    window: int = 0,
) -> Float[Array, "B N H"]:
    """Attention of each row's query over positions up to ``last``.

    Args:
      q: the queries, not scaled.
      tables: pages of each row, in order; behind a row's end, any number.
      last: each row's position; -1 for a row whose result is not wanted.
      window: most positions, its own included, that a query sees; 0 means all.
    """
    (batch, heads, width), kv_heads = q.shape, keys.shape[2]
    groups = heads // kv_heads
    queries = max(FEWEST_QUERIES, 1 << (groups - 1).bit_length())
    q = (q * width**-0.5).reshape(batch, kv_heads, groups, width)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, queries - groups), (0, 0)))
    tables = jnp.clip(tables, 0, len(keys) - 1)
    run = partial(_run, window=window)
    out, highest, total = jax.lax.platform_dependent(
        q,
        keys,
        values,
        tables,
        last,
        cpu=partial(run, interpret=True),
        default=partial(run, interpret=False),
    )
    # [parts, B, K, G]: a part in which a row sees nothing has a sum of 0.
    scale = jnp.exp(highest - highest.max(0))
    total = (scale * total).sum(0)
    out = (scale[..., None] * out).sum(0) / jnp.maximum(total, 1e-30)[..., None]
    return out[:, :, :groups].reshape(batch, heads, width).astype(keys.dtype)


def parts_of(rows: int, kv_heads: int, pages: int, size: int) -> int:
    """Into how many parts the pages of a row are cut."""
    wanted = max(-(-PROGRAMS // (rows * kv_heads)), -(-pages * size // MOST))
    each = -(-pages // min(wanted, pages))
    return -(-pages // each)


def _run(q, keys, values, tables, last, *, window, interpret):
    """Each part's weighted values, largest score and sum of weights, in float32."""
    (batch, kv_heads, queries, width), (pages, size) = q.shape, keys.shape[:2]
    parts = parts_of(batch, kv_heads, tables.shape[1], size)
    each = -(-tables.shape[1] // parts)
    block = min(size, BLOCK)
    kernel = partial(_kernel, block=block, blocks=each * size // block, window=window)
    cache = pl.BlockSpec((pages, size, None, width), lambda b, k, p: (0, 0, k, 0))
    scalars = pl.BlockSpec((None, None, None, queries), lambda b, k, p: (p, b, k, 0))
    shape = (parts, batch, kv_heads, queries)
    return pl.pallas_call(
        kernel,
        grid=(batch, kv_heads, parts),
        in_specs=[
            pl.BlockSpec((None, None, queries, width), lambda b, k, p: (b, k, 0, 0)),
            cache,
            cache,
            pl.BlockSpec((None, tables.shape[1]), lambda b, k, p: (b, 0)),
            pl.BlockSpec((1,), lambda b, k, p: (b,)),
        ],
        out_specs=[
            pl.BlockSpec(
                (None, None, None, queries, width), lambda b, k, p: (p, b, k, 0, 0)
            ),
            scalars,
            scalars,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((*shape, width), jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="paged_attention",
    )(q, keys, values, tables, last)


def _kernel(
    q_ref,
    k_ref,
    v_ref,
    table_ref,
    last_ref,
    out_ref,
    highest_ref,
    total_ref,
    *,
    block: int,
    blocks: int,
    window: int,
):
    """One row, one key head, one part of ``blocks`` blocks."""
    q, last, per_page = q_ref[...], last_ref[0], k_ref.shape[1] // block
    begin = pl.program_id(2) * blocks
    end = jnp.minimum(begin + blocks, jax.lax.div(last + block, block))
    if window:
        begin = jnp.maximum(
            begin, jax.lax.div(jnp.maximum(last - window + 1, 0), block)
        )

    def body(index, carry):
        out, highest, total = carry
        page = table_ref[jax.lax.div(index, per_page)]
        here = pl.ds(jax.lax.rem(index, per_page) * block, block)
        k, v = k_ref[page, here], v_ref[page, here]
        at = index * block + jnp.arange(block)
        seen = at <= last
        # Unused positions may hold NaN, which a weight of 0 doesn't cancel.
        v = jnp.where(jax.lax.broadcast_in_dim(seen, v.shape, (0,)), v, 0)
        if window:
            seen &= at > last - window
        scores = triton.dot(q, k.T)
        seen = jax.lax.broadcast_in_dim(seen, scores.shape, (1,))
        scores = jnp.where(seen, scores, MASKED)
        new_highest = jnp.maximum(highest, scores.max(-1))
        decay = jnp.exp(highest - new_highest)
        weights = jnp.where(seen, jnp.exp(scores - new_highest[:, None]), 0.0)
        added = triton.dot(weights.astype(v.dtype), v)
        total = total * decay + weights.sum(-1)
        return out * decay[:, None] + added, new_highest, total

    start = (
        jnp.zeros(q.shape, jnp.float32),
        jnp.full(q.shape[:1], MASKED, jnp.float32),
        jnp.zeros(q.shape[:1], jnp.float32),
    )
    out, highest, total = jax.lax.fori_loop(begin, end, body, start)
    out_ref[...], highest_ref[...], total_ref[...] = out, highest, total
