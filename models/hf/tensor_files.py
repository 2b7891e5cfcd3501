"""Reads and writes safetensors files piece by piece; never reads pickle.

Reads use file offsets instead of a memory map, whose touched pages would count as this
process's memory.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from models.errors import UserError, first_line

FLOAT_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """Location of one tensor in an open file; its values aren't read yet.

    Attributes:
      dtype: its name in the file, such as "BF16".
      offset: of its first byte from the start of the file.
    """

    file: Path
    descriptor: int
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns; a vector is one row."""
        rows = math.prod(self.shape[:-1])
        return rows, math.prod(self.shape[-1:])

    def read(
        self, start: int = 0, stop: int | None = None, into: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns rows ``start`` to ``stop`` as [rows, columns]; thread-safe.

        Args:
          start: first row.
          stop: one past the last row; None means all.
          into: a uint8 buffer for the result; None allocates one.

        Raises:
          UserError: if the file ends too early, or the dtype isn't in ``FLOAT_DTYPES``.
        """
        if self.dtype not in FLOAT_DTYPES:
            raise UserError(
                f"{self.file}: holds a tensor of type {self.dtype}: use weights in one "
                f"of {', '.join(FLOAT_DTYPES)} (quantised weights aren't supported)"
            )
        rows, columns = self.matrix
        stop = rows if stop is None else stop
        dtype = np.dtype(FLOAT_DTYPES[self.dtype])
        size = (stop - start) * columns * dtype.itemsize
        memory = np.empty(size, np.uint8) if into is None else into[:size]
        view, at = memory.data, self.offset + start * columns * dtype.itemsize
        while view:  # one call reads at most 2 GB
            count = os.preadv(self.descriptor, [view], at)
            if not count:
                raise UserError(f"{self.file}: cut short: download it again")
            view, at = view[count:], at + count
        return memory.view(dtype).reshape(-1, columns)


def open_tensors(folder: Path, stack: ExitStack) -> dict[str, Entry]:
    """Opens a folder's files, reads their headers, and returns tensor name -> entry.

    Args:
      folder: has ``model.safetensors``, or an index and its files.
      stack: closes the files.

    Raises:
      UserError: for a missing or damaged file.
    """
    tensors: dict[str, Entry] = {}
    for file in _files(folder):
        try:
            with safe_open(file, framework="np"):
                pass  # it checks the header against the file's length
            descriptor = os.open(file, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            size = int.from_bytes(os.pread(descriptor, 8, 0), "little")
            header = json.loads(os.pread(descriptor, size, 8))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{file}: damaged or cut short ({first_line(error)}): download it again"
            ) from error
        header.pop("__metadata__", None)
        for name, fields in header.items():
            tensors[name] = Entry(
                file=file,
                descriptor=descriptor,
                dtype=fields["dtype"],
                shape=tuple(fields["shape"]),
                offset=8 + size + fields["data_offsets"][0],
            )
    return tensors


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise UserError(
                f"{index}: not an index of tensors ({first_line(error)}): download it "
                "again"
            ) from error
        # Only the file name, so that an index can't point outside its folder.
        files = [folder / name for name in sorted({Path(str(n)).name for n in names})]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no *.safetensors in this folder: convert the weights to "
            "safetensors (pickled *.bin files are never read)"
        )
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{folder}: no {file.name}, which its index names: download it again"
            )
    return files


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: what the file's header says about it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_files(
    tensors: Sequence[Planned], shard_bytes: int
) -> dict[str, list[Planned]]:
    """Returns file name -> its tensors, in order.

    A file holds at most ``shard_bytes``, or a single larger tensor.
    """
    shards: list[list[Planned]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {
        f"model-{number:05}-of-{len(shards):05}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def write_file(
    path: Path, planned: Sequence[Planned], tensors: Iterable[np.ndarray]
) -> None:
    """Writes one file from tensors that arrive one at a time, in the planned order.

    Raises:
      ValueError: if a tensor's shape or dtype isn't as planned.
    """
    names = {np.dtype(dtype): name for name, dtype in FLOAT_DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for plan in planned:
        start, end = end, end + plan.nbytes
        header[plan.name] = {
            "dtype": names[plan.dtype],
            "shape": plan.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for plan, tensor in zip(planned, tensors, strict=True):
            if (tensor.shape, tensor.dtype) != (plan.shape, plan.dtype):
                raise ValueError(f"{plan.name}: {tensor.shape} {tensor.dtype}, {plan}")
            stream.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def write_index(folder: Path, files: dict[str, list[Planned]]) -> None:
    """Writes the index of which file holds which tensor, if there are several files."""
    if len(files) == 1:
        return
    weight_map = {plan.name: file for file, plans in files.items() for plan in plans}
    total = sum(plan.nbytes for plans in files.values() for plan in plans)
    fields = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(fields, indent=2) + "\n")
