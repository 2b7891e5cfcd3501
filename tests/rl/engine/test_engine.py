"""The engine's promise: a completion depends on its request and on nothing else."""

import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from models import forward
from models.errors import UserError
from models.fingerprint import fingerprint
from rl.engine.engine import Engine
from rl.engine.programs import describe
from rl.records import Request
from tests.rl.engine.engine_world import (
    SIZES,
    Letters,
    crowd,
    make_params,
    request,
    sampled,
)

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def params(tiny_config):
    return make_params(tiny_config, 3)


@pytest.fixture(scope="module")
def shared(tiny_config, params):
    engine = Engine(params, tiny_config, Letters(), SIZES)
    engine.compile()
    return engine


@pytest.fixture
def engine(shared, params):
    shared.set_params(params)  # forgets the prefixes of other tests
    return shared


def test_greedy_tokens_and_logprobs_are_those_of_the_whole_row_forward(
    engine, tiny_config, params
):
    asked = request(0, 37, 20, sampling={"temperature": 0.0})
    (done,) = engine.generate([asked])
    row = np.asarray([asked.ids + done.ids])
    logits = jax.jit(forward.forward, static_argnums=1)(params, tiny_config, row)
    logits = logits[0, 36:-1]
    logprobs = jax.nn.log_softmax(logits[:, :60])
    assert done.ids == tuple(np.argmax(logits[:, :60], -1).tolist())
    expected = logprobs[np.arange(20), list(done.ids)]
    np.testing.assert_allclose(done.logprobs, expected, atol=1e-5)
    assert done.finish_reason == "length" and done.prompt_tokens == 37


def test_a_completion_is_bit_identical_alone_and_in_any_company(engine, params):
    requests = crowd()
    alone = []
    for one in requests:
        engine.set_params(params)
        alone += engine.generate([one])
    assert all(c.cached_tokens == 0 for c in alone)
    for shuffle in range(4):
        if shuffle != 3:  # the last finds the prefixes of the one before
            engine.set_params(params)
        order = np.random.default_rng(shuffle).permutation(len(requests))
        ids, found = {}, {}
        for at, index in enumerate(order):
            ids[engine.submit(requests[index])] = index
            if at % (shuffle + 2) == 0:  # arrivals between dispatches, in any slot
                found |= dict(engine.poll())
        while not engine.idle:
            found |= dict(engine.poll())
        together = {ids[id]: completion for id, completion in found.items()}
        together = [together[i] for i in range(len(requests))]
        assert sampled(together) == sampled(alone)
    assert sum(c.cached_tokens for c in together) > 0


def test_a_group_prefills_its_prompt_once(engine):
    before = engine.stats()
    group = [replace(request(5, 45), seed64=i) for i in range(6)]
    done = engine.generate(group)
    after = engine.stats()
    assert after["perf/prefill_tokens"] - before["perf/prefill_tokens"] == 45
    assert [c.cached_tokens for c in done] == [0] + [45] * 5
    assert len({c.ids for c in done}) == 6


def test_the_next_turn_computes_only_what_is_new(engine, params):
    first = request(6, 40, 10)
    (turn,) = engine.generate([first])
    following = replace(first, ids=first.ids + turn.ids + (1, 2, 3))
    (continued,) = engine.generate([following])
    assert continued.cached_tokens == 32  # the whole chunks of the first prompt
    engine.set_params(params)
    assert sampled(engine.generate([following])) == sampled([continued])


def test_a_stop_string_across_tokens_ends_behind_its_last_token(engine):
    (free,) = engine.generate([request(9, 20, 30)])
    for start in (0, 5, 17):
        stop = free.text[start : start + 3]
        first = free.text.index(stop) + 3
        (done,) = engine.generate([request(9, 20, 30, stop=("nope", stop))])
        assert (done.text, done.stop_string) == (free.text[:first], stop)
        assert done.ids == free.ids[:first]
        assert done.logprobs == free.logprobs[:first]
        assert done.finish_reason == "stop"


def test_a_stop_id_is_kept_in_the_ids_and_not_in_the_text(engine):
    (free,) = engine.generate([request(10, 20, 30)])
    stop = free.ids[6]
    first = free.ids.index(stop) + 1
    (done,) = engine.generate([request(10, 20, 30, stop_ids=(59, stop))])
    first = min(first, (free.ids + (59,)).index(59) + 1)
    assert done.ids == free.ids[:first] and done.text == free.text[: first - 1]
    assert done.finish_reason == "stop" and done.stop_string is None


