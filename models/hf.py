"""Hugging Face model folders in and out: weights, configuration, tokenizer.

Reads safetensors only (never pickle) and never runs a repository's code. A folder that
can't be read is one ``UserError`` line that names the file, the reason and the remedy.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.config import DecoderConfig
from models.errors import UserError
from models.hf_layout import hf_tensors, layout, leaf_at, unflatten
from models.sharding import param_shardings

# The package fills itself in on first use, which two threads at once break.
_TRANSFORMERS = threading.Lock()

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# What a model needs and nothing that could run: no *.bin (pickle), no *.py.
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
FLOAT_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SHARD_BYTES = 5_000_000_000
# Tensors that some checkpoints carry and that the architecture doesn't need.
IGNORED = re.compile(r".*rotary_emb\.inv_freq")


def load(
    path: str | Path, *, mesh: Mesh | None = None, dtype: Any = None
) -> tuple[DecoderConfig, dict]:
    """Loads a decoder of type qwen3, qwen2 or llama.

    Args:
      path: a local folder, or a name on the Hugging Face hub (``owner/name``).
      mesh: puts every tensor straight into its sharding; None means one device.
      dtype: of the parameters; None means bfloat16 on an accelerator and float32 on a
        CPU, where bfloat16 is slower and less exact.

    Returns:
      The configuration and the parameter tree (layer axis leading, see
      ``models.hf_layout``).

    Raises:
      UserError: if the folder lacks a file or a tensor, has one too many or one of
        another shape, is damaged, or is of an unknown type.
    """
    folder = resolve(path)
    config = load_config(folder)
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    dtype = jnp.dtype(dtype)
    leaves = layout(config)

    def stacked_shape(leaf) -> tuple[int, ...]:
        return (config.num_layers, *leaf.shape) if leaf.stacked else leaf.shape

    shardings = None
    if mesh is not None:
        shapes = {
            leaf_path: jax.ShapeDtypeStruct(stacked_shape(leaf), dtype)
            for leaf_path, leaf in leaves.items()
        }
        shardings = param_shardings(unflatten(shapes), mesh)

    flat = {}
    with ExitStack() as stack:
        tensors = open_tensors(folder, stack)
        _check_tensors(folder, config, tensors)
        for leaf_path, leaf in leaves.items():
            host = np.empty(stacked_shape(leaf), dtype)
            slices = host if leaf.stacked else host[None]
            for index, name in enumerate(leaf.names(config.num_layers)):
                slices[index] = leaf.to_ours(tensors[name].get_tensor(name))
            where = None if shardings is None else leaf_at(shardings, leaf_path)
            flat[leaf_path] = jax.device_put(host, where)
    return config, unflatten(flat)


def load_config(path: str | Path) -> DecoderConfig:
    """Reads ``config.json`` of a model folder.

    Raises:
      UserError: if it is missing, not JSON, or of a type that isn't supported.
    """
    file = resolve(path) / "config.json"
    fields = read_json(file)
    try:
        return DecoderConfig.from_hf(fields)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def read_json(file: Path) -> dict:
    """Reads a JSON object of a model folder; raises ``UserError`` when it can't."""
    if not file.is_file():
        raise UserError(
            f"{file.parent}: no {file.name} in this folder: give a Hugging Face model "
            "folder (config.json, *.safetensors, tokenizer.json)"
        )
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object: fetch it again")
    return value


