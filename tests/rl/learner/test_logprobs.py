"""Chunked log-probs: equal to the whole-vocabulary formula, and without its buffer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward
from rl.learner.logprobs import token_logprobs


@pytest.fixture(scope="module")
def case(tiny_config, tiny_params):
    tokens = jax.random.randint(jax.random.key(1), (2, 11), 0, tiny_config.vocab_size)
    states = jax.jit(forward.hidden, static_argnums=1)
    hidden = states(tiny_params, tiny_config, tokens[:, :-1])
    return hidden, tokens[:, 1:]


def numpy_oracle(params, hidden, targets, temperature, valid):
    logits = np.asarray(hidden, np.float64) @ np.asarray(params["head"], np.float64)
    logits = logits[..., :valid] / temperature
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.asarray(targets)[..., None], -1)[..., 0]
    return chosen, -(np.exp(log_p) * log_p).sum(-1)


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("valid", [64, 50])
def test_matches_float64_numpy(tiny_config, tiny_params, case, chunk, valid):
    hidden, targets = case
    targets = targets % valid
    got = token_logprobs(
        tiny_params,
        tiny_config,
        hidden,
        targets,
        jnp.ones(targets.shape, bool),
        chunk=chunk,
        temperature=0.7,
        valid_vocab=valid,
    )
    want = numpy_oracle(tiny_params, hidden, targets, 0.7, valid)
    np.testing.assert_allclose(got[0], want[0], atol=2e-6)
    np.testing.assert_allclose(got[1], want[1], atol=2e-6)


def test_unwanted_tokens_change_nothing_and_cost_no_chunk(
    tiny_config, tiny_params, case
):
    hidden, targets = case
    wanted = np.zeros(targets.shape, bool)
    wanted[0, [1, 4, 9]] = wanted[1, [0, 3]] = True

    def loss(params, hidden, wanted):
        out, entropy = token_logprobs(
            params, tiny_config, hidden, targets, wanted, chunk=2
        )
        return jnp.sum(jnp.where(mask, out, 0.0)), (out, entropy)

    mask = jnp.asarray(wanted)
    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    some, got = run(tiny_params, hidden, mask)
    every, all_of_them = run(tiny_params, hidden, jnp.ones_like(mask))
    for part, whole in zip(got, all_of_them, strict=True):
        np.testing.assert_allclose(part[mask], whole[mask], atol=1e-6)
        assert not np.asarray(part[~mask]).any()
    for a, b in zip(jax.tree.leaves(some), jax.tree.leaves(every), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # Where a chunk is run, a NaN would spread into the gradient through 0 * NaN.
    unread, _ = run(tiny_params, hidden.at[:, 5:8].set(jnp.nan), mask)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(unread))


def test_gradients_do_not_depend_on_the_chunk(tiny_config, tiny_params, case):
    hidden, targets = case

    every = jnp.ones(targets.shape, bool)

    def loss(params, hidden, chunk):
        out, _ = token_logprobs(
            params, tiny_config, hidden, targets, every, chunk=chunk
        )
        return out.sum()

    whole = jax.grad(loss, argnums=(0, 1))(tiny_params, hidden, 64)
    parts = jax.grad(loss, argnums=(0, 1))(tiny_params, hidden, 3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(whole[0]["head"]).max() > 0


def test_tokens_beyond_the_tokenizer_get_no_gradient(tiny_config, tiny_params, case):
    hidden, targets = case

    every = jnp.ones(targets.shape, bool)

    def loss(params):
        out, entropy = token_logprobs(
            params, tiny_config, hidden, targets % 50, every, valid_vocab=50
        )
        return out.sum() + entropy.sum()

    head = jax.grad(loss)(tiny_params)["head"]
    assert not np.asarray(head[:, 50:]).any()
    assert np.asarray(head[:, :50]).any()


def test_the_gradient_goes_through_the_limit_of_logits(tiny_config, tiny_params, case):
    """Against the derivative of the formula, where the limit bends most logits."""
    config = dataclasses.replace(tiny_config, final_softcap=0.5)
    hidden, targets = case
    hidden, targets = hidden * 3, targets % 50
    every = jnp.ones(targets.shape, bool)

    def formula(params, hidden):
        logits = 0.5 * jnp.tanh(hidden @ params["head"] / 0.5)[..., :50] / 0.7
        return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)

    def ours(params, hidden):
        options = {"chunk": 3, "temperature": 0.7, "valid_vocab": 50}
        return token_logprobs(params, config, hidden, targets, every, **options)[0]

    both = [f(tiny_params, hidden) for f in (ours, lambda *x: formula(*x)[..., 0])]
    np.testing.assert_allclose(*both, atol=1e-5)
    weight = jnp.arange(targets.size).reshape(targets.shape) / targets.size
    gradients = [
        jax.grad(lambda p, h: (f(p, h) * weight).sum(), argnums=(0, 1))(  # noqa: B023
            tiny_params, hidden
        )
        for f in (ours, lambda *x: formula(*x)[..., 0])
    ]
    for got, expected in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_no_buffer_holds_the_vocabulary_for_more_than_a_chunk(tiny_config, tiny_params):
    hidden = jnp.ones((2, 40, 32))
    targets, every = jnp.zeros((2, 40), jnp.int32), jnp.ones((2, 40), bool)

    def loss(params, hidden):
        out, _ = token_logprobs(params, tiny_config, hidden, targets, every, chunk=4)
        return out.sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(tiny_params, hidden)

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            for var in eqn.outvars:
                shape = getattr(var.aval, "shape", ())
                if len(shape) > 1 and shape[-1] == tiny_config.vocab_size:
                    yield int(np.prod(shape[:-1]))
            for inner in jax.core.jaxprs_in_params(eqn.params):
                yield from sizes(inner)

    found = list(sizes(jaxpr.jaxpr))
    # The head's own gradient [32, V] is there by right; 2 x 4 tokens are a chunk.
    assert found and max(found) <= 32 < 2 * 40


@pytest.mark.parametrize("chunk", [3, 64])
def test_the_entropy_s_gradient_is_that_of_the_whole_vocabulary(
    tiny_config, tiny_params, case, chunk
):
    hidden, targets = case
    every = jnp.ones(targets.shape, bool)

    def ours(params, hidden, gradient=True):
        found = token_logprobs(
            params,
            tiny_config,
            hidden,
            targets % 50,
            every,
            chunk=chunk,
            temperature=0.7,
            valid_vocab=50,
            entropy_gradient=gradient,
        )
        return jnp.sum(jnp.sin(found[0]) + 3.0 * jnp.cos(found[1]))

    def whole(params, hidden):
        log_p = jax.nn.log_softmax((hidden @ params["head"])[..., :50] / 0.7)
        chosen = jnp.take_along_axis(log_p, targets[..., None] % 50, -1)
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        return jnp.sum(jnp.sin(chosen[..., 0]) + 3.0 * jnp.cos(entropy))

    found, want = (jax.grad(f, (0, 1))(tiny_params, hidden) for f in (ours, whole))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    without = jax.grad(lambda h: ours(tiny_params, h, gradient=False))(hidden)
    assert np.abs(without - found[1]).max() > 1e-3
