"""The parts of a transformer block: initial scales, RMS norm, the gated MLP."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Variance 1 / fan_in, where fan_in is the size of the axes that the product sums over.
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
    wide: bool = False,
    offset: bool = False,
) -> Float[Array, "... D"]:
    """Divide by the root mean square over ``axes``, in float32, and scale.

    Args:
      wide: scale in float32 too; otherwise in the dtype of ``x``, which rounds twice.
      offset: scale by 1 + ``scale``.

    Reference: arXiv:1910.07467.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=axes, keepdims=True)
    normed = x32 * jax.lax.rsqrt(mean_square + eps)
    if offset:
        scale = 1.0 + scale.astype(jnp.float32)
    if wide:
        return (normed * scale.astype(jnp.float32)).astype(x.dtype)
    return normed.astype(x.dtype) * scale


def project(
    module: nn.Module,
    name: str,
    x: Float[Array, "B T ..."],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    init: nn.initializers.Initializer,
) -> Float[Array, "B T ..."]:
    """Multiply ``x`` by the module's weight ``name``, summing over ``inputs``.

    The weight is [*inputs, *outputs]; with ``module.weights_first`` it is
    [*outputs, *inputs] and the left operand (see ``forward.unstack``).
    """
    summed = len(inputs)
    if not module.weights_first:
        weight = module.param(name, init, inputs + outputs)
        # As plain matrices: with separate B and T axes, the products of the backward
        # pass take 50% longer on a CPU.
        leading, width = x.shape[:-summed], math.prod(inputs)
        flat = x.reshape(-1, width) @ weight.reshape(width, -1)
        return flat.reshape(*leading, *outputs)
    weight = module.param(name, init, outputs + inputs)
    axes = range(-summed, 0)
    y = jnp.tensordot(weight, x, (tuple(axes), tuple(axes)))
    return jnp.moveaxis(y, (-2, -1), (0, 1))


# By Hugging Face's names; the second computes the normal distribution by a tanh.
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}


class MLP(nn.Module):
    """Gated feed-forward layer (arXiv:2002.05202), with or without biases."""

    width: int
    hidden: int
    bias: bool = False
    activation: str = "silu"
    joined: bool = False
    weights_first: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply to every token."""

        def layer(name: str, x, inputs: int, outputs: int):
            return project(self, name, x, (inputs,), (outputs,), in_plain)

        def biased(name: str, y):
            if not self.bias:
                return y
            return y + self.param(f"{name}_bias", nn.initializers.zeros, y.shape[-1:])

        if self.joined:
            both = layer("gate_up", x, self.width, 2 * self.hidden)
            gate, up = jnp.split(both, 2, axis=-1)
        else:
            gate = layer("gate", x, self.width, self.hidden)
            up = layer("up", x, self.width, self.hidden)
        inner = ACTIVATIONS[self.activation](biased("gate", gate)) * biased("up", up)
        return biased("down", layer("down", inner, self.hidden, self.width))
