"""The parts of a transformer block: initial scales, RMS norm, the gated MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Variance 1/fan_in over the axes that each einsum sums.
matrix = nn.initializers.variance_scaling
in_first = matrix(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))
in_heads = matrix(1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2)
in_plain = matrix(1.0, "fan_in", "normal", in_axis=0, out_axis=1)


def rms_norm(
    x: Float[Array, "... D"],
    scale: Float[Array, "..."],
    eps: float,
    *,
    axes: tuple[int, ...] = (-1,),
) -> Float[Array, "... D"]:
    """Divide by the root mean square over ``axes``, in float32, and scale.

    Reference: arXiv:1910.07467.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=axes, keepdims=True)
    return (x32 * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype) * scale


class MLP(nn.Module):
    """SwiGLU feed-forward layer (arXiv:2002.05202), with or without biases."""

    width: int
    hidden: int
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply to every token."""
        gate = self.param("gate", in_plain, (self.width, self.hidden))
        up = self.param("up", in_plain, (self.width, self.hidden))
        down = self.param("down", in_plain, (self.hidden, self.width))

        def biased(name: str, y: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
            if not self.bias:
                return y
            return y + self.param(f"{name}_bias", nn.initializers.zeros, y.shape[-1:])

        inner = jax.nn.silu(biased("gate", jnp.einsum("BTD,DF->BTF", x, gate)))
        inner = inner * biased("up", jnp.einsum("BTD,DF->BTF", x, up))
        return biased("down", jnp.einsum("BTF,FD->BTD", inner, down))
