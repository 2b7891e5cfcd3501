"""Both ends of a decoder: tokens to the residual stream, hidden states to logits."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.config import DecoderConfig

Params = dict[str, Any]

# An empty entry of parameters whose matrices are [out, in].
WEIGHTS_FIRST = "weights_first"


@jax.custom_vjp
def _rows(table: Float[Array, "V D"], tokens: Int[Array, "..."]) -> Array:
    """Rows of the table, whose gradient is summed in float32 whatever its type.

    A frequent token has thousands of summands in an update, and of a sum in bfloat16
    all that is 256 times smaller is lost. CPUs sum in float32 anyway; GPUs do not.
    """
    return table[tokens]


def _rows_forward(table, tokens):
    return table[tokens], (table, tokens)


def _rows_backward(kept, gradient):
    table, tokens = kept
    total = jnp.zeros(table.shape, jnp.float32)
    total = total.at[tokens].add(gradient.astype(jnp.float32))
    return total.astype(table.dtype), None


_rows.defvjp(_rows_forward, _rows_backward)


def embed(
    params: Params, config: DecoderConfig, tokens: Int[Array, "..."]
) -> Float[Array, "... D"]:
    """The residual stream before the first block."""
    table = params["embed"]
    # Of a float32 table the lookup's own gradient is in float32.
    x = table[tokens] if table.dtype == jnp.float32 else _rows(table, tokens)
    if config.family.scaled_embeddings:
        # The factor is rounded too, as in what the checkpoints were trained with.
        x = x * jnp.asarray(math.sqrt(config.hidden_size), x.dtype)
    return x


def unembed(
    params: Params, config: DecoderConfig, hidden: Float[Array, "... D"]
) -> Float[Array, "... V"]:
    """Logits, float32; none is beyond ``final_softcap`` (arXiv:2408.00118)."""
    with jax.named_scope("unembed"):
        logits = _products(params, config, hidden)
        if cap := config.final_softcap:
            logits = cap * jnp.tanh(logits / cap)
        return logits


def _products(params, config, hidden):
    """The hidden states' products with the output embedding, float32."""
    if WEIGHTS_FIRST in params:
        table = params["embed" if config.tie_embeddings else "head"]
        kind = jnp.float32
        if hidden.dtype == jnp.bfloat16:  # as in ``layers._product``
            return jnp.einsum(
                "...D,VD->...V", hidden, table, preferred_element_type=kind
            )
        axes = ((1,), (hidden.ndim - 1,))
        logits = jnp.tensordot(table, hidden, axes, preferred_element_type=kind)
        return jnp.moveaxis(logits, 0, -1)
    if config.tie_embeddings:
        equation, table = "...D,VD->...V", params["embed"]
    else:
        equation, table = "...D,DV->...V", params["head"]
    return jnp.einsum(equation, hidden, table, preferred_element_type=jnp.float32)
