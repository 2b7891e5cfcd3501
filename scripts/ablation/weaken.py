"""Models that are worse at one job by a fixed number of points.

Procedure: every weight gets seeded Gaussian noise, whose size is a share of the root
mean square of its tensor. The share is doubled from ``FIRST`` on until the accuracy at
the job has fallen by ``DROP``, then bisected ``HALVINGS`` times in its logarithm; the
share whose accuracy came nearest is taken. Same model, same measure, same bits.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from models import checksums, hf, storage
from models.errors import UserError
from scope_jax.system.files import read_json, write_text

DROP = 0.15  # fixed before anything was measured
NEAR = 0.02  # of the drop, to either side
FIRST, DOUBLINGS, HALVINGS = 0.01, 8, 8
SEED = 0
RECORD = "weakened.json"

Accuracy = Callable[[Path], float]
"""Folder of a model -> share of the scripted cases of a job that it does right."""


@dataclass(frozen=True, kw_only=True)
class Weakened:
    """How a model was weakened.

    Attributes:
      share: of noise.
      before, after: accuracy at the job.
    """

    share: float
    before: float
    after: float


def add_noise(model: Path, folder: Path, share: float, *, seed: int = SEED) -> None:
    """Copies a model to a folder with noise in its weights, in their own precision."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(model.iterdir()):
        if file.name == checksums.NAME:  # of other weights
            continue
        if file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
            continue
        tensors = load_file(file)
        for number, name in enumerate(sorted(tensors)):
            tensor = tensors[name].astype(np.float32)
            rng = np.random.default_rng([seed, number])
            noise = rng.standard_normal(tensor.shape, dtype=np.float32)
            size = share * np.sqrt(np.mean(tensor**2))
            tensors[name] = (tensor + size * noise).astype(tensors[name].dtype)
        save_file(tensors, folder / file.name)
    checksums.record_folder(folder)


def share_for(
    accuracy: Callable[[float], float], before: float, *, drop: float = DROP
) -> tuple[float, float]:
    """The share of noise with which accuracy falls by ``drop``, and the accuracy.

    Args:
      accuracy: at a share of noise; falling, but for its own noise.
      before: accuracy without noise.
      drop: wanted.

    Raises:
      UserError: no share tried came within ``NEAR`` of the drop.
    """
    wanted = before - drop
    tried: dict[float, float] = {}
    low, high = 0.0, FIRST
    for _ in range(DOUBLINGS):
        tried[high] = accuracy(high)
        if tried[high] <= wanted:
            break
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high) if low else high / 2
        tried[middle] = accuracy(middle)
        low, high = (low, middle) if tried[middle] <= wanted else (middle, high)
    best = min(tried, key=lambda share: (abs(tried[share] - wanted), share))
    if abs(tried[best] - wanted) > NEAR:
        raise UserError(
            f"accuracy {before:.3f}: no noise lowers it to {wanted:.3f}, the nearest "
            f"is {tried[best]:.3f} at a share of {best:.4g}: measure it on more cases"
        )
    return best, tried[best]


def place(model: Path, job: str, cache: Path) -> Path:
    """Folder in the cache of the model that is worse at a job.

    Args:
      model: folder of the model to weaken; its content is in the name.
      job: what it gets worse at.
      cache: where such models are kept.
    """
    base = hf.content_hash(str(model))
    return cache / f"weak_{job}_{base[:12]}_{round(100 * DROP)}_{SEED}"


def weakened(model: Path, job: str, accuracy: Accuracy, cache: Path) -> Path:
    """Makes the model that is worse at a job, if it is not there; its ``place``."""
    folder = place(model, job, cache)
    if (folder / RECORD).is_file():
        return folder
    making = cache / f".{folder.name}.{os.getpid()}"
    try:

        def at(share: float) -> float:
            shutil.rmtree(making, ignore_errors=True)
            add_noise(model, making, share)
            return accuracy(making)

        before = accuracy(model)
        share, after = share_for(at, before)
        shutil.rmtree(making)
        add_noise(model, making, share)
        record = Weakened(share=share, before=before, after=after)
        write_text(making / RECORD, json.dumps(asdict(record)) + "\n")
        storage.replace_folder(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def record(folder: Path) -> Weakened:
    """How the model of a folder was weakened."""
    return Weakened(**read_json(folder / RECORD))
