"""Losses against the spec's worked examples and float64 NumPy formulas."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from models.errors import UserError
from rl.learner import losses
from rl.learner.losses import LossConfig


def weighted_loss(x, mask, **config):
    """The scalar loss of per-token losses [R, T], one datum per row."""
    tokens = np.asarray(mask != 0).sum(1)
    weights = losses.token_weights(tokens, LossConfig(**config))
    return jnp.where(mask != 0, x * jnp.float32(weights)[:, None], 0.0).sum()


def numpy_policy_loss(logp, old, advantages, low, high, dual):
    ratio = np.exp(np.clip(logp - old, -20, 20))
    a = advantages[:, None]
    p = np.maximum(-a * ratio, -a * np.clip(ratio, 1 - low, 1 + high))
    return np.where(a < 0, np.minimum(-a * dual, p), p)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("clip_low", [-0.1, 1e-50, np.nan, np.inf]),
        ("clip_high", [-0.1, 1e39, np.nan, np.inf]),
        ("kl_coefficient", [-0.1, 1e-50, np.inf]),
        ("importance_cap", [-1.0, np.inf]),
        ("dual_clip", [1.0, 1.00000001, np.inf]),  # 1 in float32
        ("group_rows", [0]),
    ],
)
def test_settings_out_of_their_range_in_float32_are_refused(name, values):
    for value in values:
        with pytest.raises(UserError, match=re.escape(f"{name}={value}: must be")):
            LossConfig(**{name: value})


@pytest.mark.example(95)
def test_worked_example_95():
    old = jnp.array([[-1.0, -1.0, -1.0]])
    new = jnp.array([[-0.5, -1.5, -1.0]])
    mask = jnp.array([[1, 1, 0]])
    args = (new, old, jnp.ones((1, 3)), mask, LossConfig(clip_high=0.28))
    loss = weighted_loss(losses.policy_loss(*args), mask)
    clipped, dual = losses.clip_indicators(*args)
    np.testing.assert_allclose(loss, -0.943265, atol=1e-6)
    assert float(weighted_loss(clipped, mask)) == 0.5
    assert float(dual.sum()) == 0


@pytest.mark.example(96)
def test_worked_example_96():
    old, new = jnp.array([[-3.0, -1.0]]), jnp.array([[-1.0, -1.5]])
    mask = jnp.ones((1, 2))
    args = (new, old, -jnp.ones((1, 2)), mask, LossConfig())
    loss = weighted_loss(losses.policy_loss(*args), mask)
    _, dual = losses.clip_indicators(*args)
    np.testing.assert_allclose(loss, 1.9, atol=1e-6)
    assert float(weighted_loss(dual, mask)) == 0.5


@pytest.mark.example(97)
def test_worked_example_97():
    logp, reference = jnp.array([[-1.0, -2.0]]), jnp.array([[-1.5, -1.0]])
    got = losses.kl_penalty(logp, reference, kind="k3")
    np.testing.assert_allclose(got, [[0.106531, 0.718282]], atol=1e-6)


@pytest.mark.example(98)
def test_worked_example_98():
    x = jnp.array([[1.0, 2, 3], [4, 0, 0]])
    mask = jnp.array([[1, 1, 1], [1, 0, 0]])
    assert float(weighted_loss(x, mask)) == 2.5
    assert float(weighted_loss(x, mask, aggregation="row_mean")) == 3.0


@pytest.mark.parametrize("dual", [3.0, 1.1])
def test_policy_loss_matches_float64_numpy(dual):
    rng = np.random.default_rng(0)
    logp, old = -rng.exponential(3, (2, 4, 50))
    logp[0, 0], old[0, 1] = -60.0, -80.0  # log-ratios beyond the bound
    advantages = np.array([1.3, -0.7, 0.0, -2.0])
    got = losses.policy_loss(
        jnp.float32(logp),
        jnp.float32(old),
        jnp.float32(np.repeat(advantages[:, None], 50, axis=1)),
        jnp.ones((4, 50)),
        LossConfig(clip_high=0.28, dual_clip=dual),
    )
    want = numpy_policy_loss(logp, old, advantages, 0.2, 0.28, dual)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def test_masked_positions_give_no_value_and_no_gradient_even_if_nan():
    nan = jnp.nan
    old = jnp.array([[-1.0, nan, -2.0]])
    mask = jnp.array([[1, 0, 1]])

    def loss(logp):
        x = losses.policy_loss(logp, old, jnp.ones((1, 3)), mask, LossConfig())
        return weighted_loss(x, mask)

    value, grad = jax.value_and_grad(loss)(jnp.array([[-1.0, nan, -2.0]]))
    assert float(value) == -1.0
    np.testing.assert_allclose(grad, [[-0.5, 0.0, -0.5]])


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_matches_float64_numpy_and_is_bounded(kind):
    rng = np.random.default_rng(2)
    logp, ref = -rng.exponential(2, (2, 3, 20))
    ref[0, 0], ref[0, 1] = -90.0, 40.0
    d = np.clip(ref - logp, -20, 20)
    want = {
        "k1": -d,
        "k2": d**2 / 2,
        "k3": np.clip(np.exp(d) - d - 1, -10, 10),
    }[kind]
    got = losses.kl_penalty(jnp.float32(logp), jnp.float32(ref), kind=kind)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# Log-ratios at which something ties: ratio 1, the clip range's ends, the dual clip, the
# bounds of the log-ratio; and one to each side of all of them.
TIES = [0.0, *np.log([0.8, 1.28, 3.0]), 20.0, -20.0, 0.1, -0.1, 0.5, -0.5, 2.0, 25.0]


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.0, 0.0), (0.0, 0.28)])
def test_the_policy_losss_gradient_is_torchs_at_every_tie(low, high):
    advantage, new = np.meshgrid(np.float32([1.5, -1.5, 0.0]), np.float32(TIES))
    old = np.zeros_like(new)
    config = LossConfig(clip_low=low, clip_high=high)
    ours = jax.grad(
        lambda x: losses.policy_loss(x, old, advantage, jnp.ones(x.shape), config).sum()
    )(jnp.asarray(new))
    x, a = torch.tensor(new, requires_grad=True), torch.tensor(advantage)
    ratio = torch.exp(torch.clamp(x - torch.tensor(old), -20.0, 20.0))
    loss = torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1 - low, 1 + high))
    loss = torch.where(a < 0, torch.minimum(-a * 3.0, loss), loss)
    loss.sum().backward()
    np.testing.assert_allclose(ours, x.grad, rtol=1e-5)


def test_a_log_prob_of_nan_makes_a_gradient_of_nan():
    """It is looked at to find out whether an update can be done."""
    old = jnp.array([[-1.0, jnp.nan]])
    one = jnp.ones((1, 2))

    def loss(x):
        return losses.policy_loss(x, old, one, one, LossConfig()).sum()

    gradient = jax.grad(loss)(-one)
    assert np.isfinite(gradient[0, 0]) and np.isnan(gradient[0, 1])


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_the_penaltys_gradient_is_torchs_at_every_tie(kind):
    d = np.float32([0.0, 20.0, -20.0, 21.0, -21.0, 1.0, -10.0, -11.0, -12.0])
    ours = jax.grad(lambda x: losses.kl_penalty(x, jnp.asarray(d), kind=kind).sum())(
        jnp.zeros(d.shape)
    )
    x = torch.zeros(d.shape, requires_grad=True)
    e = torch.clamp(torch.tensor(d) - x, -20.0, 20.0)
    k3 = torch.clamp(torch.exp(e) - e - 1, -10.0, 10.0)
    {"k1": -e, "k2": e**2 / 2, "k3": k3}[kind].sum().backward()
    np.testing.assert_allclose(ours, x.grad, rtol=1e-5)


@pytest.mark.parametrize(
    "mode", ["token_mean", "row_mean", "constant_length", "micro_batch_mean"]
)
def test_token_weights_give_the_aggregated_loss(mode):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 9)).astype(np.float32)
    mask = (rng.random((5, 9)) < 0.6).astype(np.int32)
    mask[2] = 0  # a datum with nothing in the loss still counts as one
    got = weighted_loss(x, mask, aggregation=mode, group_rows=2, constant_length=7)
    by_hand = {
        "token_mean": (x * mask).sum() / mask.sum(),
        "row_mean": ((x * mask).sum(1) / np.maximum(mask.sum(1), 1)).mean(),
        "constant_length": (x * mask).sum(1).mean() / 7,
        "micro_batch_mean": np.mean(
            [(x[g] * mask[g]).sum() / mask[g].sum() for g in ([0, 1], [2, 3], [4])]
        ),
    }[mode]
    np.testing.assert_allclose(got, by_hand, rtol=1e-5)
