"""AdamW on float32 master weights: clipped, guarded, and without copies of its moments.

``optax.adamw`` reads each moment twice, for the new moment and inside the update that
XLA fuses with it, so a donated moment is copied first: the peak rises by twice the
parameters' memory. Here the moments come first and the parameters follow from them.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float

from models.forward import Params
from models.ranges import NOT_NEGATIVE, POSITIVE, CountOrZero, Range, check_fields


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, a constant learning rate after an optional linear warm-up."""

    learning_rate: Annotated[float, NOT_NEGATIVE] = 1e-6
    """Learning rate after warm-up."""
    beta1: Annotated[float, Range(least=0, below=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Range(least=0, below=1)] = 0.999
    """Decay of the second moment."""
    epsilon: Annotated[float, POSITIVE] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.01
    """Decoupled weight decay, on every parameter."""
    clip_norm: Annotated[float, POSITIVE] = 1.0
    """Gradients of a larger global norm are scaled down to it."""
    warmup_updates: CountOrZero = 0
    """Updates over which the learning rate rises linearly to its value."""

    def __post_init__(self):
        check_fields(self)


def init(params: Params) -> optax.ScaleByAdamState:
    """Returns zero moments, float32, in the structure of ``params``."""
    return optax.ScaleByAdamState(
        count=jnp.zeros((), jnp.int32),
        mu=jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params),
        nu=jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params),
    )


def learning_rate(config: OptimizerConfig, count: Array) -> Float[Array, ""]:
    """Returns the learning rate of the update that follows ``count`` others."""
    # Not 0 for the first update, which would be wasted.
    share = jnp.minimum((count + 1.0) / (config.warmup_updates + 1.0), 1.0)
    return config.learning_rate * share


def apply(
    config: OptimizerConfig,
    grads: Params,
    state: optax.ScaleByAdamState,
    params: Params,
) -> tuple[Params, optax.ScaleByAdamState, Float[Array, ""], Bool[Array, ""]]:
    """Returns (parameters, state, gradient norm before clipping, whether it is finite).

    Where the norm isn't finite, parameters, moments and count stay as they were.

    References:
      Loshchilov and Hutter, Decoupled weight decay regularization (2019), algorithm 2.
    """
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(norm)
    scale = jnp.where(norm < config.clip_norm, 1.0, config.clip_norm / norm)
    b1, b2 = config.beta1, config.beta2

    def guarded(new: Array, old: Array) -> Array:
        return jnp.where(finite, new, old)

    mu = jax.tree.map(
        lambda m, g: guarded(b1 * m + (1 - b1) * (g * scale), m), state.mu, grads
    )
    nu = jax.tree.map(
        lambda v, g: guarded(b2 * v + (1 - b2) * jnp.square(g * scale), v),
        state.nu,
        grads,
    )
    # The parameters must not be fused with what makes the moments: see above.
    mu, nu, params = jax.lax.optimization_barrier((mu, nu, params))
    count = state.count + 1
    rate = learning_rate(config, state.count)
    unbias1, unbias2 = (1 - b ** count.astype(jnp.float32) for b in (b1, b2))

    def step(p: Array, m: Array, v: Array) -> Array:
        direction = (m / unbias1) / (jnp.sqrt(v / unbias2) + config.epsilon)
        return guarded(p - rate * (direction + config.weight_decay * p), p)

    params = jax.tree.map(step, params, mu, nu)
    state = optax.ScaleByAdamState(count=guarded(count, state.count), mu=mu, nu=nu)
    return params, state, norm, finite
