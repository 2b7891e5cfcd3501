"""The FAISS index of one pair of passages and encoder: built once, then opened.

A folder holds ``vectors.faiss`` (flat inner product, corpus order), ``encoder.npz``
(what the encoder learnt) and ``index.json`` (hash of the passages, fingerprint of the
encoder), and appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from rich.console import Console
from rich.progress import Progress

from models.errors import UserError
from retrieval.config import RetrievalConfig
from retrieval.encoders import Encoder
from retrieval.passages import Passages, write_npz

BUILD_BATCH = 512
# More candidates than asked for, so that equal scores at the border are ordered by
# passage number and not by how FAISS happened to meet them.
SPARE = 8

# FAISS computes 20 and more queries at once with BLAS, whose sums differ in the last
# bits from those of fewer: a query's result would depend on its company.
faiss.cvar.distance_compute_blas_threshold = 1 << 30


@dataclass(frozen=True)
class Index:
    """Vectors of all passages; ``search`` may be called from many threads."""

    vectors: Any

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and passage numbers [n, k], best first, ties by number.

        Args:
          queries: unit vectors, float32 [n, dim].
          k: at most the number of passages are returned.
        """
        wanted = min(k + SPARE, self.vectors.ntotal)
        scores, rows = self.vectors.search(np.ascontiguousarray(queries), wanted)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def folder_of(config: RetrievalConfig, passages: Passages, encoder: Encoder) -> Path:
    """Returns the index's folder: ``index_dir``, or one named after what it is of."""
    if config.index_dir:
        return config.index_root()
    key = hashlib.sha256(f"{passages.hash} {encoder.fingerprint}".encode()).hexdigest()
    return config.index_root() / f"{encoder.name}-{key[:16]}"


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
      limit: the largest number of passages to build for; None for any.
      progress: whether to show a bar on stderr while building.

    Raises:
      UserError: if ``index_dir`` holds an index of other passages or another encoder,
        the folder is damaged or can't be written, or there are more passages than
        ``limit``.
    """
    folder = folder_of(config, passages, encoder)
    if not (folder / "index.json").is_file():
        if limit is not None and len(passages) > limit:
            raise UserError(
                f"{passages.path}: {len(passages):,} passages without an index, more "
                f"than retrieval.build_limit={limit:,}: run scripts/build_index.py "
                "with these settings first"
            )
        _build(folder, passages, encoder, progress)
    return _open(folder, passages, encoder)


def _identity(passages: Passages, encoder: Encoder) -> dict[str, Any]:
    return {
        "passages": passages.hash,
        "encoder": encoder.fingerprint,
        "count": len(passages),
        "dim": encoder.dim,
    }


def _open(folder: Path, passages: Passages, encoder: Encoder) -> Index:
    try:
        found = json.loads((folder / "index.json").read_text())
        wanted = _identity(passages, encoder)
        for what in ("passages", "encoder"):
            if found[what] != wanted[what]:
                other = "other passages" if what == "passages" else "another encoder"
                raise UserError(
                    f"{folder}: an index of {other} than retrieval.{what} says "
                    f"({_short(found[what])}, not {_short(wanted[what])}): choose "
                    "another retrieval.index_dir, or delete this folder"
                )
        with np.load(folder / "encoder.npz", allow_pickle=False) as kept:
            encoder.restore(dict(kept))
        vectors = faiss.read_index(str(folder / "vectors.faiss"))
        if (vectors.ntotal, vectors.d) != (len(passages), encoder.dim):
            raise ValueError(f"it holds {vectors.ntotal} vectors of {vectors.d}")
    except UserError:
        raise
    except Exception as error:  # FAISS raises RuntimeError, NumPy and json others
        reason = (str(error).strip().splitlines() or ["unreadable"])[0]
        raise UserError(
            f"{folder}: damaged index ({reason[:120]}): delete the folder, and it is "
            "built again"
        ) from error
    return Index(vectors)


def _build(folder: Path, passages: Passages, encoder: Encoder, progress: bool) -> None:
    draft = folder.with_name(f".{folder.name}.draft-{os.getpid()}")
    if folder.exists() and (not folder.is_dir() or _foreign_files(folder)):
        raise UserError(
            f"{folder}: holds files that are no index: choose another "
            "retrieval.index_dir"
        )
    try:
        draft.mkdir(parents=True, exist_ok=True)
        encoder.fit(passage.contents for passage in passages)
        vectors = faiss.IndexFlatIP(encoder.dim)
        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            task = bar.add_task(f"index ({encoder.name})", total=len(passages))
            for start in range(0, len(passages), BUILD_BATCH):
                stop = min(start + BUILD_BATCH, len(passages))
                texts = [passages[i].contents for i in range(start, stop)]
                vectors.add(encoder.encode_passages(texts))
                bar.advance(task, stop - start)
        faiss.write_index(vectors, str(draft / "vectors.faiss"))
        write_npz(draft / "encoder.npz", **encoder.state())
        identity = json.dumps(_identity(passages, encoder), indent=2)
        (draft / "index.json").write_text(identity + "\n")
        _publish(draft, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: can't be written ({error.strerror}): set retrieval.index_dir "
            "to a folder that can"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, folder: Path) -> None:
    """Moves the finished index to its place; another process's own is as good."""
    if folder.is_dir():
        # Only the offset table can be there: it moves along.
        for file in folder.glob("passages.npz"):
            shutil.copyfile(file, draft / file.name)
        if (folder / "index.json").is_file():
            return
        shutil.rmtree(folder)
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / "index.json").is_file():
            raise


def _foreign_files(folder: Path) -> bool:
    return any(file.name != "passages.npz" for file in folder.iterdir())


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:12] + "..."
