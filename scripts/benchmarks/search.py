"""Flat search: milliseconds a query beside both of FAISS's own ways, on one thread.

`direct` compares one query after another with all vectors, `product` all of them by a
matrix product; the turns alternate. CPU time, so that other programs count less. Every
query's result is also compared, to the bit, with what it gets alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np

from benchmarks import harness
from models.errors import UserError
from retrieval import flat

K = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--together", default="1,8,64", help="queries of a call")


def run(args: argparse.Namespace) -> harness.Result:
    """Queries per second in the largest call; every size of call in the notes."""
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    try:
        sizes = [int(size) for size in args.together.split(",")]
    except ValueError:
        sizes = []
    if min(sizes, default=0) < 1:
        raise UserError(f"--together {args.together}: needs numbers such as 1,8,64")
    vectors, queries = (_unit(rng, n, args.dim) for n in (args.vectors, max(sizes)))
    index = faiss.IndexFlatIP(args.dim)
    index.add(vectors)
    ways: dict[str, Callable[[np.ndarray], object]] = {
        "ours": lambda some: flat.search(index, some, K),
        "direct": lambda some: _by_faiss(index, some, 1 << 30),
        "product": lambda some: _by_faiss(index, some, 1),
    }
    notes: dict[str, object] = {}
    for size in sizes:
        seconds = {name: [] for name in ways}
        for turn in range(args.repeats + 1):
            for name, way in ways.items():
                start = time.process_time()
                way(queries[:size])
                if turn:  # the first one is warm-up
                    seconds[name].append(time.process_time() - start)
        notes[f"ms a query, {size} together"] = {
            name: _spread([1e3 * s / size for s in found])
            for name, found in seconds.items()
        }
    notes["equal to the bit alone"] = all(
        np.array_equal(flat.search(index, queries[i : i + 1], K)[part][0], found)
        for part, every in enumerate(flat.search(index, queries, K))
        for i, found in enumerate(every[:16])
    )
    what = f"{size} queries, {args.vectors:,} vectors of {args.dim}, faiss "
    return harness.Result(
        what=what + faiss.__version__,
        unit="queries",
        amount=size,
        seconds=seconds,
        notes=notes,
    )


def _unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    found = rng.standard_normal((count, dim), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _by_faiss(index: faiss.IndexFlat, queries: np.ndarray, threshold: int) -> object:
    faiss.cvar.distance_compute_blas_threshold = threshold
    return index.search(queries, K + flat.SPARE)


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
    }
