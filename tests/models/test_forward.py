"""The decoder agrees with transformers, and sees only what it may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward
from models.config import DecoderConfig
from models.errors import UserError
from tests.models.oracle import pair

run = jax.jit(forward.forward, static_argnums=1)

FAMILIES = ("qwen3", "qwen2", "llama", "olmo3")


def oracle(family: str, *, tie: bool, seed: int = 0):
    """A transformers model with every tensor random, and our config and params."""
    fields = {"tie_word_embeddings": tie, "num_hidden_layers": 4}
    if family == "qwen3":
        fields["head_dim"] = 16
    if family == "olmo3":
        fields["sliding_window"] = 5
    return pair(family, seed=seed, **fields)


def test_init_makes_the_tree_that_the_forward_pass_reads():
    for family in FAMILIES:
        _, config, params = oracle(family, tie=False)
        made = jax.eval_shape(lambda: forward.init(config, jax.random.key(0)))  # noqa: B023
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


def test_packed_segments_do_not_see_each_other():
    _, config, params = oracle("qwen3", tie=True)
    tokens = np.random.default_rng(1).integers(0, 97, (1, 20))
    segment_ids = np.array([[1] * 8 + [2] * 9 + [0] * 3])
    positions = np.array([[*range(8), *range(9), 0, 0, 0]])
    packed = run(params, config, tokens, positions=positions, segment_ids=segment_ids)
    first = run(params, config, tokens[:, :8])
    second = run(params, config, tokens[:, 8:17])
    np.testing.assert_allclose(packed[:, :8], first, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(packed[:, 8:17], second, rtol=1e-5, atol=1e-5)
    assert np.isfinite(packed).all()


def test_no_gradient_flows_from_a_logit_to_later_tokens():
    _, config, params = oracle("qwen2", tie=True)
    tokens = jnp.arange(12)[None]

    def logit_of_token_5(embed):
        logits = run(params | {"embed": embed}, config, tokens)
        return logits[0, 5, 0]

    untied = params | {"head": params["embed"].T}
    config = DecoderConfig.from_hf(config.to_hf() | {"tie_word_embeddings": False})
    params = untied
    reached = jnp.abs(jax.grad(logit_of_token_5)(params["embed"])).sum(-1) > 0
    assert reached[:12].tolist() == [True] * 6 + [False] * 6


def test_remat_leaves_the_gradient_alone():
    _, config, params = oracle("llama", tie=True)
    tokens = jnp.arange(10)[None]

    def loss(params, remat):
        return jnp.square(forward.hidden(params, config, tokens, remat=remat)).sum()

    plain, again = (
        jax.jit(jax.grad(loss), static_argnums=1)(params, r) for r in ("none", "block")
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_config_survives_the_round_trip_and_refuses_what_it_cannot_compute():
    _, config, _ = oracle("qwen3", tie=True)
    assert DecoderConfig.from_hf(config.to_hf()) == config
    hf = config.to_hf()
    for change in (
        {"model_type": "gpt2"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
        {"hidden_act": "gelu"},
    ):
        with pytest.raises(UserError, match="not supported"):
            DecoderConfig.from_hf(hf | change)
    del hf["hidden_size"]
    with pytest.raises(UserError, match="hidden_size"):
        DecoderConfig.from_hf(hf)
