"""The parts of a transformer block: initial scales, RMS norm, the gated MLP."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    *,
    parts: dict[str, int] | None = None,
    select: Bool[Array, "B A"] | None = None,
) -> Float[Array, "B T ..."]:
    """Multiply ``x`` by the module's weight ``name``, summing over ``inputs``.

    The weight is [*inputs, *outputs]; with ``module.weights_first`` it is
    [*outputs, *inputs] and the left operand (see ``unstack``). Where the
    module has low-rank adapters (``models.lora``), their product is added.

    Args:
      parts: matrices that are concatenated in ``name``, and their sizes along the
        first output axis; by default it is one matrix.
      select: which of A adapters each row has; none: all false. Without it there is
        one, which all rows have.
    """
    y = _product(module, name, x, inputs, outputs, init)
    if module.has_variable("params", f"{name}_a"):
        y += _low_rank(
            module, name, x, len(inputs), outputs, parts or {name: outputs[0]}, select
        )
    return y


def inputs_of(name: str) -> int:
    """Over how many leading axes of a matrix its product sums."""
    return 2 if name == "o" else 1


def _low_rank(module, name, x, summed, outputs, parts, select):
    """``x`` A B, for every part of ``outputs`` that has an adapter; else 0."""
    a = module.get_variable("params", f"{name}_a")
    leading, width = x.shape[:-summed], math.prod(x.shape[-summed:])
    inner = x.reshape(-1, width) @ a.reshape(width, -1)
    found = [part for part in parts if module.has_variable("params", f"{part}_b")]
    inner = inner.reshape(len(inner), len(found), -1)
    if select is not None:
        # All adapters at once, and the others' zeroed: a few wide products, where
        # picking each row's matrices would read them row by row. Zeros add nothing.
        tokens = len(inner) // len(select)
        chosen = jnp.repeat(select, tokens, axis=0)[:, None, :, None]
        each = inner.reshape(*inner.shape[:2], select.shape[1], -1)
        inner = jnp.where(chosen, each, 0).reshape(inner.shape)

    def one(part: str, count: int) -> Array:
        shape = (*leading, count, *outputs[1:])
        if part not in found:
            return jnp.zeros(shape, x.dtype)
        b = module.get_variable("params", f"{part}_b")
        product = inner[:, found.index(part)] @ b.reshape(inner.shape[-1], -1)
        return product.reshape(shape)

    products = [one(part, count) for part, count in parts.items()]
    return jnp.concatenate(products, axis=len(leading)) if products[1:] else products[0]


def _product(module, name, x, inputs, outputs, init):
    """``x`` times the weight itself."""
    summed = len(inputs)
    if not module.weights_first:
        weight = module.param(name, init, inputs + outputs)
        # As plain matrices: with separate B and T axes, the products of the backward
        # pass take 50% longer on a CPU.
        leading, width = x.shape[:-summed], math.prod(inputs)
        flat = x.reshape(-1, width) @ weight.reshape(width, -1)
        return flat.reshape(*leading, *outputs)
    weight = module.param(name, init, outputs + inputs)
    leading, width = x.shape[:-summed], math.prod(inputs)
    if module.flat:  # training: as above, or the update takes 1.3 times as long
        flat = x.reshape(-1, width) @ weight.reshape(-1, width).T
        return flat.reshape(*leading, *outputs)
    if x.dtype == jnp.bfloat16:
        # Summed in float32, or XLA for CPUs makes the weights float32 first; and from
        # the right, which takes three quarters of the time that it does from the left.
        flat, weight = x.reshape(-1, width), weight.reshape(-1, width)
        y = jnp.einsum("MK,NK->MN", flat, weight, preferred_element_type=jnp.float32)
        return y.astype(x.dtype).reshape(*leading, *outputs)
    axes = tuple(range(-summed, 0))
    y = jnp.tensordot(weight, x, (axes, axes))
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
    flat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], select: Bool[Array, "B A"] | None = None
    ) -> Float[Array, "B T D"]:
        """Apply to every token; ``select`` as in ``project``."""

        def layer(name: str, x, inputs: int, outputs: int, parts=None):
            sizes = (inputs,), (outputs,)
            options = {"parts": parts, "select": select}
            return project(self, name, x, *sizes, in_plain, **options)

        def biased(name: str, y):
            if not self.bias:
                return y
            return y + self.param(f"{name}_bias", nn.initializers.zeros, y.shape[-1:])

        if self.joined:
            parts = dict.fromkeys(("gate", "up"), self.hidden)
            both = layer("gate_up", x, self.width, 2 * self.hidden, parts)
            gate, up = jnp.split(both, 2, axis=-1)
        else:
            gate = layer("gate", x, self.width, self.hidden)
            up = layer("up", x, self.width, self.hidden)
        inner = ACTIVATIONS[self.activation](biased("gate", gate)) * biased("up", up)
        return biased("down", layer("down", inner, self.hidden, self.width))
