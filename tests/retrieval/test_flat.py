"""Exact search: the same to the bit in any company, and what float64 says."""

import faiss
import numpy as np
import pytest

from retrieval import flat


def unit(rng, *shape):
    found = rng.standard_normal(shape, dtype=np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def made(vectors):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


@pytest.fixture(scope="module")
def crowd():
    """5,000 vectors, most of them within rounding of 50 directions."""
    rng = np.random.default_rng(0)
    centres = unit(rng, 50, 96)
    noise = rng.standard_normal((5000, 96), dtype=np.float32) * 1e-8
    vectors = centres[rng.integers(50, size=5000)] + noise
    return vectors, np.concatenate([centres[:40], unit(rng, 216, 96)])


def test_a_query_gets_the_same_alone_and_in_any_company(crowd):
    vectors, queries = crowd
    index = made(vectors)
    scores, numbers = flat.search(index, queries, 3)
    for size in (1, 2, 8, 64):
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            some, found = flat.search(index, queries[part], 3)
            np.testing.assert_array_equal(some, scores[part])
            np.testing.assert_array_equal(found, numbers[part])


def test_it_finds_what_float64_finds_equal_scores_by_number(crowd):
    vectors, queries = crowd
    scores, numbers = flat.search(made(vectors), queries, 7)
    # The product of two float32 numbers is exact in float64.
    exact = (vectors[None].astype(np.float64) * queries[:64, None]).sum(-1)
    exact = exact.astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(5000), exact.shape), -exact))[:, :7]
    np.testing.assert_array_equal(numbers[:64], order)
    np.testing.assert_array_equal(scores[:64], np.take_along_axis(exact, order, 1))


@pytest.mark.parametrize("dim", [3, 96, 768])
def test_rounding_bounds_the_error_of_both_of_faisss_ways(dim):
    rng = np.random.default_rng(dim)
    vectors = np.abs(unit(rng, 2000, dim))  # no sum cancels: the worst case
    queries = np.abs(unit(rng, 16, dim))
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for threshold in (1, 1 << 30):
        faiss.cvar.distance_compute_blas_threshold = threshold
        scores, rows = made(vectors).search(queries, 2000)
        error = np.abs(scores - np.take_along_axis(exact, rows, 1)).max()
        assert 0 < error < flat.rounding(dim)


def test_copies_of_one_text_beyond_all_candidates_are_found_by_number():
    rng = np.random.default_rng(1)
    one = unit(rng, 1, 16)
    index = made(np.repeat(one, 3 * flat.MOST // 2, axis=0))
    scores, numbers = flat.search(index, one, 4)
    np.testing.assert_array_equal(numbers, [[0, 1, 2, 3]])
    assert (scores == scores[0, 0]).all()
