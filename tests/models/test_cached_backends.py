"""Attention over the cache by each backend: numbers, layouts, what is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cached_backends, forward, paged_kernel
from models.cache import (
    HeadsFirst,
    TokensFirst,
    init_cache,
    read_pages,
    shape_of,
    write_chunks,
    write_tokens,
)
from models.errors import UserError
from models.unstacked import unstack
from tests.models.oracle import pair

PAGE = 32
POSITIONS = np.array([0, 31, 32, 100, 69, 127])
LIVE = np.array([True, True, True, True, False, True])


def pages_of(rng, rows, most):
    """Different pages for all rows, in any order; beyond a row's end, none."""
    table = rng.permutation(rows * most).reshape(rows, most)
    for row, last in enumerate(POSITIONS):
        table[row, last // PAGE + 1 :] = rows * most + 7
    return table.astype(np.int32)


def world(heads, kv_heads, width, dtype):
    rng = np.random.default_rng(0)
    rows, most = len(POSITIONS), 4
    q = rng.standard_normal((rows, heads, width))
    keys, values = rng.standard_normal((2, rows * most, PAGE, kv_heads, width))
    table = pages_of(rng, rows, most)
    for row, last in enumerate(POSITIONS):  # left behind by an earlier row
        page = table[row, last // PAGE]
        keys[page, last % PAGE + 1 :] = values[page, last % PAGE + 1 :] = np.nan
    return *(jnp.asarray(x, dtype) for x in (q, keys, values)), jnp.asarray(table)


def oracle(q, keys, values, table, window):
    """Float64, row by row, from the formula."""
    q, keys, values = (np.asarray(x, np.float64) for x in (q, keys, values))
    table = np.asarray(table)
    groups = q.shape[1] // keys.shape[2]
    out = np.zeros(q.shape)
    for row, last in enumerate(POSITIONS):
        first = max(0, last - window + 1) if window else 0
        at = np.arange(first, last + 1)
        k, v = (x[table[row, at // PAGE], at % PAGE] for x in (keys, values))
        k, v = (np.repeat(x, groups, axis=1) for x in (k, v))
        scores = np.einsum("NH,SNH->NS", q[row], k) / q.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        out[row] = np.einsum("NS,SNH->NH", weights, v)
    return out


def layer_of(backend, keys, values):
    if cached_backends.LAYOUTS[backend] is TokensFirst:
        return TokensFirst(keys, values)
    return HeadsFirst(keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3))


@pytest.mark.parametrize("backend", ["blocks", "pallas"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "window"),
    [(6, 2, 64, 0), (4, 4, 128, 0), (8, 1, 128, 40), (4, 2, 64, 7), (20, 1, 16, 0)],
)
def test_one_query_per_row_is_exact(backend, heads, kv_heads, width, window):
    q, keys, values, table = world(heads, kv_heads, width, jnp.float32)

    @jax.jit
    def run(q, layer):
        attend = cached_backends.token_attention_by(
            backend, table, jnp.asarray(POSITIONS), LIVE, page=PAGE, window=window
        )
        return attend(q, layer)

    got = np.asarray(run(q, layer_of(backend, keys, values)))
    expected = oracle(q, keys, values, table, window)
    np.testing.assert_allclose(got[LIVE], expected[LIVE], atol=3e-6, rtol=2e-5)


@pytest.mark.parametrize("backend", ["blocks", "pallas"])
def test_in_16_bits_the_error_is_that_of_rounding(backend):
    q, keys, values, table = world(6, 2, 64, jnp.bfloat16)
    attend = cached_backends.token_attention_by(
        backend, table, jnp.asarray(POSITIONS), LIVE, page=PAGE
    )
    got = attend(q, layer_of(backend, keys, values))
    assert got.dtype == jnp.bfloat16
    expected = oracle(q, keys, values, table, 0)
    np.testing.assert_allclose(
        np.float32(got)[LIVE], expected[LIVE], atol=2e-2, rtol=2e-2
    )


def test_where_a_row_is_cut_depends_on_shapes_and_covers_all_pages(monkeypatch):
    for rows, kv_heads, pages, size in [
        (8, 8, 16, 128),
        (64, 8, 16, 128),
        (1, 1, 5, 32),
    ]:
        parts = paged_kernel.parts_of(rows, kv_heads, pages, size)
        assert 1 <= parts <= pages and parts * -(-pages // parts) >= pages
    assert paged_kernel.parts_of(8, 8, 16, 128) == 8  # 64 programs are too few
    assert paged_kernel.parts_of(128, 8, 16, 128) == 1
    assert paged_kernel.parts_of(128, 8, 256, 128) == 8  # 32,768 positions: 4,096 each
    # In one part and in several, the same.
    q, keys, values, table = world(6, 2, 64, jnp.float32)
    many = paged_kernel.paged_attention(q, keys, values, table, POSITIONS)
    monkeypatch.setattr(paged_kernel, "PROGRAMS", 1)
    one = paged_kernel.paged_attention(q, keys, values, table, POSITIONS)
    assert paged_kernel.parts_of(6, 2, 4, PAGE) == 1
    np.testing.assert_allclose(many, one, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize("family", ["qwen3", "olmo3"])
def test_prefill_and_decode_by_the_kernel_are_the_whole_row_forward(family):
    fields = {"head_dim": 16, "hidden_size": 64}
    if family == "olmo3":  # every fourth layer sees all
        fields |= {"num_hidden_layers": 4, "sliding_window": 5}
    _, config, stacked = pair(family, seed=1, **fields)
    params = unstack(stacked, config)
    tokens = np.random.default_rng(2).integers(0, 97, (2, 24))
    logits = forward.forward(stacked, config, tokens)
    cache = init_cache(config, 5, 16, jnp.float32, TokensFirst)
    assert shape_of(cache) == (5, 16)
    assert cache[0].keys.shape == (5, 16, config.num_kv_heads, 16)
    tables = np.array([[4, 2], [1, 0], [5, 5]])
    cache, _ = jax.jit(forward.prefill, static_argnums=1)(
        params,
        config,
        cache,
        np.concatenate([tokens[:, :16], np.zeros((1, 16), int)]),
        tables,
        np.zeros(3, int),
        np.zeros(3, int),
    )
    step = jax.jit(forward.decode_step, static_argnums=1, static_argnames="attention")
    active = np.array([True, True, False])
    for at in range(16, 24):
        now = np.array([tokens[0, at], tokens[1, at], 5])
        cache, hidden = step(
            params,
            config,
            cache,
            now,
            tables,
            np.full(3, at),
            active,
            attention="pallas",
        )
        got = forward.unembed(params, config, hidden)[:2]
        np.testing.assert_allclose(got, logits[:, at], rtol=1e-4, atol=1e-5)
    for tensor in jax.tree.leaves(cache):
        assert not np.asarray(tensor[3]).any()  # a page of nobody


def test_both_layouts_hold_the_same(tiny_config):
    rng = np.random.default_rng(0)
    shape = (2, 4, tiny_config.num_kv_heads, tiny_config.head_dim)
    k, v = rng.standard_normal((2, *shape))
    read = []
    for layout in (HeadsFirst, TokensFirst):
        layer = init_cache(tiny_config, 3, 8, jnp.float32, layout)[0]
        # The second chunk goes nowhere, and so does the first token.
        layer = write_chunks(layer, k, v, np.array([2, 3]), np.array([4, 0]))
        layer = write_tokens(
            layer, k[:, 0], v[:, 0], np.array([4, 1]), np.array([3, 5])
        )
        read.append(read_pages(layer, np.array([0, 1, 2])))
    for one, other in zip(*read, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.asarray(read[0][1][2, :, 4:]).any()
    assert not np.asarray(read[0][1][0]).any()


H100 = SimpleNamespace(platform="gpu", compute_capability="9.0")
CPU = SimpleNamespace(platform="cpu")
ABLE = dict(head_dim=128, page_size=128, dtype=jnp.bfloat16, device=H100)


@pytest.mark.parametrize(
    ("backend", "change", "words"),
    [
        ("fa3", {"device": CPU}, "not on cpu: use blocks"),
        (
            "fa3",
            {"device": SimpleNamespace(platform="gpu", compute_capability="8.0")},
            "compute capability 9.0: H100, H200), not on a GPU of 8.0",
        ),
        ("fa3", {"dtype": jnp.float32}, "not in float32: use blocks"),
        ("fa3", {"head_dim": 64}, "not of 64: use pallas"),
        ("fa3", {"page_size": 64}, "not of 64: set engine.page_size to 128"),
        ("pallas", {"device": SimpleNamespace(platform="tpu")}, "not on tpu"),
        ("pallas", {"head_dim": 96}, "not of 96: use blocks"),
        ("pallas", {"head_dim": 8}, "not of 8: use blocks"),
        ("pallas", {"page_size": 96}, "not of 96: set engine.page_size to 128"),
    ],
)
def test_what_a_backend_cannot_do_is_one_line(backend, change, words):
    with pytest.raises(UserError, match=f"engine.attention={backend}: ") as caught:
        cached_backends.choose(backend, **ABLE | change)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_it_can_do_is_chosen(monkeypatch):
    for asked in ("auto", "blocks"):
        odd = {"head_dim": 10, "page_size": 7, "device": CPU}
        assert cached_backends.choose(asked, **ABLE | odd) == "blocks"
    assert cached_backends.choose("pallas", **ABLE) == "pallas"
    assert cached_backends.choose("pallas", **ABLE | {"device": CPU}) == "pallas"
    find = cached_backends.importlib.util.find_spec
    monkeypatch.setattr(cached_backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed: pip install flash-attn3-jax"):
        cached_backends.choose("fa3", **ABLE)
    monkeypatch.setattr(cached_backends.importlib.util, "find_spec", lambda name: find)
    assert cached_backends.choose("fa3", **ABLE | {"page_size": 256}) == "fa3"


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("backend", ["pallas", "fa3"])
def test_a_kernel_agrees_with_blocks_on_a_gpu(backend):
    """The one test to look at when a card comes: 32 ragged rows in bfloat16."""
    rng = np.random.default_rng(0)
    rows, most, page = 32, 8, 128
    try:
        chosen = dict(ABLE, device=jax.devices()[0])
        cached_backends.choose(backend, **chosen)
    except UserError as error:
        pytest.skip(str(error))
    q = jnp.asarray(rng.standard_normal((rows, 32, 128)), jnp.bfloat16)
    shape = (2, rows * most, page, 8, 128)
    keys, values = jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
    table = rng.permutation(rows * most).reshape(rows, most).astype(np.int32)
    positions = rng.integers(0, most * page, rows).astype(np.int32)
    live = np.ones(rows, bool)
    found = []
    for one in ("blocks", backend):
        attend = cached_backends.token_attention_by(
            one, table, positions, live, page=page
        )
        found.append(np.float32(jax.jit(attend)(q, layer_of(one, keys, values))))
    np.testing.assert_allclose(found[1], found[0], atol=2e-2, rtol=2e-2)
