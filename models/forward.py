"""A decoder as pure functions: whole rows (training), prefill, and one decode step."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.attention import full_attention, segment_mask
from models.config import DecoderConfig
from models.decoder import Block
from models.layers import rms_norm, rope_table

Params = dict[str, Any]


def init(
    config: DecoderConfig,
    key: Array,
    dtype: Any = jnp.float32,
    *,
    embed_std: float = 0.02,
) -> Params:
    """Fresh parameters; every block tensor has a leading layer axis [L, ...]."""
    embed_key, head_key, blocks_key = jax.random.split(key, 3)
    width, vocab = config.hidden_size, config.vocab_size

    def init_block(block_key):
        x = jnp.zeros((1, 1, width))
        rope = rope_table(jnp.zeros((1, 1), int), config.head_dim, config.rope_theta)
        passthrough = lambda q, k, v: (q, None)  # noqa: E731
        return Block(config).init(block_key, x, rope, passthrough)["params"]

    params = {
        "embed": embed_std * jax.random.normal(embed_key, (vocab, width)),
        "final_norm": jnp.ones((width,)),
        "blocks": jax.vmap(init_block)(jax.random.split(blocks_key, config.num_layers)),
    }
    if not config.tie_embeddings:
        params["head"] = jax.random.normal(head_key, (width, vocab)) * width**-0.5
    return jax.tree.map(lambda x: x.astype(dtype), params)


def hidden(
    params: Params,
    config: DecoderConfig,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    remat: Literal["none", "block"] = "none",
) -> Float[Array, "B T D"]:
    """Hidden states after the final norm; causal within equal ``segment_ids``.

    Args:
      positions: rotary positions, default 0..T-1 in every row.
      segment_ids: 0 is padding; default one segment a row.
      remat: "block" keeps only the residual stream between blocks and recomputes the
        rest in the backward pass.
    """
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    if segment_ids is None:
        segment_ids = jnp.ones_like(tokens)
    rope = rope_table(positions, config.head_dim, config.rope_theta)
    mask = segment_mask(segment_ids)

    def body(x, block_params):
        def attend(q, k, v):
            return full_attention(q, k, v, mask), None

        with jax.named_scope("block"):
            return Block(config).apply({"params": block_params}, x, rope, attend)

    if remat == "block":
        body = jax.checkpoint(body)
    x = params["embed"][tokens]
    x, _ = jax.lax.scan(body, x, params["blocks"])
    return rms_norm(x, params["final_norm"], config.rms_norm_eps)


def unembed(
    params: Params, config: DecoderConfig, hidden: Float[Array, "... D"]
) -> Float[Array, "... V"]:
    """Logits, float32."""
    with jax.named_scope("unembed"):
        if config.tie_embeddings:
            equation, table = "...D,VD->...V", params["embed"]
        else:
            equation, table = "...D,DV->...V", params["head"]
        return jnp.einsum(equation, hidden, table, preferred_element_type=jnp.float32)


def forward(
    params: Params,
    config: DecoderConfig,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T V"]:
    """Logits of whole rows, float32; see ``hidden`` for the arguments."""
    states = hidden(
        params, config, tokens, positions=positions, segment_ids=segment_ids
    )
    return unembed(params, config, states)
