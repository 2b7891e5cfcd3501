"""What a block keeps for the backward pass; the rest is recomputed."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax import Array

from models.blocked_attention import SAVED

Remat = Literal["none", "block", "attention", "dots"]

_SAVE_ATTENTION = jax.checkpoint_policies.save_only_these_names(SAVED)
# What is kept inside a block; "none" keeps everything and needs no policy.
REMAT_POLICIES: dict[str, Any] = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "attention": _SAVE_ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _SAVE_ATTENTION
    ),
}


def recomputed(run: Callable[[Array, Any], Array]) -> Callable[[Array, Any], Array]:
    """``run(x, params)``, computed again in the backward pass; only ``x`` is kept.

    For layers that are unrolled. There, what ``jax.checkpoint`` recomputes depends on
    nothing that is not there from the start: XLA may compute it at once, and on CPUs
    takes it from the forward pass, so that nothing is saved. Here it has to wait for
    the gradient of the layer behind.
    """

    @jax.custom_vjp
    def once(x: Array, params: Any) -> Array:
        return run(x, params)

    def forward(x: Array, params: Any) -> tuple[Array, tuple[Array, Any]]:
        return run(x, params), (x, params)

    def backward(saved: tuple[Array, Any], gradient: Array) -> tuple[Array, Any]:
        x, params = saved
        # Adds 0, unless the gradient is not finite, and then nothing is lost.
        x = x + (0 * gradient.ravel()[0]).astype(x.dtype)
        return jax.vjp(run, x, params)[1](gradient)

    once.defvjp(forward, backward)
    return once
