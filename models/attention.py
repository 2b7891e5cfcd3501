"""Attention over whole rows, by one of several backends.

What each backend supports besides causal attention with grouped heads (``CAN``):

                window  segments  branches  lengths  runs on
    reference   yes     yes       yes       yes      any device; T x T; for tests
    blocked     yes     yes       yes       yes      any device; the default
    cudnn       yes     no        no        yes      NVIDIA GPUs, 16 bits, H <= 128

All of them compute softmax in float32. Over a cache: ``models.cached_attention``.
"""

from collections.abc import Collection
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.blocked_attention import MASKED, blocked_attention
from models.branches import Branches, branch_mask
from models.errors import UserError

Backend = Literal["auto", "reference", "blocked", "cudnn"]
Need = Literal["window", "segments", "branches", "lengths"]

CAN: dict[str, frozenset[str]] = {
    "reference": frozenset(get_args(Need)),
    "blocked": frozenset(get_args(Need)),
    "cudnn": frozenset({"window", "lengths"}),
}


def choose_backend(
    backend: Backend,
    *,
    needs: Collection[Need],
    head_dim: int,
    dtype: Any,
    platform: str,
) -> Literal["reference", "blocked", "cudnn"]:
    """The backend that computes attention; ``auto`` is ``blocked``.

    Args:
      needs: what the caller's rows use besides causal attention.
      dtype: of queries, keys and values.
      platform: of the devices: "cpu", "gpu".

    Raises:
      UserError: if the backend doesn't support it; the message names one that does.
    """
    if backend == "auto":
        return "blocked"
    for need in sorted(set(needs) - CAN[backend]):
        able = ", ".join(name for name, can in CAN.items() if need in can)
        raise UserError(
            f"attention={backend!r}: does not support {need}: use one of {able}"
        )
    if backend == "cudnn":
        bits = 8 * jnp.dtype(dtype).itemsize
        reason = ""
        if platform not in ("gpu", "cuda"):
            reason = f"runs on NVIDIA GPUs, not on {platform}"
        elif bits != 16:
            reason = f"computes in 16 bits, not in {bits}"
        elif head_dim > 128 or head_dim % 8:
            reason = f"takes a head_dim of 8, 16, ... 128, not of {head_dim}"
        if reason:
            raise UserError(f"attention={backend!r}: {reason}: use blocked")
    return backend


def row_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    backend: Literal["reference", "blocked", "cudnn"] = "blocked",
    segment_ids: Int[Array, "B T"] | None = None,
    branches: Branches | None = None,
    lengths: Int[Array, " B"] | None = None,
    window: int = 0,
) -> Float[Array, "B T N H"]:
    """Causal attention of whole rows, with grouped heads.

    Args:
      backend: from ``choose_backend``.
      segment_ids: tokens see only their own segment; padding, 0, sees padding.
      branches: with segments: what tokens see of other segments of their row.
      lengths: tokens in each row instead; what follows them is padding, whose result
        is meaningless.
      window: most tokens, itself included, that a token sees; 0 means all.
    """
    batch, length, _, _ = q.shape
    if backend == "cudnn":
        # Lengths and flags, never a mask: with a mask cuDNN is slow, and has been wrong
        # (https://github.com/jax-ml/jax/pull/35114, issue 32242).
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            is_causal=True,
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            local_window_size=(window - 1, 0) if window else None,
            implementation="cudnn",
        )
    if lengths is not None:
        segment_ids = (jnp.arange(length) < lengths[:, None]).astype(jnp.int32)
    elif segment_ids is None:
        segment_ids = jnp.ones((batch, length), jnp.int32)
    segment_ids = jnp.asarray(segment_ids)
    if backend == "reference":
        if branches:
            return full_attention(q, k, v, branch_mask(segment_ids, branches, window))
        return full_attention(q, k, v, segment_mask(segment_ids, window))
    return blocked_attention(
        q,
        k,
        v,
        segment_ids,
        branches=branches,
        window=window,
        block=block_size(length),
    )


def block_size(length: int) -> int:
    """Tokens per block: small blocks skip more, but are slow on an accelerator."""
    if jax.default_backend() == "cpu":
        return 32  # the working set of a pair of blocks stays in the nearest cache
    return 128 if length <= 4096 else 512


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


def segment_mask(
    segment_ids: Int[Array, "B T"], window: int = 0
) -> Bool[Array, "B T T"]:
    """Causal, and only within equal segments (padding, segment 0, sees padding).

    Args:
      window: most tokens, itself included, that a token sees; 0 means all.
    """
    length = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    seen = jnp.tril(jnp.ones((length, length), bool))
    if window:
        seen &= ~jnp.tril(seen, -window)
    return same & seen