def test_what_does_not_fit_or_makes_no_sense_is_a_typed_completion(engine):
    asked = [
        request(11, 120, 100),
        request(11, 128, 5),
        request(11, 20, 0),
        Request(ids=()),
        Request(ids=(64,)),
        Request(ids=(-1,)),
        request(11, sampling={"temperature": float("nan")}),
        request(11, sampling={"top_p": 0.0}),
        request(11, sampling={"temperature": 1e-50}),  # greedy in float32
        request(11, sampling={"temperature": 2e-38}),  # makes logits infinite
        request(11, sampling={"top_k": 2**31}),
        request(11, seed64=-1),
        request(11, seed64=2**64),
        request(11, stop_ids=tuple(range(9))),
    ]
    done = engine.generate(asked)
    assert [c.finish_reason for c in done] == ["length"] * 3 + ["error"] * 11
    assert [len(c.ids) for c in done] == [8] + [0] * 13
    # Which of them are malformed, and how, is said; a model's fault would not be.
    words = ["no tokens", "id 64: the model has 64", "id -1", "temperature=nan"]
    words += ["top_p=0.0", "temperature=1e-50", "temperature=2e-38"]
    words += ["top_k=", "seed64=-1", "seed64=1844"]
    words += ["9 stop ids: exceed engine.max_stop_ids=8"]
    assert [c.problem for c in done[:3]] == [""] * 3
    for completion, said in zip(done[3:], words, strict=True):
        assert said in completion.problem


def test_cancelled_and_late_requests_return_what_they_have(engine):
    asked = [request(i, 20, 60) for i in range(12)]
    asked[3] = replace(asked[3], deadline=time.monotonic() - 1)
    ids = [engine.submit(r) for r in asked]
    found = dict(engine.poll())
    assert found[ids[3]].finish_reason == "cancelled" and not found[ids[3]].ids
    engine.cancel(ids[0])
    engine.cancel(ids[11])  # still waiting: there are eight slots
    engine.cancel(10_000)
    found |= dict(engine.poll())
    assert 0 < len(found[ids[0]].ids) < 60
    assert found[ids[0]].finish_reason == found[ids[11]].finish_reason == "cancelled"
    while not engine.idle:
        found |= dict(engine.poll())
    assert sorted(found) == ids
    reasons = [found[id].finish_reason for id in ids]
    assert reasons.count("length") == 9


def test_a_follower_computes_the_prompt_when_its_source_is_cancelled(
    tiny_config, params, engine
):
    slow = Engine(params, tiny_config, Letters(), replace(SIZES, prefill_calls=1))
    slow._programs._compiled = engine._programs._compiled  # the same shapes
    long = request(12, 100, 5)
    leader, follower = slow.submit(long), slow.submit(replace(long, seed64=1))
    slow.poll()
    slow.cancel(leader)
    found = {}
    while not slow.idle:
        found |= dict(slow.poll())
    assert found[leader].finish_reason == "cancelled"
    assert sampled([found[follower]]) == sampled(
        engine.generate([replace(long, seed64=1)])
    )


def test_nothing_compiles_after_compile_and_weights_can_be_swapped(
    engine, tiny_config, params
):
    other = make_params(tiny_config, 4)
    donated = jax.tree.map(lambda x: x.copy(), params)
    engine.set_params(other)
    compiled = []

    def count(event, seconds, **_):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    first = engine.generate(crowd())
    engine.set_params(donated)
    jax.tree.map(lambda x: x.delete(), donated)
    second = engine.generate(crowd())
    assert COMPILED not in compiled
    jax.jit(lambda x: x * 3.25)(np.ones(3))
    assert COMPILED in compiled  # the counter counts
    assert sampled(first) != sampled(second)
    engine.submit(request(1))
    with pytest.raises(RuntimeError, match="1 requests unfinished"):
        engine.set_params(params)
    while not engine.idle:
        engine.poll()


def test_every_program_is_listed_with_its_memory(engine, params):
    memory = engine.compile()
    assert list(memory) == ["prefill", "copy", "decode"]
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    cache = sum(x.nbytes for x in jax.tree.leaves(engine._programs.state.cache))
    assert memory["decode"].arguments >= weights + cache
    assert memory["prefill"].temporary > 0
    assert "copy 0 MB" in describe(memory)


