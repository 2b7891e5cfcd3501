"""Prefill and decode, in both orders of the weights, are the whole-row forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward
from models.cache import copy_chunks, init_cache
from tests.models.oracle import pair

CHUNK, BLOCK, SLOTS, LENGTH = 4, 8, 3, 16
FAMILIES = ("qwen3", "qwen2", "llama", "olmo3")


@pytest.mark.parametrize("weights_first", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_passes_are_the_whole_row_forward(family, weights_first):
    fields = {"num_hidden_layers": 4, "tie_word_embeddings": family == "qwen3"}
    if family == "olmo3":
        fields["sliding_window"] = 5
    _, config, stacked = pair(family, seed=1, **fields)
    params = forward.unstack(stacked, config, weights_first=weights_first)
    tokens = np.random.default_rng(2).integers(0, 97, (2, 12))
    logits = forward.forward(stacked, config, tokens)
    cache = init_cache(config, SLOTS, LENGTH, jnp.float32)
    prefill = jax.jit(forward.prefill, static_argnums=1, static_argnames="block")
    step = jax.jit(forward.decode_step, static_argnums=1, static_argnames="block")
    # Row 0 to slot 2 and row 1 to slot 0, two chunks each; one row of padding.
    chunks = np.concatenate(
        [tokens[:, :8].reshape(4, CHUNK), np.zeros((1, CHUNK), int)]
    )
    cache, hidden = prefill(
        params,
        config,
        cache,
        chunks,
        np.array([2, 2, 0, 0, SLOTS]),
        np.array([0, 4, 0, 4, 0]),
        np.array([3, 3, 3, 1, 0]),
        block=BLOCK,
    )
    got = forward.unembed(params, config, hidden)
    expected = [logits[0, 3], logits[0, 7], logits[1, 3], logits[1, 5]]
    np.testing.assert_allclose(got[:4], expected, rtol=1e-4, atol=1e-5)
    # Slot 1 becomes a copy of slot 2; slot 2 stays where it is.
    pairs = (jnp.asarray(x) for x in ([2, 2], [1, 1], [0, 4]))
    cache = copy_chunks(cache, *pairs, np.int32(2), chunk=CHUNK)
    active = np.array([True, True, False])
    for at in range(8, 12):
        now = np.array([tokens[1, at], tokens[0, at], 5])
        cache, hidden = step(
            params, config, cache, now, np.full(SLOTS, at), active, block=BLOCK
        )
        got = forward.unembed(params, config, hidden)[:2]
        expected = [logits[1, at], logits[0, at]]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    for tensor in jax.tree.leaves(cache):
        assert not np.asarray(tensor)[2, :, 8:].any()  # the inactive slot


def test_a_prepared_model_holds_no_weight_twice():
    _, config, stacked = pair("qwen3", tie_word_embeddings=True)
    for weights_first in (False, True):
        params = forward.unstack(stacked, config, weights_first=weights_first)
        sizes = [sum(x.size for x in jax.tree.leaves(p)) for p in (params, stacked)]
        assert sizes[0] == sizes[1]
