"""Writes Hugging Face model folders atomically: complete, or not at all."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from models import checksums, storage
from models.config import DecoderConfig
from models.errors import StorageError, UserError
from models.hf.folder import read_json
from models.hf.layout import Leaf, flatten, layout
from models.hf.tensor_files import Planned, plan_files, write_file, write_index
from models.hf.tokenizer import cuts_as_qwen2, save_tokenizer

log = logging.getLogger(__name__)

ROPE_FIELDS = ("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq")
SHARD_BYTES = 5_000_000_000
OLD = "old"  # inside a draft: the folder whose place it takes
QWEN2_CUTS = (
    "%s: its tokenizer cuts text in other places than Qwen2's, but transformers 5 "
    "reads every folder of model_type qwen2 with Qwen2's cuts, so AutoTokenizer gives "
    "other ids there: load it with PreTrainedTokenizerFast"
)


def save(
    path: str | Path,
    config: DecoderConfig,
    params: dict,
    *,
    tokenizer: Any = None,
    dtype: Any = None,
    template: str | None = None,
    stop_ids: Sequence[int] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a Hugging Face folder that transformers, vLLM and ``load`` can read.

    The host holds one tensor at a time. The folder is written next to ``path`` and then
    renamed; drafts that killed exports left there are removed.

    Args:
      path: the folder; an existing model folder is replaced.
      config: configuration; its original ``config.json`` fields are kept.
      params: parameter tree.
      tokenizer: written with its chat template, and with the generation_config.json of
        the folder that it was loaded from.
      dtype: of the tensors; None keeps that of the parameters.
      template: Jinja source of the chat template that the model was trained with; None
        means the tokenizer's own.
      stop_ids: ids that end a turn of that template. Those missing from
        generation_config.json are added: with a base model's own file, which has no
        end of turn, servers would not stop there.
      shard_bytes: no file gets larger than this, unless a single tensor is; a test
        splits small models with it.

    Raises:
      UserError: if ``path`` exists and isn't a model folder, or can't be written.
      StorageError: if the disk is full.
    """
    leaves = jax.tree.leaves(params)
    size = sum(leaf.size * np.dtype(dtype or leaf.dtype).itemsize for leaf in leaves)
    with new_folder(path, "config.json", size) as draft:
        written = _write_tensors(draft, config, params, dtype, shard_bytes)
        fields = _config_fields(config, written)
        write_json(draft / "config.json", fields)
        if tokenizer is not None:
            save_tokenizer(draft, tokenizer, template)
            if config.model_type == "qwen2" and not cuts_as_qwen2(tokenizer):
                log.warning(QWEN2_CUTS, path)
        _write_generation_config(draft, fields, tokenizer, stop_ids)


@contextlib.contextmanager
def new_folder(path: str | Path, marker: str, size: int) -> Iterator[Path]:
    """Yields a draft that becomes the folder ``path`` when the ``with`` block ends.

    Args:
      marker: a file that folders of this kind have; no other folder is replaced.
      size: bytes that are going to be written.

    Raises:
      UserError: if ``path`` is something else, or can't be written.
      StorageError: if the disk is full.
    """
    path = Path(path).expanduser()
    if path.exists() and not (path / marker).is_file():
        occupied = not path.is_dir() or any(path.iterdir())
        if occupied:
            raise UserError(f"{path}: exists and is not a model folder: choose another")
    try:
        with _appearing(path) as draft:
            yield draft
    except OSError as error:
        if storage.refusal(error) in storage.NO_ROOM:
            raise StorageError(storage.describe(path, error.errno, size)) from error
        raise UserError(
            f"{path}: can't be written ({error.strerror or error}): choose another "
            "place, or free disk space"
        ) from error


