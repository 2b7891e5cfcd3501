"""Training an adapter: its gradient, its state, and what of the base stays as it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from models import forward, lora, sharding
from models.lora import LoraConfig
from models.unstacked import unstack
from rl.learner import checkpoint
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.objective import Objective
from rl.learner.optimizer import OptimizerConfig
from rl.learner.update import Updater
from tests.models.test_lora import random_adapter
from tests.rl.learner.test_update import VALID, distance, make_datums

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LORA = LoraConfig(rank=3, alpha=6)
LOSS = LossConfig(clip_high=0.28, kl_coefficient=0.1)
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, clip_norm=100.0)
SHAPE = UpdateConfig(length=48, rows=4, capacity=2, logit_chunk=16, mini_batch_rows=6)


def updater_of(config, *, mesh=(1, 1, 1), base=None, remat="block"):
    return Updater(
        config,
        LOSS,
        OPTIMIZER,
        dataclasses.replace(SHAPE, remat=remat),
        sharding.make_mesh(*mesh),
        valid_vocab=VALID,
        lora=LORA,
        base=base,
    )


@pytest.fixture(scope="module")
def adapter(tiny_config):
    return random_adapter(tiny_config, LORA)


@pytest.mark.parametrize("form", ["stacked", "weights_first"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_gradient_is_the_full_gradients_projection(tiny_config, tied, form):
    """dA = s G B', dB = s A' G, where G is the gradient at W + s A B; in float64."""
    config = dataclasses.replace(tiny_config, tie_embeddings=tied)
    with jax.enable_x64(True):
        params = forward.init(config, jax.random.key(0), jnp.float64)
        adapter = jax.tree.map(np.float64, random_adapter(config, LORA))
        reference = jax.tree.map(lambda x: 1.01 * x, params)
        plain = Updater(
            config, LOSS, OPTIMIZER, SHAPE, sharding.make_mesh(), valid_vocab=VALID
        )
        micro = {k: v[0] for k, v in plain.pack(make_datums(8)).arrays.items()}
        micro["old_logprobs"] = micro["sampler_logprobs"]

        def gradient(trained, base, settings):
            objective = dataclasses.replace(
                plain.objective, compute_dtype=jnp.float64, lora=settings
            )
            return jax.grad(Objective.value, argnums=1, has_aux=True)(
                objective, trained, base, micro, False
            )[0]

        # Without the penalty, whose reference is the base, not the merged model.
        plain.objective = dataclasses.replace(
            plain.objective, loss=dataclasses.replace(LOSS, kl_coefficient=0.0)
        )
        scaled = lora.scaled(adapter, LORA)
        blocks = jax.tree.map(lambda x: x, params["blocks"])
        for part, leaves in scaled["blocks"].items():
            for name in {key[:-2] for key in leaves}:
                product = jax.vmap(functools.partial(jnp.tensordot, axes=1))(
                    leaves[f"{name}_a"], leaves[f"{name}_b"]
                )
                blocks[part][name] = blocks[part][name] + product
        full = gradient(params | {"blocks": blocks}, reference, None)
        base = params
        if form == "weights_first":
            base = unstack(params, config, weights_first=True)
        found = gradient(adapter, base, LORA)
        for part, leaves in adapter["blocks"].items():
            for name in {key[:-2] for key in leaves}:
                a, b = leaves[f"{name}_a"], leaves[f"{name}_b"]
                layers, rank = len(a), a.shape[-1]
                g = np.asarray(full["blocks"][part][name])
                g = g.reshape(layers, np.prod(a.shape[1:-1]), -1)
                da = LORA.scale * g @ b.reshape(layers, rank, -1).swapaxes(1, 2)
                db = LORA.scale * a.reshape(layers, -1, rank).swapaxes(1, 2) @ g
                both = found["blocks"][part]
                assert both[f"{name}_a"].dtype == np.float64
                for want, got in ((da, f"{name}_a"), (db, f"{name}_b")):
                    got = np.asarray(both[got]).reshape(want.shape)
                    scale = np.abs(want).max()
                    assert scale > 1e-4
                    np.testing.assert_allclose(got / scale, want / scale, atol=1e-6)


def one_update(updater, adapter, base):
    return updater.update_mini_batch(
        updater.states.init(adapter), base, updater.pack(make_datums(16))
    )


@pytest.fixture(scope="module")
def one_device(tiny_config, tiny_params, adapter):
    return one_update(updater_of(tiny_config), adapter, tiny_params)


@pytest.mark.parametrize("mesh", [(1, 4, 1), (1, 2, 2)], ids=["fsdp4", "fsdp2-tensor2"])
def test_the_update_is_the_same_on_a_mesh(
    mesh, tiny_config, tiny_params, adapter, one_device
):
    updater = updater_of(tiny_config, mesh=mesh)
    placed = sharding.param_shardings(tiny_params, sharding.make_mesh(*mesh))
    state, _ = one_update(updater, adapter, sharding.place(tiny_params, placed))
    assert distance(state.opt_state.mu, one_device[0].opt_state.mu) < 1e-5
    # The rank is on no axis of the mesh, the rest of A and B is as the matrix.
    mu = state.opt_state.mu["blocks"]["mlp"]
    assert mu["down_b"].sharding.spec == P(None, None, "fsdp")
    assert mu["gate_a"].sharding.spec == P(None, "fsdp", None)


@pytest.mark.parametrize("weights_first", [False, True])
def test_the_engines_own_weights_will_do(
    tiny_config, tiny_params, adapter, one_device, weights_first
):
    base = unstack(tiny_params, tiny_config, weights_first=weights_first)
    base = jax.device_put(base, sharding.replicated(sharding.make_mesh()))
    updater = updater_of(tiny_config, base=base)
    updater.compile()
    before = len(updater.programs)
    state, metrics = one_update(updater, adapter, base)
    assert len(updater.programs) == before
    assert distance(state.opt_state.mu, one_device[0].opt_state.mu) < 1e-5
    assert metrics["loss/kl"] == pytest.approx(one_device[1]["loss/kl"], rel=1e-4)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_recomputation_changes_nothing(
    tiny_config, tiny_params, adapter, one_device, remat
):
    updater = updater_of(tiny_config, remat=remat)
    state, _ = one_update(updater, adapter, tiny_params)
    assert distance(state.opt_state.mu, one_device[0].opt_state.mu) < 1e-5


def test_the_penalty_pulls_towards_the_base(tiny_config, tiny_params):
    updater = updater_of(tiny_config)
    fresh = lora.init(tiny_config, LORA, jax.random.key(0))
    _, metrics = one_update(updater, fresh, tiny_params)
    # B is 0: the policy is the base.
    assert metrics["loss/kl"] == pytest.approx(0.0, abs=1e-9)
    _, metrics = one_update(updater, random_adapter(tiny_config, LORA), tiny_params)
    assert metrics["loss/kl"] > 0.01


def test_several_mini_batches_take_the_log_probs_of_before(
    tiny_config, tiny_params, adapter
):
    updater = updater_of(tiny_config)
    state = updater.states.init(adapter)
    state, metrics = updater.update(state, tiny_params, make_datums(16))
    assert metrics["loss/updates"] == 3.0
    assert int(state.step) == 3


def test_state_and_checkpoint_hold_the_adapter_alone(
    tiny_config, tiny_params, adapter, one_device, tmp_path
):
    state, _ = one_device
    size = lora.size(tiny_config, LORA)
    numbers = sum(x.size for x in jax.tree.leaves(state))
    assert numbers == 3 * size + 3  # masters, two moments, three counts
    checkpoint.save(tmp_path, 1, state)
    updater = updater_of(tiny_config)
    read, _, _ = checkpoint.restore(tmp_path, updater.states.abstract())
    for old, new in zip(*map(jax.tree.leaves, (state, read)), strict=True):
        np.testing.assert_array_equal(old, new)
    # What follows is the same, bit for bit.
    batch = updater.pack(make_datums(8, seed=1))
    on, _ = updater.update_mini_batch(read, tiny_params, batch)
    state, _ = checkpoint.restore(tmp_path, updater.states.abstract())[::2]
    again, _ = updater.update_mini_batch(state, tiny_params, batch)
    for old, new in zip(*map(jax.tree.leaves, (on, again)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_samplers_copy_is_scaled_and_has_the_states_fingerprint(
    tiny_config, adapter
):
    states = updater_of(tiny_config).states
    state = states.init(adapter)
    copy = states.policy_params(state)
    a, b = (copy["blocks"]["attn"][f"q_{x}"] for x in "ab")
    np.testing.assert_array_equal(a, adapter["blocks"]["attn"]["q_a"])
    np.testing.assert_array_equal(b, 2 * adapter["blocks"]["attn"]["q_b"])
    from models.fingerprint import fingerprint

    assert states.fingerprint(state) == tuple(np.asarray(fingerprint(copy)).tolist())
