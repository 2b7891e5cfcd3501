"""Attention in blocks: the dense formula's values and gradients, without its buffer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import full_attention, segment_mask
from models.blocked_attention import blocked_attention
from models.branches import Branches, branch_mask

SEGMENTS = {
    "one": np.ones((2, 37), np.int32),
    "packed": np.array([[1] * 20 + [2] * 3 + [3] * 9 + [0] * 5, [1] * 4 + [2] * 33]),
    "padded": np.array([[1] * 5 + [0] * 32, [0] * 37]),
    "out of order": np.array([[3] * 10 + [1] * 17 + [2] * 10, [2] * 30 + [1] * 7]),
}


def case(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = [(2, 37, 6, 8), (2, 37, 2, 8), (2, 37, 2, 8), (2, 37, 6, 8)]
    arrays = zip(keys, shapes, strict=True)
    return [jax.random.normal(key, shape) for key, shape in arrays]


def dense(q, k, v, segments, *, window):
    return full_attention(q, k, v, segment_mask(segments, window))


@partial(jax.jit, static_argnums=0, static_argnames=("window", "block"))
def value_and_grads(attend, q, k, v, segments, weight, **static):
    """One program for all segments; the dense one for all blocks too."""

    def attended(q, k, v):
        return attend(q, k, v, segments, **static)

    def total(*args):
        return jnp.sum(attended(*args) * weight)

    return attended(q, k, v), jax.grad(total, argnums=(0, 1, 2))(q, k, v)


@pytest.mark.parametrize("block", [4, 16, 64])
@pytest.mark.parametrize("window", [0, 1, 7, 16])
@pytest.mark.parametrize("name", SEGMENTS)
def test_equals_the_dense_formula(name, window, block):
    q, k, v, weight = case()
    segments = jnp.asarray(SEGMENTS[name], jnp.int32)
    real = (segments > 0)[..., None, None]
    weight = jnp.where(real, weight, 0.0)
    given = (q, k, v, segments, weight)
    want, expected = value_and_grads(dense, *given, window=window)
    got, grads = value_and_grads(blocked_attention, *given, window=window, block=block)
    np.testing.assert_allclose(jnp.where(real, got - want, 0.0), 0.0, atol=3e-6)
    assert np.isfinite(got).all()
    for mine, theirs in zip(grads, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbour():
    """To the bit: blocks that are read for another row's sake add nothing."""
    q, k, v, _ = case()
    attend = jax.jit(lambda *args: blocked_attention(*args, block=4))
    packed = jnp.asarray(SEGMENTS["packed"], jnp.int32)
    alone = packed.at[1].set(jnp.arange(37))
    both = [attend(q, k, v, segments)[0] for segments in (packed, alone)]
    np.testing.assert_array_equal(*both)


def test_blocks_of_other_segments_are_not_read():
    """A NaN in an earlier segment's block would spread through 0 * NaN if it were."""
    q, k, v, _ = case()
    segments = jnp.asarray([[1] * 16 + [2] * 21, [1] * 16 + [2] * 21], jnp.int32)
    out = blocked_attention(q, k, v.at[:, :16].set(jnp.nan), segments, block=8)
    assert np.isfinite(out[:, 16:]).all() and np.isnan(out[:, :16]).all()


def test_no_buffer_is_as_large_as_all_scores():
    q, k, v = (jnp.ones((1, 512, 2, 4)) for _ in range(3))
    segments = jnp.ones((1, 512), jnp.int32)

    def loss(q, k, v):
        return blocked_attention(q, k, v, segments, block=32).sum()

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (int(np.prod(var.aval.shape)) for var in eqn.outvars)
            for inner in jax.core.jaxprs_in_params(eqn.params):
                yield from sizes(inner)

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    assert max(sizes(jaxpr.jaxpr)) < 512 * 512 / 8


def branched_rows():
    """A trunk of 14 with branches at 9 and 4, and a segment of its own; another row."""
    segments = np.array([[1] * 14 + [2] * 7 + [3] * 8 + [4] * 5 + [0] * 3, [1] * 37])
    parents, cuts, positions = (np.zeros((2, 37), np.int32) for _ in range(3))
    parents[0, 14:29], cuts[0, 14:21], cuts[0, 21:29] = 1, 9, 4
    positions[0, :34] = [*range(14), *range(9, 16), *range(4, 12), *range(5)]
    positions[1] = range(37)
    arrays = [jnp.asarray(x, jnp.int32) for x in (parents, cuts, positions)]
    return jnp.asarray(segments, jnp.int32), Branches(*arrays)


@pytest.mark.parametrize("window", [0, 1, 6])
def test_a_branch_computes_what_its_whole_text_does(window):
    """Each text by itself, dense: the oracle of what a branch sees of its trunk."""
    q, k, v, _ = case()
    segments, branches = branched_rows()
    texts = {14: [*range(14)], 21: [*range(9), *range(14, 21)]}
    texts |= {29: [*range(4), *range(21, 29)], 34: [*range(29, 34)]}
    mask = branch_mask(segments, branches, window)
    got = full_attention(q, k, v, mask)
    for end, places in texts.items():
        places = np.array(places)
        own = [x[:1, places] for x in (q, k, v)]
        ones = jnp.ones((1, len(places)), jnp.int32)
        want = full_attention(*own, segment_mask(ones, window))[0]
        new = places >= end - (len(places) if end in (14, 34) else {21: 7, 29: 8}[end])
        np.testing.assert_allclose(got[0, places[new]], want[new], atol=2e-6)


@pytest.mark.parametrize("block", [4, 16, 64])
@pytest.mark.parametrize("window", [0, 1, 6])
def test_branches_equal_the_dense_formula(window, block):
    q, k, v, weight = case()
    segments, branches = branched_rows()
    weight = jnp.where((segments > 0)[..., None, None], weight, 0.0)

    def dense(q, k, v):
        return full_attention(q, k, v, branch_mask(segments, branches, window))

    def blocked(q, k, v):
        static = {"window": window, "block": block}
        return blocked_attention(q, k, v, segments, branches=branches, **static)

    (want, expected), (got, grads) = (
        jax.jit(jax.value_and_grad(lambda *x, f=f: jnp.sum(f(*x) * weight), (0, 1, 2)))(
            q, k, v
        )
        for f in (dense, blocked)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for mine, theirs in zip(grads, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
