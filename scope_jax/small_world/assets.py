"""The small world's files: the shipped model, and the passages, made on first use."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from models.errors import UserError
from scope_jax.config import Config
from scope_jax.small_world.world import generate
from scope_jax.system.files import cache_dir

MODEL = Path(__file__).parent / "assets" / "model"


def model_path() -> Path:
    """Folder of the warm-started model, in Hugging Face format.

    Raises:
      UserError: if it does not exist.
    """
    if not (MODEL / "model.safetensors").is_file():
        raise UserError(
            f"{MODEL}: contains no model: make it with `python scripts/warmstart.py`"
        )
    return MODEL


def passages_path(folder: str | os.PathLike[str] | None = None) -> Path:
    """The passages file of the default world; written if it does not exist.

    Its name holds a hash of its contents, so that another world has another file.

    Args:
      folder: where to look and write; ``cache_dir()`` if not given.
    """
    rows = "\n".join(json.dumps(row) for row in generate().passages())
    digest = hashlib.blake2b(rows.encode(), digest_size=6).hexdigest()
    path = Path(folder or cache_dir()) / f"small_world_{digest}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may do this at the same time.
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(rows + "\n", encoding="utf-8")
        partial.replace(path)
    return path


def resolve(config: Config) -> Config:
    """The configuration with ``demo`` replaced by the files that it stands for.

    Only for use in this process: the saved configuration keeps the word, so that a run
    folder can be moved between machines.
    """
    if config.model.path == "demo":
        model = replace(config.model, path=str(model_path()))
        config = replace(config, model=model)
    if config.retrieval.passages == "demo":
        passages = str(passages_path())
        retrieval = replace(config.retrieval, passages=passages)
        config = replace(config, retrieval=retrieval)
    return config
