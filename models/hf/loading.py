"""Loads a Hugging Face model folder, each tensor straight to its devices.

Reads only safetensors (never pickle) and never runs a repository's code. A folder that
can't be read raises a ``UserError`` whose one line names the file, the reason and the
remedy.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from models import lora
from models.config import DecoderConfig
from models.errors import UserError
from models.hf.adapters import load_adapter
from models.hf.folder import base_of, load_config, resolve, verify
from models.hf.layout import TEXT_NAMES, flatten, layout, text_name, unflatten
from models.hf.place import THREADS, chunks, place
from models.hf.tensor_files import FLOAT_DTYPES, Entry, open_tensors
from models.precision import resolved
from models.sharding import param_shardings

# Tensors that some checkpoints have and that we compute instead: rotary frequencies.
IGNORED = (".rotary_emb.inv_freq",)
# What isn't read of a model that also sees images: as on the hub, and as transformers 5
# names it in memory.
IMAGE_NAMES = tuple(
    f"{prefix}{part}."
    for prefix in ("", "model.")
    for part in ("vision_tower", "multi_modal_projector")
)
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load(
    path: str | Path, *, mesh: Mesh | None = None, dtype: Any = "auto"
) -> tuple[DecoderConfig, dict]:
    """Loads a decoder of a supported type (``models.config.FAMILIES``).

    Every tensor goes from the file straight to its devices. The host holds at most two
    stacked parameters and a few megabytes at a time. On a CPU, where the parameters
    themselves are in host memory, it holds nothing beyond them.

    Args:
      path: a local folder, or a name on the Hugging Face hub (``owner/name``); of a
        model, or of an adapter, which is then merged into the weights of its model.
      mesh: the mesh over which parameters are sharded; None means one device.
      dtype: of the parameters; "auto": see ``models.precision``.

    Returns:
      The configuration and the parameter tree (block tensors have a leading layer axis,
      see ``models.hf.layout``).

    Raises:
      DamagedError: if a file is not what its ``SHA256SUMS`` says.
      UserError: if a file or tensor is missing, damaged, unexpected or of the wrong
        shape, or the model type is not supported.
    """
    folder = resolve(path)
    verify(folder, lacking=True)
    if base := base_of(folder):
        config, params = load(base, mesh=mesh, dtype=dtype)
        return config, _with_adapter(folder, config, params)
    config = load_config(folder)
    dtype = resolved(dtype, jax.default_backend())
    leaves = layout(config)
    shapes = {
        path: jax.ShapeDtypeStruct(leaf.full_shape(config.num_layers), dtype)
        for path, leaf in leaves.items()
    }
    shardings: dict = dict.fromkeys(leaves)
    if mesh is not None:
        shardings = flatten(param_shardings(unflatten(shapes), mesh))
    flat: dict[tuple[str, ...], jax.Array] = {}
    with ExitStack() as stack:
        tensors = _usual_names(config, open_tensors(folder, stack))
        _check_tensors(folder, config, tensors)
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        for leaf_path, leaf in leaves.items():
            entries = [tensors[name] for name in leaf.names(config.num_layers)]
            before = list(flat.values())[-1:]
            flat[leaf_path] = place(
                leaf, entries, shapes[leaf_path], shardings[leaf_path], pool
            )
            # So that at most two stacked parameters wait in host memory to be sent.
            jax.block_until_ready(before)
    return config, unflatten(flat)


def _with_adapter(folder: Path, config: DecoderConfig, params: dict) -> dict:
    """The model with the adapter of a folder merged into it, where it was."""
    adapter, settings = load_adapter(folder, config)
    merged = lora.merge(params, lora.scaled(adapter, settings))
    return jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), merged, params
    )


def _usual_names(config: DecoderConfig, tensors: dict[str, Entry]) -> dict[str, Entry]:
    """Returns the tensors under the names that they have in a causal LM."""
    if any(name.startswith(tuple(TEXT_NAMES)) for name in tensors):
        tensors = _text_tensors(tensors)
    # A model that was saved without its head leaves out this prefix.
    if not any(name.startswith("model.") for name in tensors):
        tensors = {
            name if name == HEAD else f"model.{name}": entry
            for name, entry in tensors.items()
        }
    tensors = {n: e for n, e in tensors.items() if not n.endswith(IGNORED)}
    if config.tie_embeddings and HEAD in tensors:
        head = tensors.pop(HEAD)
        # The file may have either name; if it has both, they must be equal.
        if not _equal(head, tensors.setdefault(EMBED, head)):
            raise UserError(
                f"{head.file}: {HEAD} differs from {EMBED}, but config.json sets "
                "tie_word_embeddings: set it to false to use both"
            )
    return tensors


def _text_tensors(tensors: dict[str, Entry]) -> dict[str, Entry]:
    """Only the tensors of the text model, under its own names."""
    found = {}
    for name, entry in tensors.items():
        if name.startswith(IMAGE_NAMES):
            continue
        found[text_name(name)] = entry
    return found


def _equal(a: Entry, b: Entry) -> bool:
    """Whether two tensors hold the same bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return (a.file, a.offset) == (b.file, b.offset) or all(
        np.array_equal(
            a.read(rows.start, rows.stop).view(np.uint8),
            b.read(rows.start, rows.stop).view(np.uint8),
        )
        for rows in chunks(a)
    )


def _check_tensors(
    folder: Path, config: DecoderConfig, tensors: dict[str, Entry]
) -> None:
    """Raises ``UserError`` unless the files hold exactly what ``config`` needs."""
    wanted = {
        name: leaf.hf_shape
        for leaf in layout(config).values()
        for name in leaf.names(config.num_layers)
    }
    missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    for what, names in (("has no", missing), ("has", extra)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            why = "which config.json requires"
            if what == "has":
                why = f"which is not part of model type {config.model_type}"
            raise UserError(
                f"{folder}: {what} tensor {min(names)}{more}, {why}: check that "
                "config.json belongs to these weights"
            )
    for name, shape in wanted.items():
        found = tensors[name]
        if found.shape != shape:
            raise UserError(
                f"{folder}: tensor {name} has shape {list(found.shape)}, but "
                f"config.json implies {list(shape)}: check that they belong together"
            )
        if found.dtype not in FLOAT_DTYPES:
            raise UserError(
                f"{folder}: tensor {name} is of type {found.dtype}: use weights in one "
                f"of {', '.join(FLOAT_DTYPES)} (quantised weights aren't supported)"
            )
