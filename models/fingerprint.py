"""A small number that says whether two trees hold the same weights.

Every number's bits are mixed and added up, modulo 2**32: the sum depends on the numbers
and not on how they are stacked, transposed, joined or sharded, so that the weights of
the trainer can be compared with those of its engine. It is for mistakes, not for
attackers: weights in another place give the same sum.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def fingerprint(params: Any, dtype: Any = None) -> Array:
    """Two sums of the mixed bits of every number, uint32 [2]; runs under ``jit``.

    Args:
      params: arrays of 16 or 32 bits.
      dtype: the numbers as they are in this one; None: as they are.
    """
    sums = [_sums(leaf, dtype) for leaf in jax.tree.leaves(params)]
    return sum(sums, jnp.zeros(2, jnp.uint32))


def _sums(leaf: Array, dtype: Any) -> Array:
    leaf = leaf if dtype is None else leaf.astype(dtype)
    size = jnp.dtype(leaf.dtype).itemsize
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint16 if size == 2 else jnp.uint32)
    mixed = _mix(bits.astype(jnp.uint32))
    return jnp.stack([_added(mixed), _added(_mix(mixed ^ jnp.uint32(0x9E3779B9)))])


def _added(numbers: Array) -> Array:
    return jnp.sum(numbers, dtype=jnp.uint32)


def _mix(x: Array) -> Array:
    """MurmurHash3's finalizer, a bijection of 32 bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
