"""The optional losses against hand-worked sums, float64 NumPy and finite differences.

Rows hold several rollouts, with tokens outside the loss between them, so what holds
here holds for packed rows.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.errors import UserError
from rl.learner import losses, policies
from rl.learner.losses import LossConfig
from tests.rl.learner import losses_oracle as oracle
from tests.rl.learner.losses_oracle import Case

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LN2 = math.log(2)


def settings(kind, **more):
    """The configuration of a loss of ``losses_oracle``."""
    if kind == "sequence":
        return LossConfig(ratio="sequence", **more)
    return LossConfig(policy=kind, **more)


def rows(cases, per_row):
    """The arrays of a batch: ``per_row`` rollouts a row, each behind a prompt token."""
    length = per_row * (1 + max(len(case.new) for case in cases))
    count = -(-len(cases) // per_row)
    out = {
        name: np.full((count, length), np.nan, np.float32)
        for name in ("new", "old", "advantages", "outcomes", "group_rates")
    }
    out |= {
        name: np.zeros((count, length), np.int32)
        for name in ("loss_mask", "segment_ids", "case")
    }
    for name in ("teacher_logprobs", "teacher_weights"):
        out[name] = np.zeros((count, length), np.float32)
    for index, case in enumerate(cases):
        row, place = divmod(index, per_row)
        start = int((out["segment_ids"][row] > 0).sum())
        at = slice(start + 1, start + 1 + len(case.new))
        whole = slice(start, at.stop)
        out["segment_ids"][row, whole] = place + 1
        out["loss_mask"][row, at] = 1
        out["case"][row, whole] = index
        out["advantages"][row, whole] = 0.0
        values = {"new": case.new, "old": case.old, "advantages": case.advantage}
        values |= {"outcomes": case.outcome, "group_rates": case.rate}
        if case.teacher is not None:
            values["teacher_logprobs"] = np.nan_to_num(case.teacher)
            has = np.isfinite(case.teacher)
            values["teacher_weights"] = has * case.teacher_weight
        for name, value in values.items():
            out[name][row, at] = value
    return out


def each(cases, config, per_row):
    """Loss of every token and its gradient, case by case."""
    arrays = rows(cases, per_row)

    def total(new):
        micro = {k: jnp.asarray(v) for k, v in arrays.items()}
        found, *_ = policies.policy_term(new, micro["old"], micro, config)
        return found.sum(), found

    grads, found = jax.grad(total, has_aux=True)(jnp.asarray(arrays["new"]))
    inside = arrays["loss_mask"] != 0
    assert not np.asarray(found)[~inside].any() and not np.asarray(grads)[~inside].any()
    return [
        [np.asarray(x)[inside & (arrays["case"] == i)] for i in range(len(cases))]
        for x in (found, grads)
    ]


def by_hand():
    """Two groups of three: rewards 3, 0, 0 and 1, 1, -2, all log-probs -1.

    Ratios: (2, 1), (1/2), (1, 1, 1) and (2, 1/2), (1), (2). Without a deviation the
    advantages are 2, -1, -1 and 1, 1, -2.
    """
    ratios = ([2, 1], [0.5], [1, 1, 1], [2, 0.5], [1], [2])
    outcomes, rates = (1, 0, 0, 1, 1, 0), (1 / 3,) * 3 + (2 / 3,) * 3
    return [
        Case(
            new=-np.ones(len(ratio)),
            old=-1 - np.log(np.array(ratio, float)),
            advantage=advantage,
            outcome=outcome,
            rate=rate,
        )
        for ratio, advantage, outcome, rate in zip(
            ratios, (2.0, -1.0, -1.0, 1.0, 1.0, -2.0), outcomes, rates, strict=True
        )
    ]


def gate(tau, ratio):
    return 4 / tau / (1 + math.exp(-tau * (ratio - 1)))


HAND = {
    # (-2 x 1.28 - 2) + 0.8 + 3 + (-1.28 - 0.5) - 1 + 2 x 2, over 6 rows of length 4
    "dr_grpo": (0.46 / 24, "clip", {"aggregation": "constant_length"}),
    # and over 10 tokens
    "dapo": (0.046, "clip", {}),
    # means of log-ratios: ln 2 / 2, -ln 2, 0, 0, 0, ln 2; clipped at 0.9997 and 1.0004
    "gspo": ((-2.0008 + 0.9997 + 1 - 1 - 1 + 4) / 6, "sequence", {}),
    # the same with every token of a row counted
    "gspo_tokens": (
        (-2 * 2.0008 + 0.9997 + 3 - 2 - 1 + 4) / 10,
        "sequence",
        {"aggregation": "token_mean"},
    ),
    # -A w log pi with log pi = -1: 2 (1.28 + 1), -0.8, -3, 1.28 + 0.8, 1, -2 x 1.28
    "cispo": (0.128, "cispo", {}),
    "sapo": (
        (
            -2 * (gate(1, 2) + gate(1, 1))
            + gate(1.05, 0.5)
            + 3 * gate(1.05, 1)
            - gate(1, 2)
            - gate(1, 0.5)
            - gate(1, 1)
            + 2 * gate(1.05, 2)
        )
        / 10,
        "sapo",
        {},
    ),
    # sqrt 2 x (-ln 2 - ln 1.25): of the wrong ones only the ratio 1/2 leaves a P above
    # 1; the second group's right ones cancel
    "nft": (math.sqrt(2) * (-LN2 - math.log(1.25)) / 10, "nft", {}),
}


@pytest.mark.parametrize("per_row", [1, 4])
@pytest.mark.parametrize("name", HAND)
def test_two_groups_of_three_as_worked_by_hand(name, per_row):
    want, kind, more = HAND[name]
    config = settings(kind, clip_high=0.28, constant_length=4, **more)
    cases = by_hand()
    found, _ = each(cases, config, per_row)
    weights = losses.token_weights([len(case.new) for case in cases], config)
    got = sum(x.sum() * w for x, w in zip(found, weights, strict=True))
    assert got == pytest.approx(want, abs=2e-6)


def ragged(seed=0, count=9):
    """Random rollouts of 1 to 12 tokens; some ratios are far outside of every clip."""
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(count):
        n = int(rng.integers(1, 13))
        new = -rng.exponential(1.5, n)
        moved = rng.normal(size=n) * rng.choice([1e-4, 0.1, 1.0])
        teacher = np.where(rng.random(n) < 0.3, np.nan, -rng.exponential(1.5, n))
        cases.append(
            Case(
                new=new,
                old=new - moved,
                advantage=float(rng.normal()),
                outcome=float(i % 2),
                rate=[0.25, 0.5, 0.75, 1.0][i % 4],
                teacher=teacher,
                teacher_weight=0.5 + i % 3,
            )
        )
    far = np.array([12.0, 11.0])  # beyond the bound above, where nothing moves
    cases.append(Case(new=np.full(2, -1.0), old=-1.0 - far, advantage=-1.0, rate=0.5))
    return cases


@pytest.mark.parametrize("per_row", [1, 3])
@pytest.mark.parametrize("kind", oracle.LOSSES)
def test_values_and_gradients_are_those_of_float64(kind, per_row):
    cases = ragged()
    found, grads = each(cases, settings(kind), per_row)
    want = [oracle.LOSSES[kind](case, case.new) for case in cases]
    slopes = oracle.gradients(kind, cases)
    for i in range(len(cases)):
        np.testing.assert_allclose(found[i], want[i], rtol=3e-5, atol=3e-6)
        np.testing.assert_allclose(grads[i], slopes[i], rtol=1e-4, atol=1e-5)
    assert any(np.abs(slope).max() > 0.1 for slope in slopes)


@pytest.mark.parametrize(("kind", "wrong"), oracle.WRONG)
def test_a_mistake_in_a_formula_would_be_found(kind, wrong):
    cases = ragged(seed=1) + [
        Case(new=np.array([-1.0]), old=np.array([-3.0]), advantage=-1.0, rate=0.5),
        Case(new=np.array([-1.0, -1]), old=np.array([-3.0, -2]), advantage=1.0),
    ]
    found, grads = each(cases, settings(kind), 3)
    want = [oracle.LOSSES[kind](case, case.new, wrong=wrong) for case in cases]
    slopes = oracle.gradients(kind, cases, wrong=wrong)
    gaps = [
        np.abs(a - b).max()
        for a, b in zip((*found, *grads), (*want, *slopes), strict=True)
    ]
    assert not all(gap < 1e-2 for gap in gaps)


@pytest.mark.parametrize("balance", ["deviation", "rate"])
def test_nft_at_the_old_policy_is_grpo(balance):
    """With ratios of 1 its gradient is that of 0/1 rewards' advantages (divisor G)."""
    cases = by_hand()
    same = [Case(**(vars(case) | {"old": case.new})) for case in cases]
    _, grads = each(same, LossConfig(policy="nft", nft_balance=balance), 2)
    for case, grad in zip(same, grads, strict=True):
        q, c = case.rate, case.outcome
        advantage = c - q if balance == "rate" else (c - q) / math.sqrt(q * (1 - q))
        np.testing.assert_allclose(grad, -advantage, rtol=1e-5)


