"""The transformer block: thin linen modules applied to one layer's slice of parameters.

``attend`` decides what the tokens see, so that training (a mask) and cached decoding
(the cache) run the same block. It takes q, k, v of the new tokens, already rotated, and
returns the attention output and a second value that the block passes through (the
updated cache; None in training).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from models.config import DecoderConfig
from models.layers import MLP, in_first, in_heads, project, rms_norm
from models.rope import Angles, rotated_pair

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


def norm(config: DecoderConfig, x, scale, *, axes: tuple[int, ...] = (-1,)) -> Array:
    """The family's RMS norm over ``axes``."""
    family, eps = config.family, config.rms_norm_eps
    options = {"wide": family.wide_norm, "offset": family.norm_offset}
    return rms_norm(x, scale, eps, axes=axes, **options)


def norm_init(config: DecoderConfig) -> nn.initializers.Initializer:
    """The scale of a norm that leaves the root mean square at 1."""
    return nn.initializers.zeros if config.family.norm_offset else nn.initializers.ones


class Attention(nn.Module):
    """Projections, optional biases and norms, rotary positions, ``attend``."""

    config: DecoderConfig
    joined: bool = False
    weights_first: bool = False
    flat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        rope: Angles | None,
        attend: Attend,
        select: Bool[Array, "B A"] | None = None,
    ):
        """Return (output [B, T, D], the second value of ``attend``)."""
        c = self.config
        width, head = c.hidden_size, c.head_dim
        zeros = nn.initializers.zeros
        heads = {"q": c.num_heads, "k": c.num_kv_heads, "v": c.num_kv_heads}
        if self.joined:
            shape = (sum(heads.values()), head)
            options = {"parts": heads, "select": select}
            y = project(self, "qkv", x, (width,), shape, in_first, **options)
            ends = np.cumsum(tuple(heads.values()))[:-1]
            qkv = dict(zip(heads, jnp.split(y, ends, axis=-2), strict=True))
        else:
            qkv = {
                name: project(self, name, x, (width,), (count, head), in_first)
                for name, count in heads.items()
            }
        if c.qkv_bias:
            for name, count in heads.items():
                qkv[name] += self.param(f"{name}_bias", zeros, (count, head))
        for name in ("q", "k"):
            qkv[name] = self.norm(name, qkv[name])
        q, k = rotated_pair(qkv["q"], qkv["k"], rope)
        if c.query_factor != 1:
            q = q * c.query_factor
        with jax.named_scope("attend"):
            out, carried = attend(q, k, qkv["v"])
        shape = (c.num_heads, head)
        out = project(self, "o", out, shape, (width,), in_heads, select=select)
        if c.attention_bias:
            out += self.param("o_bias", zeros, (width,))
        return out, carried

    def norm(self, name: str, x: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
        """The family's RMS norm of queries or keys."""
        kind = self.config.family.qk_norm
        if kind == "head":
            scale = self.param(f"{name}_norm", norm_init(self.config), x.shape[-1:])
            return norm(self.config, x, scale)
        if kind == "all":
            shape = x.shape[-2:]
            scale = self.param(f"{name}_norm_all", norm_init(self.config), shape)
            return norm(self.config, x, scale, axes=(-2, -1))
        return x


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream, each with a norm.

    The norm comes before each layer (pre-norm), or after it (post-norm): then the
    layer's input is the residual stream itself; or there is one before and one after.

    Attributes:
      joined: the parameters are from ``unstack``: matrices that multiply the
        same activations are concatenated.
      weights_first: they are also transposed, see ``unstack``.
      flat: of transposed ones, multiply all rows' tokens as one matrix: for training.
    """

    config: DecoderConfig
    joined: bool = False
    weights_first: bool = False
    flat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        rope: Angles | None,
        attend: Attend,
        select: Bool[Array, "B A"] | None = None,
    ):
        """Return (x [B, T, D], the second value of ``attend``).

        Args:
          select: which of several adapters each row has, see ``layers.project``.
        """
        c = self.config

        def normed(name: str, y: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            return norm(c, y, self.param(name, norm_init(c), (c.hidden_size,)))

        place = c.family.norms

        def before(name: str, y: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            return y if place == "after" else normed(name, y)

        def behind(name: str, y: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            if place == "before":
                return y
            return normed(name if place == "after" else f"{name}_out", y)

        form = {"joined": self.joined, "weights_first": self.weights_first}
        form["flat"] = self.flat
        attention = Attention(c, **form, name="attn")
        sizes = (c.hidden_size, c.intermediate_size)
        mlp = MLP(*sizes, c.mlp_bias, c.family.activation, **form, name="mlp")
        attended, carried = attention(before("norm_attn", x), rope, attend, select)
        x = x + behind("norm_attn", attended)
        return x + behind("norm_mlp", mlp(before("norm_mlp", x), select)), carried
