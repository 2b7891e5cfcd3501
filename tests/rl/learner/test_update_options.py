"""The update with every optional term: packed or not, on one device or four."""

import dataclasses

import jax
import numpy as np
import pytest

from models import forward, sharding
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.update import Updater
from tests.rl.learner.test_update import (
    OPTIMIZER,
    VALID,
    distance,
    gradient,
    make_datums,
    slope_along,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TERMS = {
    "entropy_coefficient": 0.05,
    "distillation": 0.3,
    "likelihood": 0.2,
    "kl_coefficient": 0.1,
}
LOSSES = {
    "sequence": LossConfig(ratio="sequence", sequence_clip_high=0.5, **TERMS),
    "nft": LossConfig(policy="nft", **(TERMS | {"distillation": 0.0})),
}
NAN = float("nan")


def full_datums(count=12):
    """Datums with every field set, and stored log-probs, so that no ratio is 1."""
    rng = np.random.default_rng(7)
    out = []
    for i, datum in enumerate(make_datums(count)):
        n = len(datum.ids)
        teacher = np.where(rng.random(n) < 0.3, NAN, -rng.exponential(3.0, n))
        old = np.where(rng.random(n) < 0.2, NAN, -4.1 + 0.2 * rng.normal(size=n))
        out.append(
            dataclasses.replace(
                datum,
                advantages=tuple(rng.normal(size=n).tolist()),
                teacher_logprobs=tuple(teacher.tolist()),
                teacher_weight=0.5 + i % 2,
                old_logprobs=tuple(old.tolist()),
                outcome=float(i % 2),
                group_rate=0.25 + 0.25 * (i % 3),
                likelihood_weight=float(i % 3),
            )
        )
    return out


@pytest.fixture(scope="module")
def reference(tiny_config):
    return jax.jit(forward.init, static_argnums=0)(tiny_config, jax.random.key(1))


@pytest.mark.parametrize("name", LOSSES)
def test_neither_packing_nor_the_mesh_changes_the_gradient(
    name, tiny_config, tiny_params, reference
):
    shapes = {
        "packed": (UpdateConfig(length=64, rows=4, capacity=2, logit_chunk=16), 1),
        "alone": (UpdateConfig(length=32, rows=1, capacity=2, logit_chunk=64), 1),
        "four": (UpdateConfig(length=64, rows=4, capacity=2, logit_chunk=16), 4),
    }
    found = {}
    for shape, (update, fsdp) in shapes.items():
        updater = Updater(
            tiny_config,
            LOSSES[name],
            OPTIMIZER,
            update,
            sharding.make_mesh(1, fsdp, 1),
            valid_vocab=VALID,
        )
        found[shape] = gradient(updater, tiny_params, reference, full_datums())
        assert {key[0] for key in updater.programs} == {"update stored"}
    grads, metrics = found["packed"]
    for other in ("alone", "four"):
        assert distance(found[other][0], grads) < 1e-5
        for key in ("loss/total", "loss/policy", "loss/likelihood", "loss/entropy"):
            assert found[other][1][key] == pytest.approx(metrics[key], rel=1e-4)
    assert ("loss/teacher_kl" in metrics) == (name == "sequence")
    # Each term is in the total: with its weight it explains what the policy does not.
    c = LOSSES[name]
    assert abs(metrics["loss/total"] - metrics["loss/policy"]) > 1e-3
    assert metrics["loss/likelihood"] * c.likelihood > 0.1


def test_the_gradient_of_all_terms_is_that_of_finite_differences(
    tiny_config, tiny_params, reference
):
    """Along the gradient itself the loss rises by its norm; ratios are not 1."""
    loss = LossConfig(clip_low=0.5, clip_high=0.5, **TERMS)
    datums = [
        dataclasses.replace(
            datum,
            old_logprobs=tuple(np.nan_to_num(datum.old_logprobs, nan=-4.0).tolist()),
        )
        for datum in full_datums()
    ]
    shape = UpdateConfig(length=64, rows=4, capacity=2, logit_chunk=16)
    updater = Updater(
        tiny_config, loss, OPTIMIZER, shape, sharding.make_mesh(), valid_vocab=VALID
    )
    grads, metrics = gradient(updater, tiny_params, reference, datums)

    def total(params):
        return gradient(updater, params, reference, datums)[1]["loss/total"]

    slope = slope_along(grads, tiny_params, total, 3e-3)
    assert slope == pytest.approx(metrics["loss/grad_norm"], rel=5e-3)
