"""Losses of pairs, by hand and against differences; the update that they give."""

import dataclasses

import jax
import numpy as np
import pytest

from models import sharding
from models.errors import UserError
from rl.learner import preferences
from rl.learner.config import UpdateConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.preferences import PairLossConfig, log_probs, pair_losses
from rl.learner.update import Updater
from tests.rl.learner.test_update import VALID, distance, make_datums, slope_along

KINDS = ("dpo", "ipo", "spin", "sppo")
U = np.array([[1.0, -2.0], [-3.0, 4.0]])  # differences 3 and -7


def loss(kind, beta=0.5):
    return PairLossConfig(kind=kind, beta=beta)


@pytest.mark.parametrize(
    ("kind", "losses", "slopes"),
    [
        # log(1 + e^-1.5) and log(1 + e^3.5); -sigmoid(-1.5) / 2, -sigmoid(3.5) / 2.
        ("dpo", [0.20141328, 3.52975042], [-0.09121276, -0.48534388]),
        ("ipo", [4.0, 64.0], [4.0, -16.0]),  # (3 - 1)^2 and (-7 - 1)^2
        ("spin", [0.0, 4.5], [0.0, -0.5]),  # 1 - 1.5 is below 0; 1 + 3.5
    ],
)
def test_losses_of_the_difference_are_those_worked_by_hand(kind, losses, slopes):
    found, derivatives = pair_losses(U, loss(kind))
    np.testing.assert_allclose(found, losses, atol=1e-8)
    np.testing.assert_allclose(derivatives[:, 0], slopes, atol=1e-8)
    np.testing.assert_allclose(derivatives[:, 1], -derivatives[:, 0])


def test_sppo_has_a_goal_for_each_of_the_two():
    found, derivatives = pair_losses(U, loss("sppo"))  # the goals are 1 and -1
    np.testing.assert_allclose(found, [0 + 1, 16 + 25])
    np.testing.assert_allclose(derivatives, [[0, -2], [-8, 10]])


