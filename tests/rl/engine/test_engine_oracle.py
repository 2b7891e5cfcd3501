"""Many random requests against a plain loop; a long random life loses no slot."""

import time
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from models import forward
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.engine.sampling import seed64
from rl.engine.stopping import first_stop
from rl.records import Request, SamplingParams

LENGTH = 128
SIZES = EngineConfig(
    slots=8,
    max_length=LENGTH,
    decode_steps=4,
    prefill_chunk=16,
    prefill_rows=3,
    page_size=32,
)
VOCAB = 60


class Letters:
    """Every id is one letter; the model has four ids more than there are here."""

    def get_vocab(self):
        return {str(i): i for i in range(VOCAB)}

    def decode(self, ids, skip_special_tokens=False):
        return "".join("ABCDEFGHIJ"[i % 10] for i in ids)


@pytest.fixture(scope="module")
def params(tiny_config):
    return jax.jit(lambda key: forward.init(tiny_config, key, embed_std=0.5))(
        jax.random.key(3)
    )


@pytest.fixture(scope="module")
def engine(tiny_config, params):
    engine = Engine(params, tiny_config, Letters(), SIZES)
    engine.compile()
    return engine


@pytest.fixture(scope="module")
def plain(tiny_config, params):
    """Greedy decoding as one would write it first: no cache, one row, one token."""
    run = jax.jit(lambda row: forward.forward(params, tiny_config, row[None])[0])

    def decode(request: Request) -> tuple[list[int], str, str]:
        ids, new, text, reason = list(request.ids), [], "", "length"
        limit = min(request.sampling.max_new_tokens, LENGTH - len(ids))
        while len(new) < limit:
            row = jnp.asarray(ids + [0] * (LENGTH - len(ids)))
            token = int(np.argmax(run(row)[len(ids) - 1, :VOCAB]))
            ids.append(token)
            new.append(token)
            if token in request.stop_ids:
                return new, text, "stop"
            text += Letters().decode([token])
            found = first_stop(text, request.stop)
            if found:
                return new, text[: found[0]], "stop"
        return new, text, reason

    return decode


def some_request(rng: np.random.Generator, ids: list[int], *, greedy: bool) -> Request:
    """Random limits and stops for a prompt."""
    letters = "".join(rng.choice(list("ABCDEFGHIJ"), 2))
    kinds = [{"temperature": 0.0}] if greedy else [{}, {"top_p": 0.8}, {"top_k": 9}]
    return Request(
        ids=tuple(ids),
        sampling=SamplingParams(
            max_new_tokens=int(rng.integers(1, 30)), **kinds[rng.integers(len(kinds))]
        ),
        stop=(letters, "ABCDE") if rng.random() < 0.4 else (),
        stop_ids=tuple(ids[:2]) if rng.random() < 0.4 else (),
        seed64=int(rng.integers(0, 2**63)),
    )


def new_ids(rng: np.random.Generator, most: int) -> list[int]:
    return rng.integers(0, VOCAB, rng.integers(1, most)).tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_200_greedy_requests_are_those_of_a_plain_loop(engine, params, plain, seed):
    """Lengths, arrivals, stops, groups and next turns at random."""
    engine.set_params(params)
    rng = np.random.default_rng(seed)
    asked, found = {}, {}
    reasons, saved = Counter(), 0
    while len(asked) < 100 or not engine.idle:
        for _ in range(rng.integers(0, 5) if len(asked) < 100 else 0):
            past = list(found)
            kind = rng.random()
            if kind < 0.3 and past:  # the next turn of a conversation
                before = past[rng.integers(len(past))]
                ids = [*asked[before].ids, *found[before].ids, *new_ids(rng, 20)]
            elif kind < 0.6 and asked:  # another of a group
                ids = list(asked[rng.choice(list(asked))].ids)
            else:
                ids = new_ids(rng, 100)
            if len(ids) >= LENGTH:
                ids = new_ids(rng, 100)
            request = some_request(rng, ids, greedy=True)
            asked[engine.submit(request)] = request
        found |= dict(engine.poll())
    assert found.keys() == asked.keys()
    for id, request in asked.items():
        ids, text, reason = plain(request)
        got = found[id]
        assert (list(got.ids), got.text, got.finish_reason) == (ids, text, reason), id
        reasons[reason] += 1
        saved += got.cached_tokens
    assert min(reasons.values()) > 5 and saved > 1000


