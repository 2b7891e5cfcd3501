"""Attention over packed rows in blocks, so that no T x T buffer exists.

The forward pass keeps a running softmax (arXiv:1805.02867) and each query's log of the
normalizer; the backward pass recomputes weights from it (arXiv:2205.14135). Blocks that
no query can see are skipped: those after the query, those before its segment, those
before its window. A block that is skipped for some rows and not for others adds exactly
0 where it is not needed, so a row's result does not depend on the rows beside it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from models.branches import Branches, visible

# Large enough to vanish in a softmax, finite so that no inf - inf can arise.
MASKED = -1e30
# Name by which remat policies find what the backward pass needs from the forward pass.
SAVED = "attention"


def blocked_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    *,
    branches: Branches | None = None,
    window: int = 0,
    block: int = 128,
) -> Float[Array, "B T N H"]:
    """Causal softmax attention within equal ``segment_ids``, differentiable.

    Args:
      segment_ids: in any order; most blocks are skipped where they only increase.
        Padding is segment 0: its result is finite and meaningless.
      branches: what tokens see of other segments, which have lower ids.
      window: most positions, its own included, that a query sees; 0 means all.
      block: how many queries, and keys, have their scores in memory at once.
    """
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    block = min(block, length)
    count = -(-length // block)
    pad = count * block - length
    q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))

    def cut(x):  # no query sees what comes after all of them
        x = jnp.pad(x, ((0, 0), (0, pad)), mode="edge")
        return x.reshape(batch, count, block).swapaxes(0, 1)

    rows = (cut(segment_ids), branches and Branches(*map(cut, branches)))
    # The query heads of a group lie next to each other: each key head is read once.
    q = q.reshape(batch, count, block, kv_heads, heads // kv_heads, width)
    q = q.transpose(1, 0, 3, 4, 2, 5).reshape(count, batch, kv_heads, -1, width)
    k, v = (
        x.reshape(batch, count, block, kv_heads, width).transpose(1, 0, 3, 2, 4)
        for x in (k, v)
    )
    out = _attend(window, q, k, v, rows, _first_blocks(*rows, window))
    out = out.reshape(count, batch, kv_heads, heads // kv_heads, block, width)
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(batch, count * block, heads, width)
    return out[:, :length]


def _first_blocks(
    segments: Int[Array, "C B S"], branches: Branches | None, window: int
):
    """For each block of queries, the first block of keys that any query may see."""
    count, _, block = segments.shape
    highest = segments.max(-1)
    # A row's tail of padding must not make its last segment reach back to the start.
    lowest = jnp.where(segments > 0, segments, highest[..., None]).min(-1)
    seen = lowest
    if branches:
        parents = jnp.where(branches.parents > 0, branches.parents, highest[..., None])
        seen = jnp.minimum(lowest, parents.min(-1))
    mine, theirs = seen[:, None], highest[None]
    index = jnp.arange(count)
    # A block of keys is needed where the two ranges of segments overlap.
    overlap = (theirs >= mine) & (lowest[None] <= highest[:, None])
    needed = overlap.any(-1) & (index[None] <= index[:, None])
    first = jnp.argmax(needed, axis=1)
    if window and not branches:  # whose trunk is near in the text, not in the row
        first = jnp.maximum(first, (index * block - window + 1) // block)
    return first


def _weights(q, k, window, block_ids, rows, normalizer):
    """exp(scores - normalizer) of one pair of blocks, 0 where nothing is seen."""
    scores, seen = _scores(q, k, window, block_ids, rows)
    return jnp.where(seen, jnp.exp(scores - normalizer[..., None]), 0.0)


def _scores(q, k, window, block_ids, rows):
    """Scores [B, K, G * S, S] of one pair of blocks, MASKED where nothing is seen."""
    (i, j), block = block_ids, k.shape[2]
    segments, branches = rows
    groups = q.shape[2] // block
    scores = jnp.einsum("BKQH,BKSH->BKQS", q, k, preferred_element_type=jnp.float32)
    distance = (i * block + jnp.arange(block))[:, None] - (
        j * block + jnp.arange(block)
    )
    if branches:
        own, theirs = (Branches(*(x[at] for x in branches)) for at in (i, j))
        seen = visible((segments[i], segments[j]), own, theirs, window)
        seen &= distance >= 0
    else:
        seen = (distance >= 0) & (distance < window) if window else distance >= 0
        seen = seen & (segments[i][:, :, None] == segments[j][:, None, :])
    seen = jnp.tile(seen, (1, groups, 1))[:, None]
    return jnp.where(seen, scores, MASKED), seen


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(window, q, k, v, rows, first):
    return _forward(window, q, k, v, rows, first)[0]


def _forward(window, q, k, v, rows, first):
    scale = q.shape[-1] ** -0.5

    def one(i):
        scaled = q[i] * scale

        def body(j, carry):
            highest, total, out = carry
            scores, seen = _scores(scaled, k[j], window, (i, j), rows)
            new_highest = jnp.maximum(highest, scores.max(-1))
            decay = jnp.exp(highest - new_highest)
            weights = jnp.where(seen, jnp.exp(scores - new_highest[..., None]), 0.0)
            added = _product("BKQS,BKSH->BKQH", weights.astype(v.dtype), v[j])
            total = total * decay + weights.sum(-1)
            return new_highest, total, out * decay[..., None] + added

        shape = scaled.shape[:-1]
        start = (
            jnp.full(shape, MASKED, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros(scaled.shape, jnp.float32),
        )
        highest, total, out = jax.lax.fori_loop(first[i], i + 1, body, start)
        return (out / total[..., None]).astype(q.dtype), highest + jnp.log(total)

    both = jax.lax.map(one, jnp.arange(len(q)))
    out, normalizer = (checkpoint_name(x, SAVED) for x in both)
    return out, (q, k, v, rows, first, out, normalizer)


def _backward(window, saved, d_out):
    q, k, v, rows, first, out, normalizer = saved
    scale = q.shape[-1] ** -0.5
    inner = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1)

    def one(carry, i):
        scaled, given = q[i] * scale, d_out[i]

        def body(j, carry):
            d_q, d_k, d_v = carry
            weights = _weights(scaled, k[j], window, (i, j), rows, normalizer[i])
            d_weights = _product("BKQH,BKSH->BKQS", given, v[j])
            d_scores = (weights * (d_weights - inner[i][..., None])).astype(q.dtype)
            weights = weights.astype(q.dtype)
            d_q += _product("BKQS,BKSH->BKQH", d_scores, k[j])
            d_k = d_k.at[j].add(_product("BKQS,BKQH->BKSH", d_scores, scaled))
            d_v = d_v.at[j].add(_product("BKQS,BKQH->BKSH", weights, given))
            return d_q, d_k, d_v

        start = (jnp.zeros(scaled.shape, jnp.float32), *carry)
        d_q, *carry = jax.lax.fori_loop(first[i], i + 1, body, start)
        return tuple(carry), (d_q * scale).astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    (d_k, d_v), d_q = jax.lax.scan(one, (zeros, zeros), jnp.arange(len(q)))
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


def _product(equation, left, right):
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


_attend.defvjp(_forward, _backward)
