"""The parts of a transformer block: RMS norm, rotary positions, the gated MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Variance 1/fan_in over the axes that each einsum sums.
matrix = nn.initializers.variance_scaling
in_first = matrix(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))
in_heads = matrix(1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2)
in_plain = matrix(1.0, "fan_in", "normal", in_axis=0, out_axis=1)


def rms_norm(
    x: Float[Array, "... D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "... D"]:
    """Divide by the root mean square, in float32, and scale (arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype) * scale


def rope_table(
    positions: Int[Array, "B T"], head_dim: int, theta: float
) -> tuple[Float[Array, "B T 1 H2"], Float[Array, "B T 1 H2"]]:
    """Cosine and sine of the rotary angles, float32, H2 = head_dim / 2."""
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angles = positions[..., None, None].astype(jnp.float32) * theta**-exponent
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: Float[Array, "B T N H"], rope) -> Float[Array, "B T N H"]:
    """Rotate the pairs (i, i + H/2), as Hugging Face checkpoints expect."""
    cos, sin = rope
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (left * cos - right * sin, right * cos + left * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


class MLP(nn.Module):
    """SwiGLU feed-forward layer (arXiv:2002.05202)."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply to every token."""
        gate = self.param("gate", in_plain, (self.width, self.hidden))
        up = self.param("up", in_plain, (self.width, self.hidden))
        down = self.param("down", in_plain, (self.hidden, self.width))
        inner = jax.nn.silu(jnp.einsum("BTD,DF->BTF", x, gate))
        inner = inner * jnp.einsum("BTD,DF->BTF", x, up)
        return jnp.einsum("BTF,FD->BTD", inner, down)