def test_10_000_random_operations_lose_no_slot(engine, params):
    """Whatever happens to requests: one typed completion each, and all slots again."""
    engine.set_params(params)
    rng = np.random.default_rng(7)
    expected: dict[int, set[str]] = {}
    asked, found, good = {}, {}, []
    actions = ["submit", "twin", "bad", "long", "late", "cancel", "poll"]
    chances = [0.35, 0.15, 0.03, 0.03, 0.04, 0.2, 0.2]
    engine.submit(some_request(rng, new_ids(rng, 60), greedy=False))
    for operation in range(10_000):
        action = rng.choice(actions, p=chances)
        if len(engine._admission.waiting) > 40:
            action = "poll"
        request = some_request(rng, new_ids(rng, 120), greedy=False)
        fine = {"stop", "length"}
        if action == "twin" and good:
            request = replace(request, ids=good[rng.integers(len(good))])
        elif action == "bad":
            request, fine = replace(request, ids=(VOCAB + 10,)), {"error"}
        elif action == "long":
            request, fine = replace(request, ids=request.ids * LENGTH), {"length"}
        elif action == "late":
            # Some have passed already, some will while it runs.
            deadline = time.monotonic() + float(rng.uniform(-0.01, 0.02))
            request, fine = replace(request, deadline=deadline), fine | {"cancelled"}
        if action in ("submit", "twin", "bad", "long", "late"):
            id = engine.submit(request)
            asked[id], expected[id] = request, set(fine)
            if action in ("submit", "twin"):
                good = [*good[-20:], request.ids]
        elif action == "cancel" and asked:
            id = int(rng.choice(list(asked)[-30:]))
            engine.cancel(id)
            expected[id].add("cancelled")
        elif action == "poll":
            for id, completion in engine.poll():
                assert id not in found
                found[id] = completion
        slots = [sequence.slot for sequence in engine._running.values()]
        assert len(set(slots)) == len(slots) <= SIZES.slots, operation
    while not engine.idle:
        found |= dict(engine.poll())
    for id, reasons in expected.items():
        assert found[id].finish_reason in reasons, id
        assert len(found[id].ids) == len(found[id].logprobs)
    outcomes = Counter(completion.finish_reason for completion in found.values())
    assert min(outcomes[r] for r in ("stop", "length", "cancelled", "error")) > 100
    # Every slot can be had again, all of them at once.
    assert not engine._running and not engine._admission.waiting
    (pool,) = engine._admission._pools
    assert pool.unused == pool.size and not any(pool._users)
    last = [Request(ids=(1, 2, slot + 3)) for slot in range(SIZES.slots)]
    for request in last:
        engine.submit(request)
    engine.poll()
    assert len(engine._running) == SIZES.slots
    while not engine.idle:
        engine.poll()


def allowed(logits: np.ndarray, s: SamplingParams) -> np.ndarray:
    """Probabilities after temperature and truncation, in float64, by sorting."""
    scaled = logits.astype(np.float64) / s.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p)
    keep = order[: s.top_k] if s.top_k else order
    left = p[keep] / p[keep].sum()
    keep = keep[: np.searchsorted(np.cumsum(left), s.top_p) + 1]
    keep = keep[p[keep] >= s.min_p * p.max()]
    truncated = np.zeros_like(p)
    truncated[keep] = p[keep] / p[keep].sum()
    return truncated


def test_50_000_sampled_tokens_pass_a_chi_squared_test(tiny_config, params):
    """Through the whole engine, with a model whose next token depends on nothing."""
    blocks = {
        "attn": params["blocks"]["attn"] | {"o": params["blocks"]["attn"]["o"] * 0},
        "mlp": params["blocks"]["mlp"] | {"down": params["blocks"]["mlp"]["down"] * 0},
    }
    same = jnp.broadcast_to(params["embed"][:1], params["embed"].shape)
    forgetful = params | {"blocks": params["blocks"] | blocks, "embed": same}
    row = forward.forward(forgetful, tiny_config, jnp.asarray([[1, 2]]))[0]
    np.testing.assert_array_equal(row[0], row[1])
    logits = np.asarray(row[0, :VOCAB])
    sizes = replace(SIZES, slots=40, decode_steps=32)
    engine = Engine(forgetful, tiny_config, Letters(), sizes)
    settings = [
        SamplingParams(max_new_tokens=100),
        SamplingParams(max_new_tokens=100, temperature=1.6),
        SamplingParams(max_new_tokens=100, top_k=7),
        SamplingParams(max_new_tokens=100, temperature=0.7, top_p=0.9),
        SamplingParams(max_new_tokens=100, temperature=1.3, min_p=0.05, top_p=0.95),
    ]
    requests = [
        Request(ids=(1, 2), sampling=s, seed64=seed64("chi", kind, i))
        for i in range(100)
        for kind, s in enumerate(settings)
    ]
    done = engine.generate(requests)
    for kind, s in enumerate(settings):
        tokens = np.concatenate([c.ids for c in done[kind :: len(settings)]])
        assert len(tokens) == 10_000
        p = allowed(logits, s)
        seen = np.bincount(tokens, minlength=VOCAB)
        assert not seen[p == 0].any()
        rare = (p > 0) & (p * len(tokens) < 5)  # too few for the test: one class
        observed = np.append(seen[(p > 0) & ~rare], seen[rare].sum())
        expected = np.append(p[(p > 0) & ~rare], p[rare].sum()) * len(tokens)
        observed, expected = observed[expected > 0], expected[expected > 0]
        assert stats.chisquare(observed, expected).pvalue > 1e-3, s