def resolve(path: str | Path) -> Path:
    """Returns the local folder of a path or hub name, downloading the latter.

    Raises:
      UserError: if there is no such folder and the hub doesn't provide it.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{path}: a file, not a folder: give the folder that holds it")
    if not HUB_NAME.fullmatch(str(path)):
        raise UserError(
            f"{path}: no such folder: give a Hugging Face model folder or a hub name "
            "(owner/name)"
        )
    from huggingface_hub import snapshot_download  # here: local folders need no hub

    try:
        return Path(snapshot_download(str(path), allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's errors share no base class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: neither a folder nor to be had from the hub ({reason[0]}): check "
            "the name and the network, or download the model and give its folder"
        ) from error


def load_tokenizer(path: str | Path):
    """Loads the fast tokenizer of a model folder from its ``tokenizer.json``.

    Returns:
      A ``transformers.PreTrainedTokenizerFast`` with the folder's chat template.

    Raises:
      UserError: if the folder has no tokenizer.json or it can't be read.
    """
    with _TRANSFORMERS:
        from transformers import PreTrainedTokenizerFast  # slow to import

    folder = resolve(path)
    read_json(folder / "tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust parser raises plain Exception
        raise UserError(
            f"{folder}: its tokenizer can't be read ({_first_line(error)}): fetch "
            "tokenizer.json and tokenizer_config.json again"
        ) from error


def content_hash(path: str | Path) -> str:
    """Returns a hash of a model folder's weights, configuration, tokenizer, template.

    It depends on file contents and names only, not on where the folder is.
    """
    folder = resolve(path)
    digest = hashlib.sha256()
    kept = ("config.json", "tokenizer.json", "chat_template.jinja")
    files = [folder / name for name in kept] + list(folder.glob("*.safetensors"))
    for file in sorted(file for file in files if file.is_file()):
        with file.open("rb") as stream:
            inner = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.name} {inner}\n".encode())
    return digest.hexdigest()


def save(
    path: str | Path,
    config: DecoderConfig,
    params: dict,
    *,
    tokenizer: Any = None,
    dtype: Any = None,
) -> None:
    """Writes a Hugging Face folder that transformers, vLLM and ``load`` can read.

    The folder is written beside ``path`` and renamed: it appears whole or not at all.

    Args:
      path: the folder; an existing model folder is replaced.
      config: configuration; its original ``config.json`` fields are kept.
      params: parameter tree.
      tokenizer: written with its chat template, and the generation_config.json of the
        folder that it was loaded from.
      dtype: of the tensors; None keeps that of the parameters.

    Raises:
      UserError: if ``path`` exists and isn't a model folder.
    """
    path = Path(path).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        occupied = not path.is_dir() or any(path.iterdir())
        if occupied:
            raise UserError(f"{path}: exists and is no model folder: choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        dtype = None if dtype is None else jnp.dtype(dtype)
        written = _write_tensors(draft, hf_tensors(config, params, dtype))
        fields = config.to_hf() | {"dtype": written}
        fields.pop("torch_dtype", None)  # the same under its old name
        (draft / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
        if tokenizer is not None:
            tokenizer.save_pretrained(draft)
            source = Path(tokenizer.name_or_path or "") / "generation_config.json"
            if source.is_file():
                shutil.copyfile(source, draft / source.name)
        _replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(draft: Path, path: Path) -> None:
    """Moves ``draft`` to ``path``; what was there goes away only after that."""
    old = path.parent / f".{path.name}.old-{os.getpid()}"
    if path.exists():
        path.rename(old)
    draft.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _write_tensors(folder: Path, tensors: Iterator[tuple[str, np.ndarray]]) -> str:
    """Writes safetensors files of at most ``SHARD_BYTES``; returns the dtype's name."""
    shards: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    total, size, dtype = 0, 0, "float32"

    def flush() -> None:
        file = folder / f"part-{len(shards)}.safetensors"
        save_file(pending, file, metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        if pending and size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        pending[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
        dtype = tensor.dtype.name
    flush()
    if len(shards) == 1:
        (folder / "part-0.safetensors").rename(folder / "model.safetensors")
        return dtype
    weight_map = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"part-{index}.safetensors").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text + "\n")
    return dtype


def open_tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Returns tensor name -> open safetensors file; nothing is read but the headers."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{index}: it has no weight_map: fetch it again")
        # The bare name: an index can't point outside its folder.
        files = sorted({Path(str(name)).name for name in weight_map.values()})
    elif (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    else:
        files = sorted(file.name for file in folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no *.safetensors in this folder: convert the weights to "
            "safetensors (pickled *.bin files are never read)"
        )
    tensors: dict[str, Any] = {}
    for file in files:
        if not (folder / file).is_file():
            raise UserError(
                f"{folder}: no {file}, which its index names: fetch it again"
            )
        try:
            handle = stack.enter_context(safe_open(folder / file, framework="np"))
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{folder / file}: damaged or cut short ({_first_line(error)}): fetch "
                "it again"
            ) from error
        tensors |= dict.fromkeys(handle.keys(), handle)
    return tensors


def _check_tensors(
    folder: Path, config: DecoderConfig, tensors: dict[str, Any]
) -> None:
    """Raises ``UserError`` unless the files hold exactly what ``config`` needs."""
    wanted = {
        name: leaf.hf_shape
        for leaf in layout(config).values()
        for name in leaf.names(config.num_layers)
    }
    extra = {name for name in tensors if not IGNORED.fullmatch(name)} - wanted.keys()
    if config.tie_embeddings:
        extra.discard("lm_head.weight")  # a copy of the embedding
    for what, names in (("lacks", wanted.keys() - tensors.keys()), ("has", extra)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            why = "which its config.json asks for"
            if what == "has":
                why = f"which model type {config.model_type} doesn't know"
            raise UserError(
                f"{folder}: {what} tensor {min(names)}{more}, {why}: check that "
                "config.json belongs to these weights"
            )
    for name, shape in wanted.items():
        view = tensors[name].get_slice(name)
        found = tuple(view.get_shape())
        if found != shape:
            raise UserError(
                f"{folder}: tensor {name} has shape {list(found)} and config.json asks "
                f"for {list(shape)}: check that they belong together"
            )
        if view.get_dtype() not in FLOAT_DTYPES:
            raise UserError(
                f"{folder}: tensor {name} is of type {view.get_dtype()}: use weights "
                f"in one of {', '.join(FLOAT_DTYPES)} (quantised ones aren't read)"
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