def test_nft_without_its_negative_part_trains_on_right_answers_only():
    cases = by_hand()
    found, _ = each(cases, LossConfig(policy="nft", nft_negative=0.0), 2)
    assert not any(found[i].any() for i, case in enumerate(cases) if not case.outcome)
    assert found[0].any()


@pytest.mark.parametrize("kind", ["clip", "sequence", "sapo", "cispo"])
def test_a_teacher_adds_to_the_advantage_of_its_tokens(kind):
    cases = ragged(seed=2)[:-1]
    found, grads = each(cases, settings(kind, distillation=0.3), 3)
    taught = [
        Case(**(vars(case) | {"advantage": oracle.with_teacher(case, 0.3)}))
        for case in cases
    ]
    slopes = oracle.gradients(kind, taught)
    for i, case in enumerate(taught):
        want = oracle.LOSSES[kind](case, case.new)
        np.testing.assert_allclose(found[i], want, rtol=3e-5, atol=3e-6)
        np.testing.assert_allclose(grads[i], slopes[i], rtol=1e-4, atol=1e-5)


def softmax_logprob(logits, tokens):
    return jax.nn.log_softmax(logits)[tokens]


def test_distillation_brings_a_toy_policy_to_its_teacher():
    """One distribution over 5 tokens, 400 samples a step, 60 steps at rate 0.5."""
    teacher = jax.nn.log_softmax(jnp.array([2.0, 0.0, -1.0, 1.0, 0.5]))
    config = LossConfig(distillation=1.0, clip_low=10.0, clip_high=10.0)

    def kl(logits):
        log_p = jax.nn.log_softmax(logits)
        return float((jnp.exp(log_p) * (log_p - teacher)).sum())

    @jax.jit
    def step(logits, key):
        tokens = jax.random.categorical(key, logits, shape=(400,))
        old = softmax_logprob(logits, tokens)[None]
        ones = jnp.ones((1, 400))
        micro = {
            "loss_mask": ones,
            "advantages": 0 * ones,
            "segment_ids": jnp.ones((1, 400), jnp.int32),
            "teacher_logprobs": teacher[tokens][None],
            "teacher_weights": ones,
        }

        def loss(x):
            new = softmax_logprob(x, tokens)[None]
            return policies.policy_term(new, old, micro, config)[0].mean()

        return logits - 0.5 * jax.grad(loss)(logits)

    logits = jnp.array([-2.0, 1.0, 1.0, 0.0, 0.0])
    start = kl(logits)
    for key in jax.random.split(jax.random.key(0), 60):
        logits = step(logits, key)
    assert start > 1.3 and kl(logits) < 0.01


