"""What is drawn, with what log-prob, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.engine.sampling import _invert, position_keys, row_keys, sample, seed64

VOCAB = 300
draw = jax.jit(sample, static_argnums=6)


def keys(rows: int, seed: int = 0):
    halves = jnp.full((rows, 2), jnp.uint32(seed))
    return position_keys(row_keys(halves), jnp.arange(rows))


def draw_rows(logits, *, t=1.0, top_p=1.0, top_k=0, min_p=0.0, valid=VOCAB, seed=0):
    rows = len(logits)
    spread = lambda x, dtype: jnp.broadcast_to(jnp.asarray(x, dtype), rows)  # noqa: E731
    tokens, logprobs = draw(
        jnp.asarray(logits, jnp.float32),
        keys(rows, seed),
        spread(t, jnp.float32),
        spread(top_p, jnp.float32),
        spread(top_k, jnp.int32),
        spread(min_p, jnp.float32),
        valid,
    )
    return np.asarray(tokens), np.asarray(logprobs)


def softmax(x):
    e = np.exp(np.float64(x) - np.max(x, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_seed_depends_on_every_part_its_type_and_order():
    seeds = [
        seed64(1, "a"),
        seed64("a", 1),
        seed64("1", "a"),
        seed64(1, "a", ""),
        seed64(1, "b"),
        seed64("1a"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert seed64(1, "a") == seeds[0] and 0 <= seeds[0] < 2**64
    assert max(seeds) > 2**32


def test_both_halves_of_a_seed_and_the_position_change_the_key():
    halves = jnp.array([[0, 0], [1, 0], [0, 1], [1, 1]], jnp.uint32)
    base = row_keys(halves)
    all_keys = [position_keys(base, jnp.full(4, p)) for p in (0, 1)]
    data = np.concatenate([jax.random.key_data(k) for k in all_keys])
    assert len({tuple(row) for row in data.tolist()}) == 8


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_follow_the_tempered_softmax(temperature):
    logits = np.random.default_rng(0).normal(size=VOCAB) * 2
    rows = 20_000
    tokens, logprobs = draw_rows(np.tile(logits, (rows, 1)), t=temperature)
    expected = softmax(logits / temperature)
    observed = np.bincount(tokens, minlength=VOCAB) / rows
    deviation = np.abs(observed - expected) / np.sqrt(expected / rows + 1e-9)
    assert deviation.max() < 5
    np.testing.assert_allclose(logprobs, np.log(expected)[tokens], atol=2e-6)


@pytest.mark.parametrize(
    "limits",
    [
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"min_p": 0.2},
        {"top_k": 20, "top_p": 0.8, "min_p": 0.05},
    ],
)
def test_truncation_keeps_what_a_sort_keeps_and_leaves_the_logprob_alone(limits):
    logits = np.random.default_rng(1).normal(size=VOCAB).astype(np.float32) * 2
    kept = np.argsort(-logits)
    if top_k := limits.get("top_k"):
        kept = kept[:top_k]
    p = softmax(logits)[kept]
    if top_p := limits.get("top_p"):
        kept = kept[: np.searchsorted(np.cumsum(p) / p.sum(), top_p) + 1]
    p = softmax(logits)
    kept = [i for i in kept if p[i] >= limits.get("min_p", 0.0) * p.max()]
    tokens, logprobs = draw_rows(np.tile(logits, (4_000, 1)), **limits)
    assert set(tokens) <= set(kept)
    likely = {i for i in kept if p[i] / p[kept].sum() > 0.005}
    assert likely <= set(tokens)
    np.testing.assert_allclose(logprobs, np.log(p)[tokens], atol=2e-6)


def test_greedy_takes_the_first_of_the_most_probable_and_ignores_the_key():
    logits = np.zeros((3, VOCAB))
    logits[0, 250] = logits[1, [7, 9]] = logits[2, 0] = 3.0
    for seed in range(3):
        tokens, logprobs = draw_rows(logits, t=0.0, seed=seed)
        assert tokens.tolist() == [250, 7, 0]
    np.testing.assert_allclose(logprobs[0], np.log(softmax(logits[0])[250]), atol=1e-6)


def test_ids_behind_the_tokenizer_are_never_drawn_and_have_no_probability():
    logits = np.zeros((500, VOCAB))
    logits[:, 290:] = 400.0
    for t in (0.0, 1.0):
        tokens, logprobs = draw_rows(logits, t=t, valid=290)
        assert tokens.max() < 290
        np.testing.assert_allclose(logprobs, -np.log(290), atol=1e-5)


def test_a_row_does_not_depend_on_what_other_rows_ask_for():
    logits = np.random.default_rng(2).normal(size=(8, VOCAB))
    plain = draw_rows(logits)
    mixed = draw_rows(logits, t=[1, 0, 1, 2, 1, 1, 1, 1], top_p=[1] + [0.5] * 7)
    crowd = draw_rows(logits, top_k=[0, 3, 1, 2, 4, 5, 6, 7], min_p=[0] + [0.1] * 7)
    for other in (mixed, crowd):
        assert (plain[0][0], plain[1][0]) == (other[0][0], other[1][0])


def test_the_ends_of_the_unit_interval_never_pick_a_token_without_mass():
    mass = np.zeros((4, VOCAB), np.float32)
    mass[:, 130:133] = [1e-7, 1.0, 1e-7]
    uniform = jnp.array([0.0, 1e-9, 1 - 2**-24, 1.0], jnp.float32)
    tokens = np.asarray(jax.jit(_invert)(mass, uniform))
    assert set(tokens) <= {130, 131, 132}
    assert tokens[0] == 130 and tokens[3] == 132


@pytest.mark.parametrize("limits", [{}, {"t": 0.0}, {"top_k": 5, "top_p": 0.9}])
@pytest.mark.parametrize("broken", ["a NaN", "an infinity", "all NaN", "all -inf"])
def test_logits_that_are_not_finite_give_a_known_id_and_no_logprob(broken, limits):
    logits = np.random.default_rng(3).normal(size=(2, VOCAB))
    places = slice(None) if broken.startswith("all") else 7
    logits[0, places] = {"NaN": np.nan, "infinity": np.inf, "-inf": -np.inf}[
        broken.split()[1]
    ]
    tokens, logprobs = draw_rows(logits, valid=250, **limits)
    assert tokens.min() >= 0 and tokens.max() < 250
    assert not np.isfinite(logprobs[0]) and np.isfinite(logprobs[1])
