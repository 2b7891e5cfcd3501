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
from models.rope import apply_rope

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


class Attention(nn.Module):
    """Projections, optional biases and norms, rotary positions, ``attend``."""

    config: DecoderConfig
    joined: bool = False
    weights_first: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        rope,
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
        q, k = apply_rope(qkv["q"], rope), apply_rope(qkv["k"], rope)
        with jax.named_scope("attend"):
            out, carried = attend(q, k, qkv["v"])
        shape = (c.num_heads, head)
        out = project(self, "o", out, shape, (width,), in_heads, select=select)
        if c.attention_bias:
            out += self.param("o_bias", zeros, (width,))
        return out, carried

    def norm(self, name: str, x: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
        """The family's RMS norm of queries or keys."""
        family, eps = self.config.family, self.config.rms_norm_eps
        kind, wide = family.qk_norm, family.wide_norm
        ones = nn.initializers.ones
        if kind == "head":
            scale = self.param(f"{name}_norm", ones, x.shape[-1:])
            return rms_norm(x, scale, eps, wide=wide)
        if kind == "all":
            scale = self.param(f"{name}_norm_all", ones, x.shape[-2:])
            return rms_norm(x, scale, eps, axes=(-2, -1), wide=wide)
        return x


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream, each with a norm.

    The norm comes before each layer (pre-norm) or, in some families, after it
    (post-norm): then the layer's input is the residual stream itself.

    Attributes:
      joined: the parameters are from ``unstack``: matrices that multiply the
        same activations are concatenated.
      weights_first: they are also transposed, see ``unstack``.
    """

    config: DecoderConfig
    joined: bool = False
    weights_first: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        rope,
        attend: Attend,
        select: Bool[Array, "B A"] | None = None,
    ):
        """Return (x [B, T, D], the second value of ``attend``).

        Args:
          select: which of several adapters each row has, see ``layers.project``.
        """
        c = self.config

        def norm(name: str, y: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            scale = self.param(name, nn.initializers.ones, (c.hidden_size,))
            return rms_norm(y, scale, c.rms_norm_eps, wide=c.family.wide_norm)

        form = {"joined": self.joined, "weights_first": self.weights_first}
        attention = Attention(c, **form, name="attn")
        mlp = MLP(c.hidden_size, c.intermediate_size, c.mlp_bias, **form, name="mlp")
        if c.family.post_norm:
            attended, carried = attention(x, rope, attend, select)
            x = x + norm("norm_attn", attended)
            return x + norm("norm_mlp", mlp(x, select)), carried
        attended, carried = attention(norm("norm_attn", x), rope, attend, select)
        x = x + attended
        return x + mlp(norm("norm_mlp", x), select), carried
