"""A BERT-type sentence encoder (MiniLM, E5, bge): token ids to unit vectors.

``models.hf.encoders`` loads one from its folder.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.config_fields import check_counts
from models.errors import UserError

Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of a BERT encoder, and how its token vectors are pooled.

    Attributes:
      pooling: "mean" over all tokens but padding, or "cls", the first token's vector.
    """

    vocab_size: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    max_position: int
    type_vocab_size: int
    layer_norm_eps: float
    pooling: Literal["mean", "cls"] = "mean"

    @classmethod
    def from_hf(cls, config: dict[str, Any], pooling: str = "mean") -> "EncoderConfig":
        """Reads a Hugging Face ``config.json``.

        Raises:
          UserError: if it isn't a BERT model of a supported kind.
        """
        wanted = {
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
        }
        for name, value in wanted.items():
            found = config.get(name, None if name == "model_type" else value)
            if found != value:
                raise UserError(
                    f"{name}={found!r}: not supported for an encoder: use a model with "
                    f"{value!r}"
                )
        check_counts(config)
        try:
            return cls(
                vocab_size=config["vocab_size"],
                num_layers=config["num_hidden_layers"],
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_heads=config["num_attention_heads"],
                max_position=config["max_position_embeddings"],
                type_vocab_size=config.get("type_vocab_size", 2),
                layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
                pooling=pooling,
            )
        except KeyError as error:
            raise UserError(
                f"config.json: has no field {error}: use the model's own file"
            ) from None


def hidden(
    params: Params,
    config: EncoderConfig,
    ids: Int[Array, "B T"],
    mask: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
    """Token vectors after the last layer; tokens with ``mask`` 0 aren't attended to."""
    x = params["words"][ids] + params["positions"][: ids.shape[1]] + params["types"][0]
    x = _layer_norm(params["norm"], x, config.layer_norm_eps)

    def block(x: Array, p: Params) -> tuple[Array, None]:
        x = _layer_norm(
            p["norm_attn"], x + _attention(p, config, x, mask), config.layer_norm_eps
        )
        # Exact GELU: the tanh approximation differs by up to 1e-3.
        inner = jax.nn.gelu(_dense(p["up"], x), approximate=False)
        x = _layer_norm(
            p["norm_mlp"], x + _dense(p["down"], inner), config.layer_norm_eps
        )
        return x, None

    return jax.lax.scan(block, x, params["blocks"])[0]


def embed(
    params: Params,
    config: EncoderConfig,
    ids: Int[Array, "B T"],
    mask: Int[Array, "B T"],
) -> Float[Array, "B D"]:
    """One L2-normalised float32 vector per row; a row of only padding gives zeros.

    Args:
      ids: token ids, padded on the right.
      mask: 1 for real tokens, 0 for padding.
    """
    x = hidden(params, config, ids, mask)
    weights = mask.astype(x.dtype)
    if config.pooling == "cls":
        pooled = x[:, 0] * weights[:, :1]
    else:
        total = jnp.einsum("BTD,BT->BD", x, weights)
        pooled = total / jnp.maximum(weights.sum(1, keepdims=True), 1)
    length = jnp.linalg.norm(pooled, axis=1, keepdims=True)
    return pooled / jnp.maximum(length, 1e-12)


def _dense(p: Params, x: Array) -> Array:
    return x @ p["kernel"] + p["bias"]


def _layer_norm(p: Params, x: Array, eps: float) -> Array:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps) * p["scale"] + p["bias"]


def _attention(
    p: Params, config: EncoderConfig, x: Float[Array, "B T D"], mask: Array
) -> Float[Array, "B T D"]:
    heads = (*x.shape[:2], config.num_heads, -1)
    q, k, v = (_dense(p[name], x).reshape(heads) for name in "qkv")
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) * q.shape[-1] ** -0.5
    # Finite, so that rows of only padding don't give NaN.
    scores = jnp.where(mask[:, None, None, :] > 0, scores, -1e30)
    out = jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores, axis=-1), v)
    return _dense(p["o"], out.reshape(x.shape))
