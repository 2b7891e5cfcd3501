"""Loads a sentence encoder: configuration, tensors, pooling and tokenizer."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from models.encoder import EncoderConfig, Params
from models.errors import UserError
from models.hf.folder import read_json, resolve
from models.hf.tensor_files import open_tensors
from models.hf.tokenizer import load_tokenizer


def load_encoder(path: str | Path) -> tuple[EncoderConfig, Params, Any]:
    """Loads an encoder: configuration, float32 parameters, tokenizer.

    Pooling is read from the folder's sentence-transformers files; without them it is
    the mean.

    Args:
      path: a local folder, or a name on the Hugging Face hub.

    Raises:
      UserError: if files are missing or damaged, or the model isn't a BERT encoder, or
        a layer follows its pooling.
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
        # If it was saved from a model with a head, every name starts with "bert.".
        prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
        taken = set()

        def read(name: str, *shape: int) -> np.ndarray:
            taken.add(name)
            entry = tensors.get(prefix + name)
            if entry is None:
                raise UserError(
                    f"{folder}: tensor {prefix + name} is missing: check that "
                    "config.json belongs to these weights"
                )
            if entry.shape != shape:
                raise UserError(
                    f"{folder}: tensor {prefix + name} has shape {list(entry.shape)}, "
                    f"but config.json implies {list(shape)}: check that they belong "
                    "together"
                )
            return entry.read().reshape(shape).astype(np.float32)

        params = _read_params(config, read)
        known = {prefix + name for name in taken | UNUSED}
        unknown = {n for n in tensors if n.startswith(prefix)} - known
        if unknown:
            raise UserError(
                f"{folder}: has tensor {min(unknown)}, which is not part of the model "
                "in config.json: check that they belong together"
            )
    return config, jax.device_put(params), load_tokenizer(folder)


# Names of the kinds of pooling in sentence-transformers, current and older.
POOLINGS = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
# An encoder's steps, in a file of sentence-transformers, and those that we compute;
# a vector is scaled to length 1 in any case.
MODULES = "modules.json"
COMPUTED = ("Transformer", "Pooling", "Normalize")
# Tensors of a BERT that sentence vectors don't need.
UNUSED = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}


def _pooling(folder: Path) -> str:
    """Reads the kind of pooling; the mean if the folder has no such file."""
    place = _pooling_folder(folder)
    file = folder / (place or "1_Pooling") / "config.json"
    if not file.is_file():
        if place:
            raise UserError(
                f"{file}: no such file, but {MODULES} names its folder: download the "
                "encoder again"
            )
        return "mean"
    fields = read_json(file)
    prefix = "pooling_mode_"
    kinds = [k for k, on in fields.items() if k.startswith(prefix) and on is True]
    kinds = [kind.removeprefix(prefix) for kind in kinds] or ["mean"]
    if isinstance(fields.get("pooling_mode"), str):
        kinds = [fields["pooling_mode"]]
    if len(kinds) != 1 or kinds[0] not in POOLINGS:
        raise UserError(
            f"{file}: {' and '.join(kinds)} pooling: not supported: use an encoder "
            "with mean or cls pooling"
        )
    return POOLINGS[kinds[0]]


def _pooling_folder(folder: Path) -> str:
    """Where ``modules.json`` has the pooling; "" if there is none, or no such file."""
    file = folder / MODULES
    if not file.is_file():
        return ""
    found = ""
    for module in read_json(file, list):
        fields = module if isinstance(module, dict) else {}
        # Older and newer packages keep the same modules at different places.
        kind, place = str(fields.get("type")), fields.get("path")
        name = kind.rpartition(".")[2]
        if name not in COMPUTED:
            raise UserError(
                f"{file}: module {kind}: not supported: use an encoder of "
                f"{', '.join(COMPUTED)} alone"
            )
        if name == "Pooling":
            if found or not isinstance(place, str) or not place:
                raise UserError(
                    f"{file}: path={place!r} of {kind}: must be the folder of the one "
                    "pooling: use the encoder's own file"
                )
            found = place
    return found


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
