"""The transformer block: thin linen modules applied to one layer's slice of parameters.

``attend`` decides what the tokens see, so that training (a mask) and cached decoding
(the cache) run the same block. It takes q, k, v of the new tokens, already rotated, and
returns the attention output together with whatever it wants carried out of the block
(the updated cache; None in training).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.config import DecoderConfig
from models.layers import MLP, apply_rope, in_first, in_heads, rms_norm

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


class Attention(nn.Module):
    """Projections, optional biases and head norms, rotary positions, ``attend``."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], rope, attend: Attend):
        """Return (output [B, T, D], what ``attend`` carries out)."""
        c = self.config
        width, head = c.hidden_size, c.head_dim
        heads = {"q": c.num_heads, "k": c.num_kv_heads, "v": c.num_kv_heads}
        qkv = {
            name: jnp.einsum(
                "BTD,DNH->BTNH", x, self.param(name, in_first, (width, count, head))
            )
            for name, count in heads.items()
        }
        if c.qkv_bias:
            zeros = nn.initializers.zeros
            for name, count in heads.items():
                qkv[name] += self.param(f"{name}_bias", zeros, (count, head))
        if c.qk_norm:
            for name in ("q", "k"):
                scale = self.param(f"{name}_norm", nn.initializers.ones, (head,))
                qkv[name] = rms_norm(qkv[name], scale, c.rms_norm_eps)
        q, k = apply_rope(qkv["q"], rope), apply_rope(qkv["k"], rope)
        with jax.named_scope("attend"):
            out, carried = attend(q, k, qkv["v"])
        o = self.param("o", in_heads, (c.num_heads, head, width))
        return jnp.einsum("BTNH,NHD->BTD", out, o), carried


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], rope, attend: Attend):
        """Return (x [B, T, D], what ``attend`` carries out)."""
        c = self.config
        ones = nn.initializers.ones
        norm_attn = self.param("norm_attn", ones, (c.hidden_size,))
        normed = rms_norm(x, norm_attn, c.rms_norm_eps)
        attended, carried = Attention(c, name="attn")(normed, rope, attend)
        x = x + attended
        norm_mlp = self.param("norm_mlp", ones, (c.hidden_size,))
        mlp = MLP(c.hidden_size, c.intermediate_size, name="mlp")
        return x + mlp(rms_norm(x, norm_mlp, c.rms_norm_eps)), carried