def test_four_devices_sample_what_one_does(engine, tiny_config, params):
    mesh = jax.make_mesh(
        (2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    split = Engine(params, tiny_config, Letters(), SIZES, mesh=mesh)
    requests = crowd()
    for expected, got in zip(
        engine.generate(requests), split.generate(requests), strict=True
    ):
        assert got.ids == expected.ids
        np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-5)
    assert split.stats()["perf/cached_tokens"] > 0
    assert len(split._programs.state.hidden.sharding.device_set) == 4


def test_logits_that_are_not_finite_end_a_request_and_touch_no_other(engine, params):
    alone = engine.generate(crowd())
    # Id 63 is in prompts only, and what it does to a model is in its prompts only.
    engine.set_params(params | {"embed": params["embed"].at[63].set(np.nan)})
    before = engine.stats()["perf/non_finite"]
    bad = [replace(request(200 + i), ids=(63, 1, 2, 3 + i)) for i in range(4)]
    mixed = [one for pair in zip(crowd()[:4], bad, strict=True) for one in pair]
    found = engine.generate(mixed + crowd()[4:])
    assert sampled(found[0:8:2] + found[8:]) == sampled(alone)
    for done in found[1:8:2]:
        assert (done.finish_reason, done.ids, done.text) == ("error", (), "")
        assert done.problem == ""
    assert engine.stats()["perf/non_finite"] - before == 4


def test_what_was_sampled_before_a_logit_broke_is_kept(engine, params):
    asked = request(0, 37, 40, sampling={"temperature": 0.0})
    (whole,) = engine.generate([asked])
    # The first id that is new where it comes: what follows it is NaN.
    at = next(i for i in range(5, 40) if whole.ids[i] not in asked.ids + whole.ids[:i])
    broken = params["embed"].at[whole.ids[at]].set(np.nan)
    engine.set_params(params | {"embed": broken})
    (done,) = engine.generate([asked])
    assert (done.finish_reason, done.ids) == ("error", whole.ids[: at + 1])
    assert done.logprobs == whole.logprobs[: at + 1]
    # A stop string that was complete before it is still a stop.
    stop = done.text[-2:]
    (stopped,) = engine.generate([replace(asked, stop=(stop,))])
    assert (stopped.finish_reason, stopped.stop_string) == ("stop", stop)


def test_a_full_cache_costs_time_and_changes_nothing(engine, tiny_config, params):
    requests = [request(i, 10 + 5 * i, 60) for i in range(12)]
    expected = engine.generate(requests)
    sizes = replace(SIZES, cache_tokens=2 * SIZES.max_length)
    small = Engine(params, tiny_config, Letters(), sizes)
    assert sampled(small.generate(requests)) == sampled(expected)
    assert small.stats()["perf/restarts"] > 0
    (pool,) = small._admission._pools
    assert pool.unused == pool.size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 9}, "slots=9: must be a multiple of the 4 devices"),
        ({"slots": 0}, "slots=0: must be at least 1"),
        ({"cache_tokens": -1}, "cache_tokens=-1: must be at least 0"),
        ({"page_size": 24}, "page_size=24: must be a multiple of prefill_chunk=16"),
        (
            {"cache_tokens": 500},
            "cache_tokens=500: on 4 devices, not even one",
        ),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    tiny_config, params, change, message
):
    mesh = jax.make_mesh((4,), ("data",))
    with pytest.raises(UserError, match=message):
        Engine(params, tiny_config, Letters(), replace(SIZES, **change), mesh=mesh)


def fingerprint_of(params):
    return tuple(jax.jit(fingerprint)(params).tolist())


def test_after_a_swap_it_has_the_new_weights_and_no_page_of_the_old(
    engine, tiny_config, params
):
    engine.generate([request(1, 40)])
    assert engine.weights() == (fingerprint_of(params), 0)
    others = make_params(tiny_config, 5)
    engine.set_params(others)
    assert engine.weights() == (fingerprint_of(others), 0)
    assert fingerprint_of(others) != fingerprint_of(params)


def test_pages_that_a_swap_has_left_are_counted(engine, tiny_config, monkeypatch):
    """The fault that it is for: a swap that forgets the cache."""
    engine.generate([request(1, 40)])
    monkeypatch.setattr(engine._admission, "clear", lambda: None)
    engine.set_params(make_params(tiny_config, 6))
    assert engine.weights()[1] == 1  # two whole chunks of 16 are in it
    (completion,) = engine.generate([request(1, 40)])
    assert completion.cached_tokens  # played on a prefix of other weights
