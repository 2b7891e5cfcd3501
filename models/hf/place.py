"""Reads tensors from files straight into the shards that the devices hold.

The shards of a parameter are allocated once, in memory that a CPU device can use
without a copy. A few threads fill them: each reads chunks of rows, and casts and
transposes them in its own scratch memory.
"""

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from models.hf.layout import Leaf
from models.hf.tensor_files import Entry

# A chunk is small compared to one layer, and fits into a processor's cache.
CHUNK_BYTES = 1 << 20
CHUNK_ROWS = 64
# Chunks per task of a thread; a large tensor is several tasks.
TASK_CHUNKS = 16
THREADS = min(8, os.cpu_count() or 1)
ALIGNMENT = 64  # bytes; JAX on a CPU uses memory aligned like this without a copy

_of_thread = threading.local()


@dataclass(frozen=True)
class Part:
    """One layer of a device's shard of a parameter.

    Attributes:
      memory: where it is written, contiguous.
      rows: the rows of the file's tensor that it consists of.
      columns: the columns of that tensor.
    """

    memory: np.ndarray
    rows: range
    columns: range


def place(
    leaf: Leaf,
    entries: Sequence[Entry],
    shape: jax.ShapeDtypeStruct,
    sharding: Sharding | None,
    pool: Executor,
) -> jax.Array:
    """Returns a parameter on the devices of ``sharding``, read from its files.

    Args:
      leaf: which parameter.
      entries: its tensors in layer order, or the single one if it has no layer axis.
      shape: shape and dtype of the whole parameter.
      sharding: None means the default device.
      pool: threads that read several chunks at once.
    """
    places: dict = {None: tuple(slice(0, n) for n in shape.shape)}
    if sharding is not None:
        places = sharding.addressable_devices_indices_map(shape.shape)
    bounds = {
        device: tuple(s.indices(n)[:2] for s, n in zip(index, shape.shape, strict=True))
        for device, index in places.items()
    }
    # Devices that hold the same shard share its memory.
    memory = {b: _aligned([y - x for x, y in b], shape.dtype) for b in bounds.values()}
    tasks = []
    for layer, entry in enumerate(entries):
        parts = []
        for bound, whole in memory.items():
            one, axes = (whole[layer], bound[1:]) if leaf.stacked else (whole, bound)
            parts.append(Part(one, *leaf.window(tuple(slice(*axis) for axis in axes))))
        every = chunks(entry)
        for start in range(0, len(every), TASK_CHUNKS):
            tasks.append((leaf, entry, every[start : start + TASK_CHUNKS], parts))
    for _ in pool.map(lambda task: _read(*task), tasks):
        pass  # raises what a thread raised
    if sharding is None:
        return jax.device_put(memory[bounds[None]])
    arrays = [jax.device_put(memory[bounds[device]], device) for device in places]
    return jax.make_array_from_single_device_arrays(shape.shape, sharding, arrays)


def chunks(entry: Entry) -> list[range]:
    """Returns a tensor's rows in the chunks that are read at once."""
    rows, columns = entry.matrix
    step = max(CHUNK_ROWS, CHUNK_BYTES // (4 * max(columns, 1)))
    return [range(at, min(at + step, rows)) for at in range(0, rows, step)]


def _read(
    leaf: Leaf, entry: Entry, pieces: Sequence[range], parts: Sequence[Part]
) -> None:
    """Reads chunks of a tensor into all parts that need rows of them."""
    raw, wide = _scratch(4 * entry.matrix[1] * max(map(len, pieces)))
    for piece in pieces:
        wanted = []
        for part in parts:
            start = max(piece.start, part.rows.start)
            stop = min(piece.stop, part.rows.stop)
            if start < stop:
                wanted.append((part, start, stop))
        if not wanted:
            continue
        chunk = entry.read(piece.start, piece.stop, into=raw)
        chunk = _cast(chunk, parts[0].memory.dtype, wide)
        for part, start, stop in wanted:
            leaf.place(
                part.memory,
                range(start - part.rows.start, stop - part.rows.start),
                chunk[
                    start - piece.start : stop - piece.start,
                    part.columns.start : part.columns.stop,
                ],
            )


def _scratch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two buffers that this thread reuses.

    Allocating new pages for every chunk would cost more than all the copying.
    """
    pair = getattr(_of_thread, "pair", None)
    if pair is None or pair[0].size < size:
        pair = np.empty(size, np.uint8), np.empty(size, np.uint8)
        _of_thread.pair = pair
    return pair


def _cast(chunk: np.ndarray, dtype: np.dtype, memory: np.ndarray) -> np.ndarray:
    """Returns ``chunk`` cast to ``dtype``, in ``memory`` if it has another dtype."""
    if chunk.dtype == dtype:
        return chunk
    out = memory[: chunk.size * dtype.itemsize].view(dtype).reshape(chunk.shape)
    if chunk.dtype == ml_dtypes.bfloat16 and dtype == np.float32:
        # bfloat16 is the upper half of a float32: ten times as fast as NumPy's cast.
        bits = out.view(np.uint32)
        np.left_shift(chunk.view(np.uint16), 16, out=bits, dtype=np.uint32)
    else:
        out[...] = chunk
    return out


def _aligned(shape: list[int], dtype: np.dtype) -> np.ndarray:
    """Returns uninitialised memory that a CPU device can use without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
