"""The FAISS index of one pair of passages and encoder: built once, then opened.

A folder has ``vectors.faiss`` (inner product, in corpus order), ``encoder.npz`` (the
encoder's state) and ``index.json`` (hash of the passages, fingerprint of the encoder).
It is written atomically. Encoding is what takes time, so indexes of other types than
flat are made from the flat one, each in a folder of its own in the flat one's; they
need nothing of it afterwards.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from rich.console import Console
from rich.progress import Progress

from models.errors import UserError, first_line
from retrieval import approximate, flat
from retrieval.config import RetrievalConfig
from retrieval.encoders import Encoder
from retrieval.passages import Passages, write_npz

BUILD_BATCH = 512
FLAT = "Flat"
VECTORS = "vectors.faiss"


@dataclass(frozen=True)
class Index:
    """Vectors of all passages; ``search`` is thread-safe.

    Attributes:
      vectors: the FAISS index.
      on_gpus: whether it is on GPUs.
    """

    vectors: Any
    on_gpus: bool = False

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and passage numbers [n, k], best first, ties by number.

        A number of -1 is FAISS's word for none: the vectors that are left have no
        score with that query.

        Args:
          queries: unit vectors, float32 [n, dim].
          k: passages per query; fewer are returned if the corpus has fewer.
        """
        k = min(k, self.vectors.ntotal)
        if isinstance(self.vectors, faiss.IndexFlat) and not self.on_gpus:
            return flat.search(self.vectors, queries, k)
        return approximate.search(self.vectors, queries, k, together=self.on_gpus)


def exact(config: RetrievalConfig) -> RetrievalConfig:
    """The same search with a flat index on the CPU, which others are made from."""
    return replace(config, index=FLAT, index_parameters="", gpus=0)


def folder_of(config: RetrievalConfig, passages: Passages, encoder: Encoder) -> Path:
    """Returns ``index_dir``, or a folder named after the passages and the encoder.

    An index of another type than flat is in a folder in there.
    """
    folder = config.index_root()
    if not config.index_dir:
        folder = folder / f"{encoder.name}-{_key(passages.hash, encoder.fingerprint)}"
    if config.index == FLAT:
        return folder
    plain = re.sub(r"[^A-Za-z0-9]+", "_", config.index)[:40]
    return folder / f"{plain}-{_key(config.index)}"


