"""Attention over whole rows, and over a cache in fixed blocks.

Both compute softmax in float32. The blocked form reads only as many blocks as the
longest row needs, and what it computes for a row does not depend on the other rows: a
block that is masked for a row leaves that row's running maximum, sum and output exactly
as they were.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Large enough to vanish in a softmax, finite so that no inf - inf can arise.
MASKED = -1e30


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T N H"]:
    """Softmax attention with grouped heads; every query must see at least one key."""
    batch, queries, heads, width = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, queries, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * width**-0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v)
    return out.reshape(batch, queries, heads, width)


def segment_mask(segment_ids: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Causal, and only within equal segments (padding, segment 0, sees padding)."""
    length = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same & jnp.tril(jnp.ones((length, length), bool))
