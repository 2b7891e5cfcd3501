"""Hugging Face model folders: locating them, reading their JSON, hashing them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from models import checksums
from models.config import DecoderConfig
from models.errors import DamagedError, UserError, first_line
from models.families import TEXT_PARTS

# Marks the folder of an adapter, which belongs to another model.
ADAPTER = "adapter_config.json"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# The files that a model needs, and none with code: no *.bin (pickle), no *.py.
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]


def resolve(path: str | Path) -> Path:
    """Returns the local folder of a path or hub name; a hub name is downloaded.

    Raises:
      UserError: if there is no such folder and it can't be downloaded.
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
        raise UserError(
            f"{path}: no such folder, and not downloaded from the hub "
            f"({first_line(error)}): check the name and the network, or download the "
            "model and give its folder"
        ) from error


def hub_file(name: str, file: str) -> Path:
    """Returns one file of a model on the hub, downloaded if it is not there yet.

    Raises:
      UserError: if the name is none, or the hub does not give it.
    """
    if not HUB_NAME.fullmatch(name):
        raise UserError("no such folder, and no hub name (owner/name)")
    from huggingface_hub import hf_hub_download  # here: local folders need no hub

    try:
        return Path(hf_hub_download(name, file))
    except Exception as error:  # the hub's errors share no base class
        raise UserError(f"not downloaded from the hub: {first_line(error)}") from error


def base_of(path: str | Path) -> Path | None:
    """The folder of the model that an adapter's folder belongs to; None: it is none.

    Raises:
      UserError: if the adapter does not name it, or it is not there.
    """
    folder = resolve(path)
    if not (folder / ADAPTER).is_file() or (folder / "config.json").is_file():
        return None
    base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{folder / ADAPTER}: base_model_name_or_path={base!r}: names no model: "
            "write the folder or hub name of the adapter's model there"
        )
    try:
        return resolve(base)
    except UserError as error:
        raise UserError(f"{folder / ADAPTER}: its model: {error}") from error


def load_config(path: str | Path) -> DecoderConfig:
    """Reads ``config.json`` of a model folder, or of the model of an adapter's folder.

    Raises:
      UserError: if it is missing, not JSON, or of an unsupported model type.
    """
    if base := base_of(path):
        return load_config(base)
    file = resolve(path) / "config.json"
    fields = read_json(file)
    quantised = fields.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UserError(
            f"{file}: quantised weights ({method}) aren't supported: use the model "
            "before quantisation"
        )
    try:
        return DecoderConfig.from_hf(fields)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def sees_images(path: str | Path) -> bool:
    """Whether a folder's model sees images too, and only its text model is read.

    Raises:
      UserError: as from ``load_config``.
    """
    folder = base_of(path) or resolve(path)
    return read_json(folder / "config.json").get("model_type") in list(TEXT_PARTS)


def read_json(file: Path, kind: type = dict) -> Any:
    """Reads a JSON object, or a list, from a model folder.

    Raises:
      UserError: if it can't.
    """
    if not file.is_file():
        raise UserError(
            f"{file.parent}: no {file.name} in this folder: give a Hugging Face model "
            "folder (config.json, *.safetensors, tokenizer.json)"
        )
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}): make it readable"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: not valid JSON ({first_line(error)}): download it again"
        ) from error
    if not isinstance(value, kind):
        name = "object" if kind is dict else kind.__name__
        raise UserError(f"{file}: not a JSON {name}: download it again")
    return value


def verify(path: str | Path, *, lacking: bool = False) -> None:
    """Compares the files of a model folder that ``save`` wrote with their hashes.

    A folder without hashes passes: others make theirs without.

    Args:
      path: the folder, or a hub name.
      lacking: a file may be missing, as from a copy for one purpose.

    Raises:
      DamagedError: naming the file.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() and not lacking:
        raise DamagedError(folder, "no such folder")
    checksums.verify_folder(resolve(path), lacking=lacking)


def content_hash(path: str | Path) -> str:
    """Returns a hash of a model folder's weights, configuration, tokenizer, template.

    That of an adapter's folder depends on its model as well. It depends only on the
    files' contents and names, not on where the folder is.
    """
    folder = resolve(path)
    digest = hashlib.sha256()
    # Many folders keep the chat template in tokenizer_config.json.
    kept = ("config.json", "tokenizer.json", "tokenizer_config.json")
    kept += ("chat_template.jinja", ADAPTER)
    if base := base_of(folder):
        digest.update(f"{content_hash(base)}\n".encode())
    files = [folder / name for name in kept] + list(folder.glob("*.safetensors"))
    hashes = checksums.of_files(file for file in files if file.is_file())
    for file, inner in sorted(hashes.items()):
        digest.update(f"{file.name} {inner}\n".encode())
    return digest.hexdigest()
