"""The small world's files: the shipped model, and the passages, made on first use."""

import hashlib
import json
import os
from pathlib import Path

from models.errors import UserError
from scope_jax.demo.world import World, generate

MODEL = Path(__file__).parent / "assets" / "model"


def model_path() -> Path:
    """Folder of the warm-started model, in Hugging Face format.

    Raises:
      UserError: if it is not there.
    """
    if not (MODEL / "model.safetensors").is_file():
        raise UserError(
            f"{MODEL}: holds no model: make it with `python scripts/warmstart.py`"
        )
    return MODEL


def cache_dir() -> Path:
    """Folder of files that can be made again; ``SCOPE_JAX_CACHE`` names another."""
    if found := os.environ.get("SCOPE_JAX_CACHE"):
        return Path(found)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scope_jax"


def passages_path(
    folder: str | os.PathLike[str] | None = None, *, world: World | None = None
) -> Path:
    """The passages file of ``world``; written if it is not there.

    Its name holds a hash of its contents, so that another world has another file.

    Args:
      folder: to look in and write to; ``cache_dir()`` if not given.
      world: the default world if not given.
    """
    world = world or generate()
    rows = "\n".join(json.dumps(row) for row in world.passages())
    digest = hashlib.blake2b(rows.encode(), digest_size=6).hexdigest()
    path = Path(folder or cache_dir()) / f"small_world_{digest}.jsonl"
    if not path.is_file():
        world.write_passages(path)
    return path
