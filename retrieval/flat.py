"""Exact search of flat vectors: fast candidates, scored again one by one.

FAISS compares one query with all vectors directly, and several by a matrix product,
which is many times faster and sums in another order: the last bits of a score, and with
them the order of near ties, would depend on how many queries are asked together. So its
scores only choose candidates. Those are scored again in float64, where the product of
two float32 numbers is exact, each by itself; and they are enough once the worst
candidate is so far below the k-th best that rounding cannot explain it. If they are not
enough, more are taken.
"""

import faiss
import numpy as np

SPARE = 8
"""Candidates beyond those wanted, at first."""
MOST = 4096
"""Candidates at which the search for more ends. So many within rounding of each other
are copies of one text, or have no word in common with the query: scores of 0, which no
order of sums changes. Which of so many copies are found may depend on the company."""
ELEMENTS = 1 << 22
"""Numbers that are multiplied at once."""

TOGETHER = 3
"""Queries together from which on the matrix product is faster; alone it takes twice as
long as the direct way."""


def rounding(dim: int) -> float:
    """How far a float32 score of two unit vectors is off at most, in any order of sums.

    ``n u / (1 - n u)`` for a sum of n products of unit roundoff ``u`` (Higham, Accuracy
    and Stability of Numerical Algorithms, 3.1), and one more for vectors whose length
    is rounded too.
    """
    unit = 2.0**-24
    return (dim + 2) * unit / (1 - (dim + 2) * unit) * (1 + 1e-5)


def vectors_of(index: faiss.IndexFlat) -> np.ndarray:
    """The index's own vectors [n, dim], float32, not copied."""
    flat = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return flat.reshape(index.ntotal, index.d)


def search(
    index: faiss.IndexFlat, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers [n, k] of the best vectors, best first, ties by number.

    A query gets the same, to the bit, alone and in any company.

    Args:
      index: flat, inner product, of unit vectors.
      queries: unit vectors, float32 [n, dim].
      k: at most the number of vectors.

    Returns:
      scores, float32: the float64 sum, rounded; and numbers, -1 (with a score of minus
      infinity) where FAISS finds no further vector.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    vectors, error = vectors_of(index), 2 * rounding(index.d)
    scores = np.empty((len(queries), k), np.float32)
    numbers = np.empty((len(queries), k), np.int64)
    # FAISS (1.15.1) compares it with queries times width. It holds for all indices, but
    # another thread's value could only cost time.
    faiss.cvar.distance_compute_blas_threshold = TOGETHER * index.d
    left, wanted = np.arange(len(queries)), min(k + SPARE, index.ntotal)
    while len(left):
        rough, rows = index.search(queries[left], wanted)
        exact = _score(vectors, queries[left], rows)
        order = np.lexsort((rows, -exact), axis=1)[:, :k]
        scores[left] = np.take_along_axis(exact, order, 1)
        numbers[left] = np.take_along_axis(rows, order, 1)
        if wanted >= min(index.ntotal, max(MOST, k + SPARE)):
            break
        # Of the two errors one is the worst candidate's, one that of those beyond it.
        left = left[scores[left, -1] <= rough[:, -1] + error]
        wanted = min(4 * wanted, index.ntotal, max(MOST, k + SPARE))
    return scores, numbers


def _score(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Float32 scores of each query with its rows [n, m], each summed by itself."""
    found = np.empty(rows.shape, np.float32)
    step = max(1, ELEMENTS // vectors.shape[1])
    flat, at = rows.ravel(), np.repeat(np.arange(len(queries)), rows.shape[1])
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        products = vectors[flat[part]].astype(np.float64)
        products *= queries[at[part]]
        found.reshape(-1)[part] = products.sum(axis=1)
    found[rows < 0] = -np.inf
    return found
