"""In which numbers a model computes."""

from typing import Any, Literal

import jax.numpy as jnp

Dtype = Literal["auto", "float32", "bfloat16"]


def resolved(dtype: Any, platform: str) -> jnp.dtype:
    """The type that is meant by ``dtype`` on a platform ("cpu", "gpu").

    ``auto`` is bfloat16, and on CPUs float32: most of them have no arithmetic in
    bfloat16 and convert every number, and float32 is more exact.
    """
    if dtype == "auto":
        dtype = jnp.float32 if platform == "cpu" else jnp.bfloat16
    return jnp.dtype(dtype)