def test_the_log_ratio_s_own_gradient_has_no_teacher_in_it():
    """Its mean over the policy's samples is 0, whatever the teacher is.

    That is why the difference is a constant in the advantage and not the loss.
    """
    logits = jnp.array([-2.0, 1.0, 1.0, 0.0, 0.0])
    teacher = jax.nn.log_softmax(jnp.array([2.0, 0.0, -1.0, 1.0, 0.5]))
    p = jax.nn.softmax(logits)

    def mean_gradient(of_token):
        each = jax.vmap(lambda token: jax.grad(of_token)(logits, token))(jnp.arange(5))
        return (p[:, None] * each).sum(0)

    def differentiated(x, token):
        return softmax_logprob(x, token) - teacher[token]

    def as_advantage(x, token):
        away = teacher[token] - softmax_logprob(logits, token)
        return -away * softmax_logprob(x, token)

    def kl(x):
        log_p = jax.nn.log_softmax(x)
        return (jnp.exp(log_p) * (log_p - teacher)).sum()

    np.testing.assert_allclose(mean_gradient(differentiated), 0.0, atol=1e-6)
    want = jax.grad(kl)(logits)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(mean_gradient(as_advantage), want, atol=1e-6)


def test_a_sequence_s_ratio_is_that_of_its_datum_only():
    """A neighbour in the row changes nothing of it, to the last bit of what it adds."""
    cases = ragged(seed=3)
    alone, _ = each(cases[:1], settings("sequence"), 1)
    beside, _ = each(cases[:3], settings("sequence"), 3)
    np.testing.assert_allclose(alone[0], beside[0], rtol=1e-6)


@pytest.mark.parametrize("policy", ["nft", "sapo", "cispo"])
def test_a_sequence_ratio_is_refused_where_it_means_nothing(policy):
    with pytest.raises(UserError, match=f'ratio="sequence".*"{policy}"') as caught:
        LossConfig(ratio="sequence", policy=policy)
    assert "\n" not in str(caught.value)


def test_a_teacher_is_refused_where_no_advantage_is_read():
    with pytest.raises(UserError, match=r'distillation=0\.5.*"nft"'):
        LossConfig(policy="nft", distillation=0.5)


def test_a_sequence_loss_is_a_row_mean_unless_another_is_chosen():
    assert LossConfig(ratio="sequence").averaging == "row_mean"
    for kind in ("token_mean", "constant_length"):
        assert LossConfig(ratio="sequence", aggregation=kind).averaging == kind
    assert LossConfig().averaging == "token_mean"


def test_clipped_shares_of_a_sequence_and_of_cispo():
    cases = by_hand()
    arrays = {k: jnp.asarray(v) for k, v in rows(cases, 3).items()}
    term = partial(policies.policy_term, arrays["new"], arrays["old"], arrays)
    _, clipped, dual = term(settings("sequence"))
    # Where clipping changes the loss: rows 1 (2 tokens) and 2; row 6 is not held back.
    assert float(clipped.sum()) == 3 and float(dual.sum()) == 0
    _, outside, _ = term(settings("cispo"))
    assert float(outside.sum()) == 5  # all ratios but the five of 1
