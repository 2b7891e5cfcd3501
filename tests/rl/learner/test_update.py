"""The update: independent of mesh, packing and micro-batches; in bounded memory."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from models import forward, sharding
from models.errors import UserError
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.update import NonFiniteUpdateError, Updater
from rl.records import Datum

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VALID = 60  # ids of the tokenizer; the model has 64
LOSS = LossConfig(clip_high=0.28, kl_coefficient=0.1)
# Nothing is clipped, so that the first moment after one update is the gradient's.
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, clip_norm=100.0)
SHAPE = UpdateConfig(length=48, rows=4, capacity=2, logit_chunk=16, mini_batch_rows=6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", 0),
        ("rows", 0),
        ("capacity", 0),
        ("logit_chunk", 0),
        ("max_skipped", 0),  # would stop at the first finite gradient
        ("mini_batch_rows", -1),  # would train on nothing
        ("temperature", 0.0),
        ("temperature", 1e-50),  # 0 in float32
        ("temperature", float("inf")),
    ],
)
def test_sizes_that_mean_nothing_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name}={value}: "):
        UpdateConfig(**{name: value})


def make_datums(count, seed=0):
    rng = np.random.default_rng(seed)
    datums = []
    for i in range(count):
        n = int(rng.integers(6, 30))
        prompt = int(rng.integers(1, n - 2))
        loss_mask = (0,) * prompt + (1,) * (n - prompt)
        # The last token stands for a closing tag: trained, but a template wrote it.
        sampled = loss_mask[:-1] + (0,)
        datums.append(
            Datum(
                uid=f"1/solver/0/{i // 4}/{i % 4}",
                turn=0,
                ids=tuple(int(t) for t in rng.integers(0, VALID, n)),
                loss_mask=loss_mask,
                sampled_mask=sampled,
                logprobs=tuple(-4.0 if s else float("nan") for s in sampled),
                advantage=float(rng.normal()),
            )
        )
    return datums


@pytest.fixture(scope="module")
def reference(tiny_config):
    return jax.jit(forward.init, static_argnums=0)(tiny_config, jax.random.key(1))


@pytest.fixture(scope="module")
def updater_of(tiny_config):
    @functools.cache
    def make(data=1, fsdp=1, tensor=1, update=SHAPE, optimizer=OPTIMIZER):
        mesh = sharding.make_mesh(data, fsdp, tensor)
        return Updater(tiny_config, LOSS, optimizer, update, mesh, valid_vocab=VALID)

    return make


def gradient(updater, params, reference, datums):
    """The gradient of an update, times one minus beta 1, and the update's metrics.

    Taken from the update itself, whose program serves the other tests too.
    """
    placed = updater.states.reference_params(reference)
    after, metrics = updater.update_mini_batch(
        updater.states.init(params), placed, updater.pack(datums)
    )
    assert metrics["loss/grad_norm"] < OPTIMIZER.clip_norm
    return jax.device_get(after.opt_state.mu), metrics


def slope_along(grads, params, total, step):
    """By how much ``total`` of the parameters rises along their gradient."""
    norm = np.sqrt(sum((np.float64(g) ** 2).sum() for g in jax.tree.leaves(grads)))
    totals = [
        total(jax.tree.map(lambda p, g, by=by: p + by / norm * g, params, grads))
        for by in (step, -step)
    ]
    return (totals[0] - totals[1]) / (2 * step)


def distance(a, b):
    """Relative norm of the difference of two trees."""
    a, b = (
        np.concatenate([np.ravel(np.float64(x)) for x in jax.tree.leaves(tree)])
        for tree in (a, b)
    )
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def one_device(updater_of, tiny_params, reference):
    return gradient(updater_of(), tiny_params, reference, make_datums(16))


@pytest.mark.parametrize(
    "mesh", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}], ids=["fsdp4", "fsdp2-tensor2"]
)
def test_gradients_agree_across_meshes(
    mesh, updater_of, tiny_params, reference, one_device
):
    grads, metrics = gradient(
        updater_of(**mesh), tiny_params, reference, make_datums(16)
    )
    assert distance(grads, one_device[0]) < 1e-5
    assert metrics.keys() == one_device[1].keys()
    for name, value in metrics.items():
        assert value == pytest.approx(one_device[1][name], rel=1e-4, abs=1e-6), name


def test_moments_are_sharded_like_the_parameters(updater_of, tiny_params, reference):
    updater = updater_of(fsdp=2, tensor=2)
    state = updater.states.init(tiny_params)
    placed = updater.states.reference_params(reference)
    after, _ = updater.update_mini_batch(state, placed, updater.pack(make_datums(6)))
    adam = after.opt_state
    for moments in (adam.mu, adam.nu):
        assert moments["embed"].sharding.spec == P("tensor", "fsdp")
        for moment, param in zip(
            jax.tree.leaves(moments), jax.tree.leaves(after.params), strict=True
        ):
            assert moment.dtype == jnp.float32
            assert moment.sharding == param.sharding
    local = adam.mu["blocks"]["mlp"]["up"].addressable_shards[0].data
    assert local.size * 4 == after.params["blocks"]["mlp"]["up"].size


def test_order_and_micro_batch_size_do_not_change_the_gradient(
    updater_of, tiny_params, reference, one_device
):
    shuffled = make_datums(16)[::-1]
    same, _ = gradient(updater_of(), tiny_params, reference, shuffled)
    assert distance(same, one_device[0]) == 0.0
    # Other row length, other rows a micro-batch, other chunks: other sums, same values.
    shape = UpdateConfig(length=64, rows=1, capacity=2, logit_chunk=64, remat="none")
    updater = updater_of(update=shape)
    assert updater.pack(shuffled).num_micro > 2
    other, _ = gradient(updater, tiny_params, reference, shuffled)
    assert distance(other, one_device[0]) < 1e-6


def test_one_program_serves_any_number_of_micro_batches(
    updater_of, tiny_params, reference
):
    updater = updater_of()
    updater.compile()
    before = set(updater.programs)
    assert before == {("update", 2), ("logprobs", 2)}
    state = updater.states.init(tiny_params)
    placed = updater.states.reference_params(reference)
    for count in (2, 16, 9):
        batch = updater.pack(make_datums(count))
        state, _ = updater.update_mini_batch(state, placed, batch)
        old = updater.logprobs(state.params, batch)
        state, _ = updater.update_mini_batch(state, placed, batch, old_logprobs=old)
    assert set(updater.programs) == before


def test_donation_spares_the_callers_parameters(updater_of, tiny_params, reference):
    updater = updater_of()
    state = updater.states.init(tiny_params)
    sampler = updater.states.policy_params(state)
    placed = updater.states.reference_params(reference)
    after, _ = updater.update_mini_batch(state, placed, updater.pack(make_datums(4)))
    assert state.params["embed"].is_deleted()
    for kept in (tiny_params, sampler, placed, after.params):
        assert not kept["embed"].is_deleted()
    assert int(after.step) == 1


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    updater_of, tiny_params, reference
):
    updater = updater_of()
    placed = updater.states.reference_params(reference)
    broken = jax.tree.map(lambda x: x, tiny_params)
    broken["final_norm"] = broken["final_norm"] * jnp.nan
    before = jax.device_get(updater.states.init(broken))
    after, metrics = updater.update_mini_batch(
        updater.states.init(broken), placed, updater.pack(make_datums(4))
    )
    assert metrics["loss/skipped"] == 1.0
    assert int(after.skipped) == 1 and int(after.step) == 1
    for name in ("params", "opt_state"):
        for a, b in zip(
            jax.tree.leaves(getattr(before, name)),
            jax.tree.leaves(getattr(after, name)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_training_stops_after_so_many_gradients_that_are_not_finite(
    updater_of, tiny_params, reference
):
    updater = updater_of()
    placed = updater.states.reference_params(reference)
    broken = tiny_params | {"final_norm": tiny_params["final_norm"] * jnp.nan}
    # Two mini-batches a step: the third skipped update is in the second step.
    state, metrics = updater.update(
        updater.states.init(broken), placed, make_datums(12)
    )
    assert metrics["loss/skipped"] == 2.0
    whole, _ = updater.update(updater.states.init(tiny_params), placed, make_datums(6))
    state, _ = updater.update(state, placed, make_datums(12))
    last = make_datums(12, seed=4)
    with pytest.raises(NonFiniteUpdateError, match="3 gradients in a row") as caught:
        updater.update(state, placed, last)
    assert caught.value.datums == tuple(last)
    updater.update(whole, placed, make_datums(6))  # and another starts from none


def test_parameters_that_come_out_not_finite_stop_training_at_once(
    updater_of, tiny_params, reference
):
    config = OptimizerConfig(learning_rate=3e38, weight_decay=3.0)
    updater = updater_of(optimizer=config)
    placed = updater.states.reference_params(reference)
    datums = make_datums(12)
    with pytest.raises(NonFiniteUpdateError, match="made parameters that") as caught:
        updater.update(updater.states.init(tiny_params), placed, datums)
    assert caught.value.datums == tuple(datums)


def test_a_batch_with_nothing_that_fits_leaves_the_state_alone(
    updater_of, tiny_params, reference
):
    updater = updater_of()
    state = updater.states.init(tiny_params)
    long = Datum(
        uid="1/solver/0/0/0",
        turn=0,
        ids=(1,) * 60,
        loss_mask=(0,) + (1,) * 59,
        sampled_mask=(0,) * 60,
        logprobs=(float("nan"),) * 60,
    )
    same, metrics = updater.update(
        state, updater.states.reference_params(reference), [long]
    )
    assert same is state
    assert metrics["loss/dropped_rows"] == 1.0 and metrics["loss/updates"] == 0.0


def test_agreement_compares_sampled_tokens_with_the_samplers_logprobs(
    updater_of, tiny_params, reference, tiny_config
):
    datum = make_datums(1)[0]
    model = jax.jit(forward.forward, static_argnums=1)
    logits = model(tiny_params, tiny_config, jnp.array([datum.ids]))
    logits = np.float64(logits[0, :-1, :VALID])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = log_p[np.arange(len(datum.ids) - 1), datum.ids[1:]]
    sampled = np.array(datum.sampled_mask[1:], bool)
    noted = np.where(sampled, own + 0.01, np.nan)
    datum = Datum(**(vars(datum) | {"logprobs": (float("nan"), *noted.tolist())}))
    _, metrics = gradient(updater_of(), tiny_params, reference, [datum])
    assert metrics["agree/mean"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["agree/max"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["agree/prob_error"] == pytest.approx(np.exp(0.01), abs=1e-5)


def test_rows_that_cannot_be_spread_over_the_mesh_are_refused(tiny_config):
    with pytest.raises(UserError, match=r"update.rows=3: .* multiple of 4"):
        Updater(
            tiny_config,
            LOSS,
            OPTIMIZER,
            UpdateConfig(rows=3),
            sharding.make_mesh(fsdp=4),
        )


def test_importance_weights_are_truncated_and_only_for_sampled_tokens(
    tiny_config, updater_of, tiny_params, reference
):
    """With one update the ratio is 1, so the policy loss is the weighted advantage."""
    datums = make_datums(6)
    plain, loss = updater_of(), dataclasses.replace(LOSS, importance_cap=1.5)
    weighed = Updater(
        tiny_config, loss, OPTIMIZER, SHAPE, sharding.make_mesh(), valid_vocab=VALID
    )
    batch = plain.pack(datums)
    own = np.float64(plain.logprobs(plain.states.init(tiny_params).params, batch))
    _, metrics = gradient(weighed, tiny_params, reference, datums)
    arrays = batch.arrays
    ratio = np.exp(own - arrays["sampler_logprobs"])
    weight = np.where(arrays["sampled_mask"], np.minimum(ratio, 1.5), 1.0)
    assert (ratio[arrays["sampled_mask"] > 0] > 1.5).any()
    assert (ratio[arrays["sampled_mask"] > 0] < 1.5).any()
    want = -(weight * arrays["advantages"] * arrays["weights"]).sum()
    assert metrics["loss/policy"] == pytest.approx(want, rel=1e-5)
    unweighed = -(arrays["advantages"] * arrays["weights"]).sum()
    assert abs(want - unweighed) > 1e-3


@pytest.mark.parametrize("chunk", [8, 48], ids=["chunked", "whole"])
def test_no_compiled_buffer_has_a_vocabulary_and_more_than_a_chunk_of_tokens(
    chunk, tiny_config, compiled_here
):
    # A prime that nothing else is a multiple of, so that its buffers are known by it.
    vocab, rows, length = 97, 4, 48
    config = dataclasses.replace(tiny_config, vocab_size=vocab)
    shape = UpdateConfig(length=length, rows=rows, capacity=1, logit_chunk=chunk)
    updater = Updater(config, LOSS, OPTIMIZER, shape, sharding.make_mesh())
    updater.compile()
    text = updater.programs["update", 1].as_text()
    tokens = set()
    for dims in re.findall(r"\b(?:f32|bf16|pred|s32|u32)\[([\d,]+)\]", text):
        sizes = [int(size) for size in dims.split(",")]
        if any(size % vocab == 0 for size in sizes):
            tokens.add(np.prod(sizes) // vocab)
    # Other than chunks: the embedding and its gradient, D wide.
    assert config.hidden_size in tokens
    found = max(tokens) <= max(rows * chunk, config.hidden_size)
    assert found and (max(tokens) < rows * length) == (chunk == 8)


def test_an_optimizer_that_waits_in_host_memory_changes_nothing(
    updater_of, tiny_params, reference
):
    states = []
    for offload in (True, False):
        shape = dataclasses.replace(SHAPE, offload_optimizer=offload)
        updater = updater_of(update=shape)
        placed = updater.states.reference_params(reference)
        state = updater.states.init(tiny_params)
        for step in range(2):
            state = updater.states.park(state)
            kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state)}
            assert ("pinned_host" in kinds) == offload
            state, _ = updater.update(state, placed, make_datums(6, seed=step))
        states.append(jax.device_get(state))
    for one, two in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(one, two)