def _key(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def open_or_build(
    config: RetrievalConfig,
    passages: Passages,
    encoder: Encoder,
    *,
    limit: int | None = None,
    progress: bool = True,
) -> Index:
    """Opens the index of these passages and this encoder, or builds it.

    Args:
      limit: largest number of passages for which an index is built; None means any.
      progress: whether to show a progress bar on stderr while building.

    Raises:
      UserError: if ``index_dir`` has the index of other passages or another encoder,
        the folder is damaged or can't be written, an index must be built for more
        passages than ``limit``, or FAISS knows no such index.
    """
    if config.index != FLAT:
        approximate.make(config.index, encoder.dim)  # before anything is encoded
    folder = folder_of(config, passages, encoder)
    basis = folder_of(exact(config), passages, encoder)
    has_none = not any((f / "index.json").is_file() for f in (folder, basis))
    if has_none:
        if limit is not None and len(passages) > limit:
            raise UserError(
                f"{passages.path}: has no index, and {len(passages):,} passages exceed "
                f"retrieval.build_limit={limit:,}: run scripts/build_index.py with "
                "these settings first"
            )
        _build(basis, passages, encoder, progress)
    if not (folder / "index.json").is_file():
        _derive(folder, basis, config.index, passages, encoder)
    index = _open(folder, passages, encoder)
    if config.gpus:
        return Index(approximate.on_gpus(index.vectors, config.gpus), on_gpus=True)
    if config.index != FLAT:
        approximate.set_parameters(index.vectors, config.index_parameters)
    return index


def _identity(passages: Passages, encoder: Encoder) -> dict[str, Any]:
    return {
        "passages": passages.hash,
        "encoder": encoder.fingerprint,
        "count": len(passages),
        "dim": encoder.dim,
    }


def _open(
    folder: Path, passages: Passages, encoder: Encoder, *, mapped: bool = False
) -> Index:
    """Opens what a folder has.

    Args:
      mapped: leave the vectors in the file, and read those that are used.
    """
    try:
        found = json.loads((folder / "index.json").read_text())
        wanted = _identity(passages, encoder)
        for what in ("passages", "encoder"):
            if found[what] != wanted[what]:
                other = "other passages" if what == "passages" else "another encoder"
                raise UserError(
                    f"{folder}: an index of {other} than retrieval.{what} "
                    f"({_short(found[what])}, not {_short(wanted[what])}): choose "
                    "another retrieval.index_dir, or delete this folder"
                )
        with np.load(folder / "encoder.npz", allow_pickle=False) as kept:
            encoder.restore(dict(kept))
        flags = faiss.IO_FLAG_MMAP_IFC if mapped else 0
        vectors = faiss.read_index(str(folder / VECTORS), flags)
        if (vectors.ntotal, vectors.d) != (len(passages), encoder.dim):
            raise ValueError(f"has {vectors.ntotal} vectors of width {vectors.d}")
    except UserError:
        raise
    except Exception as error:  # FAISS, NumPy and json raise different types
        raise UserError(
            f"{folder}: damaged index ({first_line(error)[:120]}): delete the folder, "
            "and it is built again"
        ) from error
    return Index(vectors)


def _build(folder: Path, passages: Passages, encoder: Encoder, progress: bool) -> None:
    """Encodes all passages into a flat index."""
    with draft_of(folder) as draft:
        encoder.fit(passage.contents for passage in passages)
        vectors = faiss.IndexFlatIP(encoder.dim)
        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            task = bar.add_task(f"index ({encoder.name})", total=len(passages))
            for start in range(0, len(passages), BUILD_BATCH):
                stop = min(start + BUILD_BATCH, len(passages))
                texts = [passages[i].contents for i in range(start, stop)]
                encoded = encoder.encode_passages(texts)
                _check_finite(encoded, passages, start, encoder)
                vectors.add(encoded)
                bar.advance(task, stop - start)
        _write(draft, vectors, passages, encoder)


def _derive(
    folder: Path, basis: Path, factory: str, passages: Passages, encoder: Encoder
) -> None:
    """Makes an index of another type from the vectors of the flat one."""
    whole = _open(basis, passages, encoder, mapped=True)
    with draft_of(folder) as draft:
        vectors = approximate.make(factory, encoder.dim)
        approximate.fill(vectors, flat.vectors_of(whole.vectors))
        _write(draft, vectors, passages, encoder)


def _write(draft: Path, vectors: Any, passages: Passages, encoder: Encoder) -> None:
    faiss.write_index(vectors, str(draft / VECTORS))
    write_npz(draft / "encoder.npz", **encoder.state())
    identity = json.dumps(_identity(passages, encoder), indent=2)
    (draft / "index.json").write_text(identity + "\n")


@contextlib.contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """Gives a folder to write to, which then takes its place; nothing is left of it."""
    _check_place(folder)
    draft = folder.with_name(f".{folder.name}.draft-{os.getpid()}")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        yield draft
        _publish(draft, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: can't be written ({error.strerror}): set retrieval.index_dir "
            "to a writable folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_finite(
    encoded: np.ndarray, passages: Passages, start: int, encoder: Encoder
) -> None:
    """Raises where a vector is not finite: no search would ever find its passage."""
    bad = np.flatnonzero(~np.isfinite(encoded).all(axis=1))
    if len(bad):
        raise UserError(
            f"{passages.path}: the {encoder.name} encoder gives passage "
            f"{passages[start + int(bad[0])].id} a vector that is not finite: check "
            "the weights in retrieval.encoder_path"
        )


def _publish(draft: Path, folder: Path) -> None:
    """Moves the finished index to its place, unless another process was faster."""
    if folder.is_dir():
        # The offset table may be there already: keep it.
        for file in folder.glob("passages.npz"):
            shutil.copyfile(file, draft / file.name)
        if (folder / "index.json").is_file():
            return
        _check_place(folder)  # what has come meanwhile is not ours to delete
        (folder / "passages.npz").unlink(missing_ok=True)
        folder.rmdir()
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / "index.json").is_file():
            raise


def _check_place(folder: Path) -> None:
    """Raises where an index would take the place of anything but an offset table."""
    if not folder.name:  # the folder that we are in, or the root
        raise UserError(
            f"retrieval.index_dir={folder}: is no name: name a folder, as index"
        )
    if not folder.exists():
        return
    if folder.is_dir() and all(f.name == "passages.npz" for f in folder.iterdir()):
        return
    raise UserError(
        f"{folder}: has files that are not an index, or not all of one: choose another "
        "retrieval.index_dir, or delete this folder"
    )


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:12] + "..."