def _config_fields(config: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The original file's fields, and what readers of either generation look for.

    Transformers 5 reads ``rope_parameters`` and ``dtype``; transformers 4, and servers
    that were written for it, read ``rope_theta``, ``rope_scaling`` and ``torch_dtype``,
    and take a default for what they don't find.
    """
    fields, made = config.to_hf(), replace(config, hf="").to_hf()
    for name in ROPE_FIELDS:
        if name in made and not fields.get(name):
            fields[name] = made[name]
    fields["dtype"] = fields["torch_dtype"] = dtype
    architectures = fields.get("architectures") or []
    if not any(name.endswith("ForCausalLM") for name in architectures):
        # The original was saved without a head, but this one has it.
        fields["architectures"] = made["architectures"]
    return fields


def _write_generation_config(
    folder: Path, config: dict[str, Any], tokenizer: Any, stop_ids: Sequence[int]
) -> None:
    """Copies the tokenizer folder's file, or derives one from config.json.

    In both cases adds the ``stop_ids`` that are missing.
    """
    file = folder / "generation_config.json"
    source = Path(getattr(tokenizer, "name_or_path", "") or "") / file.name
    if source.is_file():
        shutil.copyfile(source, file)
        fields = read_json(file)
    else:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        ids = {name: config.get(name, getattr(tokenizer, name, None)) for name in names}
        ids = {name: value for name, value in ids.items() if value is not None}
        fields = {"_from_model_config": True, **ids}
        write_json(file, fields)
    ends = fields.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    missing = [stop for stop in stop_ids if stop not in ends]
    if missing:
        write_json(file, fields | {"eos_token_id": ends + missing})


def write_json(file: Path, fields: dict[str, Any]) -> None:
    """Writes a configuration as the hub's own tools do."""
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def _write_tensors(
    folder: Path, config: DecoderConfig, params: dict, dtype: Any, shard_bytes: int
) -> str:
    """Writes the safetensors files; returns the name of the embedding's dtype."""
    leaves, arrays = layout(config), flatten(params)
    if leaves.keys() != arrays.keys():
        different = sorted(leaves.keys() ^ arrays.keys())
        raise ValueError(f"parameters are not those of config: {different}")
    source: dict[str, tuple[Leaf, Any, int]] = {}
    for layer in range(-1, config.num_layers):  # -1: tensors outside the layers
        for path, leaf in leaves.items():
            if leaf.stacked == (layer >= 0):
                name = leaf.name.format(layer)
                source[name] = leaf, arrays[path], layer
    planned = [
        Planned(name, leaf.hf_shape, np.dtype(dtype or array.dtype))
        for name, (leaf, array, _) in source.items()
    ]
    files = plan_files(planned, shard_bytes)
    for file, plans in files.items():
        tensors = (_fetch(*source[plan.name], plan.dtype) for plan in plans)
        write_file(folder / file, plans, tensors)
    write_index(folder, files)
    return np.dtype(dtype or arrays[("embed",)].dtype).name


@jax.jit
def _one_layer(stacked: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)


def _fetch(leaf: Leaf, array: Any, layer: int, dtype: np.dtype) -> np.ndarray:
    """Returns one tensor in the file's layout; only it is copied to the host."""
    if isinstance(array, np.ndarray):
        one = array[layer] if leaf.stacked else array
    else:
        one = _one_layer(array, layer) if leaf.stacked else array
    return leaf.to_hf(np.asarray(one.astype(dtype)))


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Yields a draft folder that becomes ``path`` when the ``with`` block ends.

    The draft is locked while its writer runs: a draft without a lock was left by a
    killed writer, and is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.draft-*"):
        with contextlib.suppress(OSError), _locked(left):
            _remove(left, path)
    # Locked before it is named a draft, or another writer could remove it.
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=path.parent))
    try:
        with _locked(draft):
            draft = draft.rename(
                draft.with_name(draft.name.replace(".new-", ".draft-"))
            )
            new, old = draft / "new", draft / OLD
            new.mkdir()
            yield new
            checksums.record_folder(new)  # on disk before it gets its final name
            if path.exists():
                path.rename(old)
            new.rename(path)
            storage.sync_folder(path.parent)
    finally:
        _remove(draft, path)


def _remove(draft: Path, path: Path) -> None:
    """Removes a draft, but not the only copy of the folder that it was to replace.

    An error or a kill between the two renames leaves that folder in the draft, and none
    in its place.
    """
    if (draft / OLD).exists() and not path.exists():
        (draft / OLD).rename(path)
    shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on ``folder``; raises ``OSError`` if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
