"""Advantages, loss, penalty, aggregation and their gradients, and ten optimizer steps,
against section 12 of the method in float64 torch; and each formula made wrong."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import method_oracle as oracle
import numpy as np
import pytest

from models import forward, sharding
from models.hf.layout import flatten, layout
from rl.learner import losses
from rl.learner.advantages import group_advantages
from rl.learner.config import UpdateConfig
from rl.learner.losses import LossConfig
from rl.learner.optimizer import OptimizerConfig
from rl.learner.update import Updater
from rl.records import Datum

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MODES = ("token_mean", "row_mean", "constant_length", "micro_batch_mean")


def relative(a, b):
    a, b = (np.ravel(np.asarray(x, np.float64)) for x in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# ------------------------------------------------------------ one batch of log-probs


def ours(seed, mode, kind):
    """Our loss of a random batch in float32, its terms, and its gradient."""
    logp, old, ref, mask, rewards, groups = oracle.random_batch(seed)
    a = jnp.float32(group_advantages(rewards, groups))
    wide = jnp.repeat(a[:, None], logp.shape[1], axis=1)
    config = LossConfig(
        clip_high=0.28,
        dual_clip=1.5,
        aggregation=mode,
        group_rows=2,
        constant_length=17,
    )
    weights = losses.token_weights(np.asarray(mask).sum(1), config)

    def weighted(x):
        return jnp.where(mask, x * jnp.float32(weights)[:, None], 0.0).sum()

    def loss(logp):
        policy = weighted(losses.policy_loss(logp, old, wide, mask, config))
        reference = jnp.where(mask, ref, 0.0)
        penalty = weighted(losses.kl_penalty(logp, reference, kind=kind))
        return policy + 0.1 * penalty, (policy, penalty)

    grad, terms = jax.grad(loss, has_aux=True)(jnp.where(mask, logp, -1.0))
    return a, terms, grad


def theirs(seed, mode, kind, wrong=""):
    logp, old, ref, mask, rewards, groups = oracle.random_batch(seed)
    a = oracle.advantages(list(rewards), list(groups), wrong=wrong)
    chosen = [np.flatnonzero(row) for row in mask]
    new, before, base = (
        [torch.tensor(np.float64(x[i, at])) for i, at in enumerate(chosen)]
        for x in (logp, old, ref)
    )
    for row in new:
        row.requires_grad_()
    how = {"mode": mode, "group_rows": 2, "constant_length": 17, "wrong": wrong}
    policy = oracle.mean(
        [
            oracle.policy_loss(n, b, x, low=0.2, high=0.28, dual=1.5, wrong=wrong)
            for n, b, x in zip(new, before, a, strict=True)
        ],
        **how,
    )
    penalty = oracle.mean(
        [
            oracle.kl(n, r, kind=kind, wrong=wrong)
            for n, r in zip(new, base, strict=True)
        ],
        **how,
    )
    (policy + (0.0 if wrong == "no kl" else 0.1) * penalty).backward()
    grad = np.zeros(logp.shape)
    for i, at in enumerate(chosen):
        grad[i, at] = new[i].grad.numpy()
    return a, (float(policy.detach()), float(penalty.detach())), grad


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("mode", MODES)
def test_ragged_batches_agree_with_the_oracle_to_1e_6(mode, kind):
    for seed in range(4):
        got, want = ours(seed, mode, kind), theirs(seed, mode, kind)
        assert relative(got[0], want[0]) < 1e-6
        assert got[1] == pytest.approx(want[1], rel=1e-6, abs=1e-6)
        assert relative(got[2], want[2]) < 1e-6


@pytest.mark.parametrize("wrong", oracle.WRONG[:11])
def test_a_wrong_formula_is_seen_in_a_batch(wrong):
    _, _, got = ours(0, "token_mean", "k3")
    _, _, want = theirs(0, "token_mean", "k3", wrong)
    assert relative(got, want) > 1e-3


def test_terms_beyond_their_bounds_are_constant():
    logp = jnp.array([[-1.0, -1.0, -1.0]])
    far = jnp.array([[-30.0, 30.0, 2.0]])
    penalty = lambda x: losses.kl_penalty(x, far, kind="k3").sum()  # noqa: E731
    value, grad = jax.value_and_grad(penalty)(logp)
    assert float(value) == pytest.approx(10.0 + 10.0 + 10.0)
    np.testing.assert_array_equal(grad[0, 1:], 0.0)
    args = (far - 40.0, -jnp.ones((1, 3)), jnp.ones((1, 3)), LossConfig())
    surrogate = lambda x: losses.policy_loss(x, *args).sum()  # noqa: E731
    value, grad = jax.value_and_grad(surrogate)(logp)
    assert float(value) == 9.0 and not np.asarray(grad).any()


# --------------------------------------------------------------------- ten steps

VALID = 60  # ids of the tokenizer; the model has 64
STEPS, ROWS, MINI_BATCH = 10, 16, 6  # mini-batches of 6, 6 and 4 rows
LOSS = LossConfig(
    clip_low=0.03, clip_high=0.06, dual_clip=1.1, kl_coefficient=0.1, group_rows=2
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, clip_norm=0.5)


def make_steps():
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(STEPS):
        lengths = rng.integers(6, 30, ROWS)
        rows = [
            oracle.Row(
                ids=tuple(int(t) for t in rng.integers(0, VALID, n)),
                prompt=int(rng.integers(1, n - 2)),
                reward=float(rng.normal(1.0, 0.5)),
                group=i // 4,
            )
            for i, n in enumerate(lengths)
        ]
        steps.append(rows)
    return steps


def to_datums(rows):
    a = group_advantages([r.reward for r in rows], [r.group for r in rows])
    datums = []
    for i, row in enumerate(rows):
        mask = (0,) * row.prompt + (1,) * (len(row.ids) - row.prompt)
        datums.append(
            Datum(
                uid=f"1/solver/0/{row.group}/{i % 4}",
                turn=0,
                ids=row.ids,
                loss_mask=mask,
                sampled_mask=mask,
                logprobs=tuple(-4.0 if m else float("nan") for m in mask),
                advantage=float(a[i]),
            )
        )
    return datums


def tensors(config, params):
    """The tree as Hugging Face's tensors by name, float64."""
    flat, found = flatten(jax.device_get(params)), {}
    for path, leaf in layout(config).items():
        values = flat[path] if leaf.stacked else [flat[path]]
        names = leaf.names(config.num_layers)
        for name, value in zip(names, values, strict=True):
            found[name] = np.float64(leaf.to_hf(value))
    return found


