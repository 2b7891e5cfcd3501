"""Indexes of other types than flat, by FAISS's factory string, and flat ones on GPUs.

On CPUs a query gets the same passages and scores, to the bit, alone and in any company:
distances to the lists of an IVF index are computed one by one, never as a matrix
product, and types whose sums may differ with the number of queries (product quantizers
and rotations before them) get one query at a time. On GPUs that is not promised.
"""

import re
from typing import Any

import faiss
import numpy as np

from models.errors import UserError
from retrieval.flat import SPARE

ONE_BY_ONE = 2**31 - 1
"""More than queries times width: FAISS then never takes its matrix product."""
USUAL = 20
"""FAISS's own value of what is set to the above: training needs matrix products."""
LISTS = 32
"""By default, 1 of so many lists of an IVF index is looked into."""
BEAM = 64
"""By default, so many candidates are kept while a HNSW graph is searched."""
SAMPLES = 64
"""Vectors to train with, for each list of an IVF index."""
FEWEST_SAMPLES = 1 << 16
STEP = 1 << 16
"""Vectors that are added at once."""


def make(factory: str, dim: int) -> Any:
    """An empty index of inner products.

    Raises:
      UserError: FAISS can't read the string.
    """
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(
            f"retrieval.index={factory}: FAISS makes no such index of {dim} numbers "
            f"({_reason(error)}): use Flat, HNSW32, SQfp16, IVF4096,Flat or another "
            "of its factory strings"
        ) from error


def fill(index: Any, vectors: np.ndarray) -> None:
    """Trains with some of the vectors, the same at every build, and adds all of them.

    Raises:
      UserError: there are too few vectors for this type.
    """
    count = len(vectors)
    ivf = _ivf(index)
    wanted = max(FEWEST_SAMPLES, SAMPLES * (ivf.nlist if ivf else 0))
    chosen = np.random.default_rng(0).choice(count, min(wanted, count), replace=False)
    # An earlier search may have set it.
    faiss.cvar.distance_compute_blas_threshold = USUAL
    try:
        index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    except RuntimeError as error:
        raise UserError(
            f"retrieval.index: can't be trained with {len(chosen):,} vectors "
            f"({_reason(error)}): choose fewer lists, or Flat"
        ) from error
    for start in range(0, count, STEP):
        index.add(np.ascontiguousarray(vectors[start : start + STEP]))


def set_parameters(index: Any, parameters: str) -> None:
    """Sets how hard the index searches.

    Args:
      parameters: as FAISS names them, or empty for our defaults.

    Raises:
      UserError: FAISS doesn't know them, or this type has none such.
    """
    graph = _innermost(index)
    if ivf := _ivf(index):
        ivf.nprobe = max(1, ivf.nlist // LISTS)
    elif isinstance(graph, faiss.IndexHNSW):
        graph.hnsw.efSearch = BEAM
    if not parameters:
        return
    try:
        faiss.ParameterSpace().set_index_parameters(index, parameters)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"retrieval.index_parameters={parameters}: not of this index "
            f"({_reason(error)}): write nprobe=64 for IVF, efSearch=128 for HNSW, or "
            "leave it empty"
        ) from error


def search(
    index: Any, queries: np.ndarray, k: int, *, together: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers [n, k] of the vectors found, best first, ties by number.

    Args:
      queries: unit vectors, float32 [n, dim].
      k: at most the number of vectors.
      together: all queries at once, whatever the type; for indexes on GPUs.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    # FAISS (1.15.1) compares it with queries times width. It holds for all indices.
    faiss.cvar.distance_compute_blas_threshold = ONE_BY_ONE
    kinds = (faiss.IndexIVF, faiss.IndexHNSW, faiss.IndexScalarQuantizer)
    together = together or isinstance(faiss.downcast_index(index), kinds)
    step = len(queries) if together else 1
    wanted = min(k + SPARE, index.ntotal)
    found = [
        index.search(queries[start : start + step], wanted)
        for start in range(0, len(queries), step)
    ]
    scores, rows = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def on_gpus(index: Any, count: int) -> Any:
    """A flat index, split over GPUs, in float16.

    Raises:
      UserError: there is no faiss-gpu, or there are fewer GPUs.
    """
    if not hasattr(faiss, "StandardGpuResources"):
        raise UserError(
            f"retrieval.gpus={count}: the installed FAISS has no GPU part: install "
            "faiss-gpu in place of faiss-cpu, or set it to 0"
        )
    if count > (visible := faiss.get_num_gpus()):
        raise UserError(
            f"retrieval.gpus={count}: FAISS sees {visible}: lower it, or give the "
            "inference process more (placement.inference.devices)"
        )
    options = faiss.GpuMultipleClonerOptions()
    options.shard, options.useFloat16 = True, True
    resources = [faiss.StandardGpuResources() for _ in range(count)]
    return faiss.index_cpu_to_gpu_multiple_py(
        resources, index, options, gpus=list(range(count))
    )


def bytes_per_vector(factory: str, dim: int) -> float:
    """Memory that a vector takes in an index of this type.

    Raises:
      UserError: see ``make``.
    """
    made = make(factory, dim)  # owns what is in it
    return _bytes_of(made)


def _bytes_of(index: Any) -> float:
    """Memory of a vector in this index and those in it."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _bytes_of(index.index)
    if isinstance(index, faiss.IndexIDMap):
        return _bytes_of(index.index) + 8
    if isinstance(index, faiss.IndexRefine):
        return _bytes_of(index.base_index) + _bytes_of(index.refine_index)
    if isinstance(index, faiss.IndexHNSW):
        # Twice M links on the lowest level of the graph; few vectors are on others.
        links = index.hnsw.nb_neighbors(0) * 4
        return index.storage.sa_code_size() + links + 12
    # An IVF index keeps each vector's number, and no list in its code.
    return index.sa_code_size() + (8 if _ivf(index) else 0)


def _innermost(index: Any) -> Any:
    """What searches behind rotations and before candidates are scored again."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        return _innermost(index.index)
    if isinstance(index, faiss.IndexRefine):
        return _innermost(index.base_index)
    return index


def _ivf(index: Any) -> Any:
    """The IVF part of an index, or None."""
    return faiss.try_extract_index_ivf(index)


def _reason(error: Exception) -> str:
    """FAISS's own words, without the place in its sources."""
    said = " ".join(str(error).split())
    return re.sub(r"^Error in .*? at \S+:\d+: (Error: '.*?' failed: )?", "", said)[:160]
