"""AdamW equals optax's, step by step, and leaves everything alone where it must."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models.errors import UserError
from rl.learner import optimizer
from rl.learner.optimizer import OptimizerConfig

PARAMS = {"a": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(5)}


def gradients(seed):
    a, b = jax.random.split(jax.random.key(seed))
    scale = 10.0 ** (seed % 3 - 1)  # below and above the norm that is clipped to
    return {
        "a": scale * jax.random.normal(a, (3, 4)),
        "b": scale * jax.random.normal(b, (5,)),
    }


@pytest.mark.parametrize("warmup", [0, 3])
def test_ten_updates_equal_optax(warmup):
    config = OptimizerConfig(
        learning_rate=1e-2, weight_decay=0.1, warmup_updates=warmup
    )
    rate = 1e-2
    if warmup:
        rate = optax.linear_schedule(1e-2 / (warmup + 1), 1e-2, warmup)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.1)
    )
    ours, other = PARAMS, PARAMS
    state, other_state = optimizer.init(PARAMS), theirs.init(PARAMS)
    apply = jax.jit(optimizer.apply, static_argnums=0)
    for seed in range(10):
        grads = gradients(seed)
        ours, state, norm, finite = apply(config, grads, state, ours)
        updates, other_state = theirs.update(grads, other_state, other)
        other = optax.apply_updates(other, updates)
        assert float(norm) == pytest.approx(float(optax.global_norm(grads)))
        assert bool(finite)
        for name in PARAMS:
            np.testing.assert_allclose(ours[name], other[name], rtol=2e-6, atol=1e-7)
    adam = other_state[1][0]
    assert int(state.count) == int(adam.count) == 10
    for name in PARAMS:
        np.testing.assert_allclose(state.mu[name], adam.mu[name], rtol=2e-6, atol=1e-8)
        np.testing.assert_allclose(state.nu[name], adam.nu[name], rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    config = OptimizerConfig(learning_rate=1e-2)
    params, state, *_ = optimizer.apply(
        config, gradients(0), optimizer.init(PARAMS), PARAMS
    )
    broken = gradients(1)
    broken["b"] = broken["b"].at[2].set(bad)
    after, kept, _, finite = optimizer.apply(config, broken, state, params)
    assert not bool(finite)
    both = [jax.tree.leaves(x) for x in ((after, kept), (params, state))]
    for x, y in zip(*both, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("value", [1.0, 0.99999999])  # the latter is 1 in float32
@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_a_moment_that_never_moves_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name}={value}: .* less than 1"):
        OptimizerConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epsilon", [0.0, 1e-50, 1e-40, -1.0, np.nan, np.inf]),
        ("learning_rate", [-1.0, 1e-50, 1e39, np.nan, np.inf]),
        ("weight_decay", [-1.0, 1e-50, np.nan, np.inf]),
        ("clip_norm", [0.0, 1e-50, np.nan, np.inf]),
        ("beta1", [-0.1, 1e-50, np.nan]),
    ],
)
def test_numbers_that_are_not_finite_or_vanish_in_float32_are_refused(name, values):
    for value in values:
        with pytest.raises(UserError, match=re.escape(f"{name}={value}: must be")):
            OptimizerConfig(**{name: value})


def test_parameters_without_a_gradient_stay_finite_at_the_smallest_epsilon():
    config = OptimizerConfig(epsilon=2e-38, learning_rate=1e-2)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        params, state, *_ = optimizer.apply(
            config, jax.tree.map(jnp.zeros_like, PARAMS), state, params
        )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
