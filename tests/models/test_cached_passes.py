"""Prefill and decode, in both orders of the weights, are the whole-row forward."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import cache as cache_of
from models import forward
from models.cache import copy_pages, init_cache
from models.unstacked import unstack
from tests.models.oracle import pair

pytestmark = pytest.mark.usefixtures("compiled_quickly")

CHUNK, PAGE, PAGES = 4, 8, 61
FAMILIES = ("qwen3", "qwen2", "llama", "olmo3")


@pytest.mark.parametrize("weights_first", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_passes_are_the_whole_row_forward(family, weights_first):
    fields = {"num_hidden_layers": 4, "tie_word_embeddings": family == "qwen3"}
    if family == "olmo3":
        fields["sliding_window"] = 5
    _, config, stacked = pair(family, seed=1, **fields)
    params = unstack(stacked, config, weights_first=weights_first)
    tokens = np.random.default_rng(2).integers(0, 97, (2, 12))
    logits = forward.forward(stacked, config, tokens)
    cache = init_cache(config, 6, PAGE, jnp.float32)
    prefill = jax.jit(forward.prefill, static_argnums=1)
    step = jax.jit(forward.decode_step, static_argnums=1)
    # Row 0 into page 4 and row 1 into page 1, two chunks each; one row of padding.
    chunks = np.concatenate(
        [tokens[:, :8].reshape(4, CHUNK), np.zeros((1, CHUNK), int)]
    )
    cache, hidden = prefill(
        params,
        config,
        cache,
        chunks,
        np.array([[4, 6], [4, 6], [1, 6], [1, 6], [6, 6]]),
        np.array([0, 4, 0, 4, 0]),
        np.array([3, 3, 3, 1, 0]),
    )
    got = forward.unembed(params, config, hidden)
    expected = [logits[0, 3], logits[0, 7], logits[1, 3], logits[1, 5]]
    np.testing.assert_allclose(got[:4], expected, rtol=1e-4, atol=1e-5)
    # Page 3 becomes a copy of page 4, which stays; the second pair isn't to be copied.
    cache = copy_pages(cache, jnp.array([4, 1]), jnp.array([3, 0]), np.int32(1))
    tables = np.array([[1, 5], [3, 0], [4, 2]])
    active = np.array([True, True, False])
    for at in range(8, 12):
        now = np.array([tokens[1, at], tokens[0, at], 5])
        cache, hidden = step(params, config, cache, now, tables, np.full(3, at), active)
        got = forward.unembed(params, config, hidden)[:2]
        expected = [logits[1, at], logits[0, at]]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    for tensor in jax.tree.leaves(cache):
        assert not np.asarray(tensor[2]).any()  # where the inactive row would write
        assert np.asarray(tensor[0]).any()


def test_a_prepared_model_holds_no_weight_twice():
    _, config, stacked = pair("qwen3", tie_word_embeddings=True)
    for weights_first in (False, True):
        params = unstack(stacked, config, weights_first=weights_first)
        sizes = [sum(x.size for x in jax.tree.leaves(p)) for p in (params, stacked)]
        assert sizes[0] == sizes[1]


def test_what_is_16_bits_is_not_made_32_and_back():
    # XLA for CPUs did so with every page in every step, and with every weight.
    _, config, params = pair("qwen3", seed=1)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    params = unstack(params, config, weights_first=True)
    cache = init_cache(config, PAGES, PAGE, jnp.bfloat16)
    step = jax.jit(forward.decode_step, static_argnums=1, donate_argnums=2)
    rows = np.zeros(3, int)
    tables, active = np.array([[1], [2], [3]]), np.ones(3, bool)
    lowered = step.lower(params, config, cache, rows, tables, rows, active)
    text = lowered.compile().as_text()
    assert "u16[61," in text  # the pages, by their number
    assert "f32[61," not in text and "f32[61]" not in text
    # A product of 16 bits whose result has 16, it makes of float32 copies.
    products = re.findall(
        r"stablehlo.dot_general.* : \((.*)\) -> (.*)", lowered.as_text()
    )
    assert len(products) > 4 * config.num_layers
    for operands, result in products:
        assert operands.count("bf16>") == 2 and result.endswith("xf32>")


def test_pages_of_16_bits_hold_what_was_written():
    _, config, _ = pair("qwen3", seed=1)
    heads, width = config.num_kv_heads, config.head_dim
    made = np.random.default_rng(0).normal(size=(2, CHUNK, heads, width))
    made = jnp.asarray(made, jnp.bfloat16)
    [layer, *_] = init_cache(config, 3, PAGE, jnp.bfloat16)
    pages = jnp.array([2, 0])
    layer = cache_of.write_chunks(layer, made, -made, pages, jnp.array([0, CHUNK]))
    keys, values = cache_of.read_pages(layer, pages)
    assert keys.dtype == values.dtype == jnp.bfloat16
    for row, at in ((0, 0), (1, CHUNK)):
        there = slice(at, at + CHUNK)
        expected = np.asarray(made[row].astype(jnp.float32))
        found = np.asarray(keys[row, :, :, there].astype(jnp.float32))
        np.testing.assert_array_equal(found.transpose(2, 0, 1), expected)
        found = np.asarray(values[row, :, there].astype(jnp.float32))
        np.testing.assert_array_equal(found.transpose(1, 0, 2), -expected)
    token = write_one(layer, made[:, 0], pages)
    keys, _ = cache_of.read_pages(token, pages)
    np.testing.assert_array_equal(keys[:, :, :, 1], made[:, 0])


def write_one(layer, numbers, pages):
    return cache_of.write_tokens(layer, numbers, numbers, pages, jnp.array([1, 1]))
