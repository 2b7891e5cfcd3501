"""Attention of single tokens over the KV cache, by one of several backends.

All of them compute softmax in float32, see a window, and give a row a result that does
not depend on the other rows. What each needs:

              layout        runs on
    blocks    HeadsFirst    any device, any type and size; the default
    pallas    TokensFirst   NVIDIA GPUs: heads of 16, 32, ... 256 numbers, pages of
                            16, 32, ... positions; CPUs, interpreted: for tests
    fa3       TokensFirst   Hopper GPUs (H100, H200) with flash-attn3-jax installed:
                            16-bit types, heads of 128, pages of 128, 256, ...

``blocks`` is ``models.cached_attention``, ``pallas`` is ``models.paged_kernel``. Chunks
of prompts are computed as in ``blocks`` whatever the backend. (FlashAttention-3 could:
but it then loads whole pages, and what an earlier row left behind a row's end may be
NaN, which a weight of 0 doesn't cancel.)
"""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.cache import HeadsFirst, LayerCache, TokensFirst, read_pages
from models.cached_attention import needed_blocks, token_attention
from models.errors import UserError
from models.paged_kernel import paged_attention

CachedBackend = Literal["auto", "blocks", "pallas", "fa3"]
Chosen = Literal["blocks", "pallas", "fa3"]

LAYOUTS: dict[str, type[LayerCache]] = {
    "blocks": HeadsFirst,
    "pallas": TokensFirst,
    "fa3": TokensFirst,
}
FA3 = "flash_attn3_jax"
"""The module; of the distribution ``flash-attn3-jax``."""


def choose(
    backend: CachedBackend, *, head_dim: int, page_size: int, dtype: Any, device: Any
) -> Chosen:
    """The backend that computes attention over the cache; ``auto`` is ``blocks``.

    Args:
      dtype: of queries, keys and values.
      device: one of those that it runs on, a ``jax.Device``.

    Raises:
      UserError: if the backend cannot do it; one line that says why.
    """
    if backend in ("auto", "blocks"):
        return "blocks"
    problems = {"pallas": _no_pallas, "fa3": _no_fa3}[backend]
    if reason := problems(head_dim, page_size, jnp.dtype(dtype), device):
        raise UserError(f"engine.attention={backend}: {reason}")
    return backend


def _no_pallas(head_dim: int, page_size: int, dtype: Any, device: Any) -> str:
    """Why the kernel of ours can't be used; empty if it can."""
    if device.platform not in ("gpu", "cpu"):
        return f"runs on NVIDIA GPUs, not on {device.platform}: use blocks"
    if not _power_of_two(head_dim, 16, 256):
        return f"takes heads of 16, 32, ... 256 numbers, not of {head_dim}: use blocks"
    if not _power_of_two(page_size, 16):
        return (
            f"takes pages of 16, 32, 64, ... positions, not of {page_size}: set "
            "engine.page_size to 128"
        )
    return ""


def _no_fa3(head_dim: int, page_size: int, dtype: Any, device: Any) -> str:
    """Why FlashAttention-3 can't be used; empty if it can."""
    capability = getattr(device, "compute_capability", "")
    if device.platform != "gpu" or capability != "9.0":
        found = f"a GPU of {capability}" if capability else device.platform
        return (
            "runs on Hopper GPUs (compute capability 9.0: H100, H200), not on "
            f"{found}: use blocks"
        )
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16 or float16, not in {dtype}: use blocks"
    if head_dim != 128:
        return f"has kernels for heads of 128 numbers, not of {head_dim}: use pallas"
    if page_size % 128:
        return (
            f"is used with pages of 128, 256, ... positions, not of {page_size}: set "
            "engine.page_size to 128"
        )
    if importlib.util.find_spec(FA3) is None:
        return "flash-attn3-jax is not installed: pip install flash-attn3-jax"
    return ""


def _power_of_two(number: int, least: int, most: int | None = None) -> bool:
    whole = number & (number - 1) == 0
    return whole and least <= number and (most is None or number <= most)


def token_attention_by(
    backend: Chosen,
    tables: Int[Array, "B W"],
    positions: Int[Array, " B"],
    live: Bool[Array, " B"],
    *,
    page: int,
    window: int = 0,
) -> Callable[[Float[Array, "B N H"], LayerCache], Float[Array, "B N H"]]:
    """Attention of one query per row over the cache positions up to its own.

    What all layers share is computed once, here.

    Args:
      backend: from ``choose``.
      tables: pages of each row, in order; where there is none, any number.
      live: rows whose result is wanted; that of the others is meaningless.
      page: positions per page.
      window: most positions, its own included, that a query sees; 0 means all.

    Returns:
      a function of the queries and of a layer's cache, which has the backend's layout.
    """
    if backend == "pallas":
        last = jnp.where(live, positions, -1)
        return lambda q, layer: paged_attention(
            q, layer.keys, layer.values, tables, last, window=window
        )
    if backend == "fa3":
        # A row that isn't live sees one position, whatever is there.
        lengths = jnp.where(live, positions + 1, 1)
        return lambda q, layer: _fa3(q, layer, tables, lengths, window)
    needed = needed_blocks(
        positions, live, length=tables.shape[1] * page, block=page, window=window
    )

    def by_blocks(q, layer):
        def read(rows, blocks):
            return read_pages(layer, tables[rows, blocks])

        return token_attention(q, read, positions, needed, block=page, window=window)

    return by_blocks


def _fa3(q, layer, tables, lengths, window) -> Array:
    """FlashAttention-3 over pages; the new keys and values are in them already."""
    from flash_attn3_jax import flash_mha_with_kvcache

    # A table has numbers of no page where a row has none.
    tables = jnp.minimum(tables, len(layer.keys) - 1)
    out = flash_mha_with_kvcache(
        q[:, None],
        layer.keys,
        layer.values,
        cache_seqlens=lengths,
        page_table=tables,
        is_causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),
        # With more, the kernel would split a row by what its neighbours need.
        num_splits=1,
    )
    return jax.lax.squeeze(out, (1,))