@pytest.fixture(scope="module")
def start(tiny_config, tiny_params):
    reference = jax.jit(forward.init, static_argnums=0)(tiny_config, jax.random.key(1))
    return tiny_params, reference


@pytest.fixture(scope="module")
def updater(tiny_config):
    shape = UpdateConfig(
        length=48, rows=2, capacity=4, logit_chunk=16, mini_batch_rows=MINI_BATCH
    )
    return Updater(
        tiny_config, LOSS, OPTIMIZER, shape, sharding.make_mesh(), valid_vocab=VALID
    )


@pytest.fixture(scope="module")
def trained(updater, start, tiny_config):
    """What our update makes of the parameters in ten steps, by aggregation."""

    def train(mode):
        # The program is the same: aggregation is all in the weights that it is given.
        mine = copy.copy(updater)
        mine.loss = dataclasses.replace(LOSS, aggregation=mode)
        state, clipped = mine.states.init(start[0]), 0.0
        reference = mine.states.reference_params(start[1])
        for rows in make_steps():
            state, metrics = mine.update(state, reference, to_datums(rows)[::-1])
            clipped = max(clipped, metrics["loss/clip_fraction"])
        assert clipped > 0.05  # or the old log-probs were never put to the test
        return tensors(tiny_config, state.params)

    return {mode: train(mode) for mode in MODES if mode != "constant_length"}


def torch_trained(config, start, mode, wrong=""):
    torch.set_num_threads(1)  # or it fights with XLA over the cores

    def model_of(params):
        shape = transformers.Qwen3Config(**config.to_hf())
        model = transformers.Qwen3ForCausalLM(shape).double()
        model.load_state_dict(
            {name: torch.tensor(x) for name, x in tensors(config, params).items()}
        )
        return model

    policy = model_of(start[0])
    oracle.train(
        policy,
        model_of(start[1]),
        make_steps(),
        valid=VALID,
        loss={
            "low": LOSS.clip_low,
            "high": LOSS.clip_high,
            "dual": LOSS.dual_clip,
            "kl_coefficient": LOSS.kl_coefficient,
            "group_rows": LOSS.group_rows,
            "mode": mode,
        },
        adam={
            "lr": OPTIMIZER.learning_rate,
            "betas": (OPTIMIZER.beta1, OPTIMIZER.beta2),
            "eps": OPTIMIZER.epsilon,
            "weight_decay": OPTIMIZER.weight_decay,
            "clip_norm": OPTIMIZER.clip_norm,
        },
        mini_batch=MINI_BATCH,
        wrong=wrong,
    )
    return {name: x.detach().numpy() for name, x in policy.state_dict().items()}


def off(got, want, before):
    """The difference of two trained models, relative to what training changed."""
    moved = np.sqrt(sum(((want[k] - before[k]) ** 2).sum() for k in before))
    return np.sqrt(sum(((want[k] - got[k]) ** 2).sum() for k in before)) / moved


@pytest.mark.parametrize("mode", ["token_mean", "row_mean", "micro_batch_mean"])
def test_ten_steps_of_mini_batches_follow_torch(mode, trained, tiny_config, start):
    want = torch_trained(tiny_config, start, mode)
    found = off(trained[mode], want, tensors(tiny_config, start[0]))
    print(f"{mode}: {found:.2e}")
    assert found <= 1e-3


@pytest.mark.parametrize("wrong", ("population std", "minimum", *oracle.WRONG[10:]))
def test_a_wrong_formula_is_seen_in_ten_steps(wrong, trained, tiny_config, start):
    want = torch_trained(tiny_config, start, "token_mean", wrong)
    found = off(trained["token_mean"], want, tensors(tiny_config, start[0]))
    print(f"{wrong}: {found:.2e}")
    assert found > 1e-3