@pytest.mark.parametrize("beta", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_finite_differences(kind, beta):
    u = np.random.default_rng(0).normal(size=(50, 2)) * 4
    _, derivatives = pair_losses(u, loss(kind, beta))
    step = 1e-6
    for side in (0, 1):
        moved = np.zeros(2)
        moved[side] = step
        up, down = (pair_losses(u + s * moved, loss(kind, beta))[0] for s in (1, -1))
        expected = (up - down) / (2 * step)
        np.testing.assert_allclose(derivatives[:, side], expected, atol=1e-6, rtol=1e-5)


def test_no_log_ratio_is_too_large_for_the_logistic_loss():
    with np.errstate(all="raise", under="ignore"):
        far = np.array([[1e6, -1e6], [-1e6, 1e6]])
        found, derivatives = pair_losses(far, loss("dpo", 1.0))
    np.testing.assert_allclose(found, [0, 2e6])
    np.testing.assert_allclose(derivatives, [[0, 0], [-1, 1]])


def test_a_beta_that_means_nothing_is_refused():
    with pytest.raises(UserError, match=r"beta=0\.0: must"):
        PairLossConfig(beta=0.0)


# ------------------------------------------------------------------- the update


def make_pairs(count=5):
    """Pairs of which the first members have two datums, as where turns are rows."""
    data = [
        dataclasses.replace(d, sampled_mask=(0,) * len(d.ids))
        for d in make_datums(3 * count)
    ]
    triples = [data[i : i + 3] for i in range(0, len(data), 3)]
    return [((a, dataclasses.replace(b, turn=1)), (c,)) for a, b, c in triples]


@pytest.fixture(scope="module", autouse=True)
def _quickly(compiled_quickly):
    """Compared up to a tolerance."""


@pytest.fixture(scope="module")
def updater_of(tiny_config):
    shapes = {
        "packed": (UpdateConfig(length=64, rows=4, capacity=2, logit_chunk=16), 1),
        "alone": (UpdateConfig(length=32, rows=1, capacity=2, logit_chunk=64), 1),
        "four": (UpdateConfig(length=64, rows=4, capacity=2, logit_chunk=16), 4),
    }
    optimizer = OptimizerConfig(learning_rate=3e-3, clip_norm=1e6)
    made = {}

    def make(name):
        if name not in made:
            update, fsdp = shapes[name]
            mesh = sharding.make_mesh(1, fsdp, 1)
            given = (tiny_config, preferences.SUM, optimizer, update, mesh)
            made[name] = Updater(*given, valid_vocab=VALID)
        return made[name]

    return make


def updated(updater, params, config, pairs, reference):
    state = updater.states.init(params)
    base = updater.states.reference_params(params)
    given = (pairs, reference, config)
    after, metrics = preferences.update(updater, state, base, *given)
    return jax.device_get(after.opt_state.mu), metrics


def references(count=5):
    """Of a reference that is away from the policy, by sums of a sequence's size."""
    return -4.1 * np.array([[2.0, 1.0]]) * 15 + np.arange(2 * count).reshape(-1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_s_gradient_is_that_of_the_mean_loss_of_the_pairs(
    kind, updater_of, tiny_params
):
    """Along the gradient the loss rises by its norm."""
    updater, pairs, config = updater_of("packed"), make_pairs(), loss(kind, 0.05)
    placed = updater.states.init(tiny_params).params
    reference = log_probs(updater, placed, pairs, {}) + [[1.0, -2.0]]
    reference += np.arange(10).reshape(5, 2)
    grads, metrics = updated(updater, tiny_params, config, pairs, reference)
    u = log_probs(updater, placed, pairs, {}) - reference
    assert metrics["loss/total"] == pytest.approx(pair_losses(u, config)[0].mean())

    def total(params):
        return updated(updater, params, config, pairs, reference)[1]["loss/total"]

    slope = slope_along(grads, tiny_params, total, 1e-3)
    assert slope == pytest.approx(metrics["loss/grad_norm"], rel=1e-2)


@pytest.mark.parametrize("name", ["alone", "four"])
def test_neither_packing_nor_the_mesh_changes_it(name, updater_of, tiny_params):
    pairs, reference = make_pairs(), references()
    one, other = (
        updated(updater_of(shape), tiny_params, loss("ipo"), pairs, reference)
        for shape in ("packed", name)
    )
    assert distance(other[0], one[0]) < 1e-5
    for key in ("loss/total", "preference/margin", "preference/better"):
        assert other[1][key] == pytest.approx(one[1][key], rel=1e-4)


def test_a_sequence_s_log_prob_is_the_sum_over_its_own_tokens(updater_of, tiny_params):
    pairs = make_pairs()
    updater = updater_of("alone")
    params = updater.states.init(tiny_params).params
    found = log_probs(updater, params, pairs, {})
    for row, pair in zip(found, pairs, strict=True):
        for value, member in zip(row, pair, strict=True):
            batches = [updater.pack([datum]) for datum in member]
            each = [
                np.asarray(updater.logprobs(params, b), np.float64) for b in batches
            ]
            assert value == pytest.approx(sum(x.sum() for x in each), rel=1e-6)


def test_a_few_updates_put_the_pairs_in_order(updater_of, tiny_params):
    updater, pairs = updater_of("packed"), make_pairs()
    state = updater.states.init(tiny_params)
    reference = log_probs(updater, state.params, pairs, {})
    base = updater.states.reference_params(tiny_params)
    every = []
    for _ in range(4):
        state, metrics = preferences.update(
            updater, state, base, pairs, reference, loss("dpo", 0.1)
        )
        every.append(metrics)
    # The policy begins as its own reference: exactly log 2, and no pair in order.
    assert every[0]["loss/total"] == pytest.approx(np.log(2), abs=1e-12)
    assert every[0]["preference/margin"] == every[0]["preference/accuracy"] == 0
    assert every[-1]["preference/accuracy"] == 1
    totals = [metrics["loss/total"] for metrics in every]
    assert totals == sorted(totals, reverse=True)
    assert not {name for name in every[0] if name.startswith("agree/")}
