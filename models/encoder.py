"""A sentence encoder of BERT type (MiniLM, E5, bge): token ids to unit vectors."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.errors import UserError
from models.hf_folder import read_json, resolve
from models.hf_tokenizer import load_tokenizer
from models.tensor_files import open_tensors

Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of a BERT encoder, and how its token vectors become one.

    Attributes:
      pooling: "mean" over real tokens, or "cls", the first token's vector.
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
          UserError: if it isn't a BERT that this module computes.
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


def load_encoder(path: str | Path) -> tuple[EncoderConfig, Params, Any]:
    """Loads an encoder: configuration, float32 parameters, tokenizer.

    Args:
      path: a local folder, or a name on the Hugging Face hub.

    Pooling is what the folder's sentence-transformers files say, else the mean.

    Raises:
      UserError: if the folder lacks or has damaged files, or isn't a BERT encoder.
    """
    folder = resolve(path)
    file = folder / "config.json"
    fields, pooling = read_json(file), _pooling(folder)
    try:
        config = EncoderConfig.from_hf(fields, pooling)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    with ExitStack() as stack:
        tensors = open_tensors(folder, stack)
        # Saved from a model with a head, every name starts with "bert.".
        prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
        taken = set()

        def read(name: str, *shape: int) -> np.ndarray:
            taken.add(name)
            entry = tensors.get(prefix + name)
            if entry is None:
                raise UserError(
                    f"{folder}: lacks tensor {prefix + name}: check that config.json "
                    "belongs to these weights"
                )
            if entry.shape != shape:
                raise UserError(
                    f"{folder}: tensor {prefix + name} has shape {list(entry.shape)} "
                    f"and config.json asks for {list(shape)}: check that they belong "
                    "together"
                )
            return entry.read().reshape(shape).astype(np.float32)

        params = _read_params(config, read)
        known = {prefix + name for name in taken | UNUSED}
        unknown = {n for n in tensors if n.startswith(prefix)} - known
        if unknown:
            raise UserError(
                f"{folder}: has tensor {min(unknown)}, which config.json doesn't ask "
                "for: check that they belong together"
            )
    return config, jax.device_put(params), load_tokenizer(folder)


# What sentence-transformers calls the kinds of pooling, now and before.
POOLINGS = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
# Tensors of a BERT that sentence vectors don't need.
UNUSED = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}


def _pooling(folder: Path) -> str:
    """Reads how token vectors become one; a folder that doesn't say takes the mean."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    fields = read_json(file)
    prefix = "pooling_mode_"
    kinds = [k for k, on in fields.items() if k.startswith(prefix) and on is True]
    kinds = [kind.removeprefix(prefix) for kind in kinds] or ["mean"]
    if isinstance(fields.get("pooling_mode"), str):
        kinds = [fields["pooling_mode"]]
    if len(kinds) != 1 or kinds[0] not in POOLINGS:
        raise UserError(
            f"{file}: pooling by {' and '.join(kinds)}: not supported: use an encoder "
            "that pools by mean or cls"
        )
    return POOLINGS[kinds[0]]


def _read_params(config: EncoderConfig, read) -> Params:
    """Reads all tensors; block tensors get a leading layer axis L."""
    d, f = config.hidden_size, config.intermediate_size

    def norm(name: str) -> Params:
        return {"scale": read(name + ".weight", d), "bias": read(name + ".bias", d)}

    def dense(name: str, inputs: int, outputs: int) -> Params:
        kernel = read(name + ".weight", outputs, inputs).T
        return {"kernel": kernel, "bias": read(name + ".bias", outputs)}

    def block(layer: int) -> Params:
        name = f"encoder.layer.{layer}."
        return {
            "q": dense(name + "attention.self.query", d, d),
            "k": dense(name + "attention.self.key", d, d),
            "v": dense(name + "attention.self.value", d, d),
            "o": dense(name + "attention.output.dense", d, d),
            "norm_attn": norm(name + "attention.output.LayerNorm"),
            "up": dense(name + "intermediate.dense", d, f),
            "down": dense(name + "output.dense", f, d),
            "norm_mlp": norm(name + "output.LayerNorm"),
        }

    blocks = [block(layer) for layer in range(config.num_layers)]
    name = "embeddings."
    return {
        "words": read(name + "word_embeddings.weight", config.vocab_size, d),
        "positions": read(name + "position_embeddings.weight", config.max_position, d),
        "types": read(name + "token_type_embeddings.weight", config.type_vocab_size, d),
        "norm": norm(name + "LayerNorm"),
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
    }


def hidden(
    params: Params,
    config: EncoderConfig,
    ids: Int[Array, "B T"],
    mask: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
    """Token vectors after the last layer; keys where ``mask`` is 0 aren't attended."""
    x = params["words"][ids] + params["positions"][: ids.shape[1]] + params["types"][0]
    x = _layer_norm(params["norm"], x, config.layer_norm_eps)

    def block(x: Array, p: Params) -> tuple[Array, None]:
        x = _layer_norm(
            p["norm_attn"], x + _attention(p, config, x, mask), config.layer_norm_eps
        )
        # Exact GELU: the tanh form differs by up to 1e-3.
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
    """One L2-normalised float32 vector a row; a row of padding only gives zeros.

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
    # Finite, so that rows of padding only give no NaN.
    scores = jnp.where(mask[:, None, None, :] > 0, scores, -1e30)
    out = jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores, axis=-1), v)
    return _dense(p["o"], out.reshape(x.shape))
