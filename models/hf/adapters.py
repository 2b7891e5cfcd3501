"""Reads and writes low-rank adapters as folders of the peft library (0.21).

``adapter_config.json`` says what the adapter is and which model it belongs to;
``adapter_model.safetensors`` has a [R, in] matrix ``lora_A`` and a [out, R] matrix
``lora_B`` for each adapted one, under the model's own names. In a model that also sees
images these are those of the text model within it, which peft then adapts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from models.config import DecoderConfig
from models.errors import UserError, first_line
from models.forward import Params
from models.hf.folder import ADAPTER, read_json
from models.hf.layout import Leaf, copy_transposed, layout, name_among_images, text_name
from models.hf.layout import Path as LeafPath
from models.hf.saving import new_folder, write_json
from models.hf.tensor_files import Planned, write_file
from models.hf.tokenizer import save_tokenizer
from models.lora import TARGETS, LoraConfig, shapes

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# With every other beginning (PiSSA, OLoRA, CorDA, LoftQ) peft changes the model's own
# weights when it loads the adapter. Saved converted, such an adapter has True there.
BEGINNINGS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Fields of adapter_config.json that mean another computation than ours, and the values
# that don't.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_rslora": (False,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "init_lora_weights": (True, False, None, *BEGINNINGS),
}


@dataclass(frozen=True)
class _Matrix:
    """One adapted matrix: its place, and its name in the file without ``{}``."""

    path: LeafPath
    leaf: Leaf

    def name(self, layer: int, letter: str, *, images: bool = False) -> str:
        """The tensor of a layer's A or B."""
        module = self.leaf.name.format(layer).removesuffix(".weight")
        module = name_among_images(module) if images else module
        return f"{PREFIX}{module}.lora_{letter}.weight"


def _matrices(config: DecoderConfig) -> dict[str, _Matrix]:
    """Everything that can have an adapter, by the name of its target."""
    found = {path[-1]: _Matrix(path, leaf) for path, leaf in layout(config).items()}
    return {t: found[t.removesuffix("_proj")] for t in TARGETS}


def save_adapter(
    path: str | Path,
    config: DecoderConfig,
    adapter: Params,
    lora: LoraConfig,
    *,
    base: str,
    images: bool = False,
    tokenizer: Any = None,
    template: str | None = None,
    dtype: Any = None,
) -> None:
    """Writes a folder that peft, vLLM and ``load`` can read: whole, or not at all.

    Args:
      path: the folder; an existing adapter folder is replaced.
      adapter: not scaled.
      base: folder or hub name of the model that it belongs to.
      images: whether that model also sees images (``sees_images``).
      tokenizer, template: as for ``save``.
      dtype: of the tensors; None keeps that of the adapter.

    Raises:
      UserError: if ``path`` exists and isn't an adapter folder, or can't be written.
      StorageError: if the disk is full.
    """
    tensors: dict[str, np.ndarray] = {}
    for target in lora.targets:
        matrix = _matrices(config)[target]
        part = adapter["blocks"][matrix.path[1]]
        for letter in "ab":
            stacked = np.asarray(part[f"{matrix.path[-1]}_{letter}"])
            for layer, one in enumerate(stacked.astype(dtype or stacked.dtype)):
                # A is [.., R] and B [R, ..]: either way a matrix, then transposed.
                rank = lora.rank
                flat = one.reshape((-1, rank) if letter == "a" else (rank, -1))
                turned = np.empty(flat.shape[::-1], flat.dtype)
                copy_transposed(turned, flat)
                name = matrix.name(layer, letter.upper(), images=images)
                tensors[name] = turned
    size = sum(tensor.nbytes for tensor in tensors.values())
    with new_folder(path, ADAPTER, size) as draft:
        planned = [Planned(name, x.shape, x.dtype) for name, x in tensors.items()]
        write_file(draft / WEIGHTS, planned, tensors.values())
        write_json(draft / ADAPTER, _fields(lora, base, images))
        if tokenizer is not None:
            save_tokenizer(draft, tokenizer, template)


def _fields(lora: LoraConfig, base: str, images: bool) -> dict[str, Any]:
    whole = lora.alpha == int(lora.alpha)
    targets: list[str] | str = list(lora.targets)
    if images:  # what sees them has layers of the same names; vLLM wants the () last
        targets = rf".*language_model.*\.({'|'.join(lora.targets)})"
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(lora.alpha) if whole else lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def load_adapter(
    path: str | Path, config: DecoderConfig, *, dtype: Any = np.float32
) -> tuple[Params, LoraConfig]:
    """Reads an adapter of ``config``'s model, not scaled, into host memory.

    Raises:
      UserError: if a file or tensor is missing, damaged, unexpected or of the wrong
        shape, or the adapter is of a kind that isn't supported.
    """
    folder = Path(path).expanduser()
    fields = read_json(folder / ADAPTER)
    tensors = _read(folder / WEIGHTS)
    lora = _settings(folder / ADAPTER, fields, config, tensors)
    blocks: dict[str, dict[str, np.ndarray]] = {}
    for part, leaves in shapes(config, lora)["blocks"].items():
        for name, leaf in leaves.items():
            matrix = _matrices(config)[f"{name[:-2]}_proj"]
            letter = name[-1].upper()
            whole = np.empty(leaf.shape, dtype)
            for layer, into in enumerate(whole):
                tensor = tensors.pop(matrix.name(layer, letter), None)
                rank = lora.rank
                turned = into.reshape((-1, rank) if letter == "A" else (rank, -1))
                if tensor is None or tensor.shape != turned.shape[::-1]:
                    held = "none" if tensor is None else list(tensor.shape)
                    raise UserError(
                        f"{folder}: tensor {matrix.name(layer, letter)}: {held}, but "
                        f"its model and r={rank} imply {list(turned.shape[::-1])}: "
                        "check that they belong together"
                    )
                turned[...] = tensor.T
            blocks.setdefault(part, {})[name] = whole
    if tensors:
        raise UserError(
            f"{folder}: has tensor {min(tensors)}, which is no adapter of a linear "
            f"layer of model type {config.model_type}: merge it with peft, and use the "
            "whole model"
        )
    return {"blocks": blocks}, lora


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(file, framework="np") as opened:
            names = list(opened.keys())
            return {_usual(name): opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(
            f"{file}: cannot be read ({first_line(error)}): download it again"
        ) from error


def _usual(name: str) -> str:
    """The name of a tensor as of an adapter of a model of text alone."""
    if not name.startswith(PREFIX):
        return name
    return PREFIX + text_name(name.removeprefix(PREFIX))


def _settings(
    file: Path, fields: dict[str, Any], config: DecoderConfig, tensors: Sequence[str]
) -> LoraConfig:
    """What the configuration says; the targets are those that there are tensors of."""
    for name, plain in PLAIN.items():
        if fields.get(name, plain[0]) not in plain:
            raise UserError(
                f"{file}: {name}={fields[name]!r}: not supported: merge the adapter "
                "with peft, and use the whole model"
            )
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise UserError(
            f"{file}: r={rank!r}, lora_alpha={alpha!r}: not those of an adapter: "
            "download it again"
        )
    matrices = _matrices(config)
    targets = tuple(t for t in TARGETS if matrices[t].name(0, "A") in tensors)
    try:
        return LoraConfig(rank=rank, alpha=float(alpha), targets=targets)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
