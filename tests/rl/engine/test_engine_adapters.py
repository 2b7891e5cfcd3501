"""Several adapters in one batch: each request gets its own, whatever the company."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward, lora
from models.errors import UserError
from models.fingerprint import fingerprint
from models.lora import LoraConfig
from rl.engine.engine import Engine
from tests.models.test_lora import random_adapter
from tests.rl.engine.engine_world import SIZES, Letters, crowd, make_params, sampled
from tests.rl.engine.engine_world import request as request_of

SETTINGS = LoraConfig(rank=3, alpha=6)
COUNT = 3


@pytest.fixture(scope="module")
def params(tiny_config):
    return make_params(tiny_config, 3)


@pytest.fixture(scope="module")
def adapters(tiny_config):
    """Scaled, by number."""
    return {
        number: lora.scaled(random_adapter(tiny_config, SETTINGS, number), SETTINGS)
        for number in range(1, COUNT + 1)
    }


@pytest.fixture(scope="module")
def shared(tiny_config, params):
    engine = Engine(
        params, tiny_config, Letters(), SIZES, lora=SETTINGS, adapters=COUNT
    )
    engine.compile()
    return engine


def forget(engine, adapters):
    """The engine as if new: all adapters in place, nothing in the cache."""
    engine.free_cache()
    for number, adapter in adapters.items():
        engine.set_adapter(number, adapter)


@pytest.fixture
def engine(shared, adapters):
    forget(shared, adapters)
    return shared


def mixed(count=24):
    """The crowd, whose groups share prompts, with every adapter and none."""
    return [replace(one, adapter=i % 4) for i, one in enumerate(crowd(count))]


def test_a_completion_is_bit_identical_alone_and_beside_other_adapters(
    engine, adapters
):
    requests = mixed()
    alone = []
    for one in requests:
        forget(engine, adapters)
        alone += engine.generate([one])
    together = {}
    for shuffle in range(3):
        if shuffle < 2:
            forget(engine, adapters)
        order = np.random.default_rng(shuffle).permutation(len(requests))
        ids, found = {}, {}
        for at, index in enumerate(order):
            ids[engine.submit(requests[index])] = index
            if at % (shuffle + 2) == 0:
                found |= dict(engine.poll())
        while not engine.idle:
            found |= dict(engine.poll())
        together = {ids[id]: completion for id, completion in found.items()}
        together = [together[i] for i in range(len(requests))]
        assert sampled(together) == sampled(alone)
    assert sum(c.cached_tokens for c in together) > 0


@pytest.mark.parametrize("number", range(COUNT + 1))
def test_each_adapter_samples_its_merged_model(
    engine, tiny_config, params, adapters, number
):
    merged = lora.merge(params, adapters[number]) if number else params
    asked = request_of(0, 37, 20, sampling={"temperature": 0.0}, adapter=number)
    (done,) = engine.generate([asked])
    row = np.asarray([asked.ids + done.ids])
    logits = jax.jit(forward.forward, static_argnums=1)(merged, tiny_config, row)
    logprobs = jax.nn.log_softmax(logits[0, 36:-1, :60])
    expected = logprobs[np.arange(20), list(done.ids)]
    np.testing.assert_allclose(done.logprobs, expected, atol=3e-5)


def test_a_prompt_of_another_adapter_is_not_found_in_the_cache(engine):
    first, again, other = (
        engine.generate([replace(request_of(6, 40, 10), adapter=number)])[0]
        for number in (1, 1, 2)
    )
    assert (first.cached_tokens, again.cached_tokens, other.cached_tokens) == (0, 32, 0)
    assert sampled([again]) == sampled([first]) != sampled([other])


def test_a_swap_forgets_what_the_adapter_computed_and_nothing_else(engine, adapters):
    asked = [replace(request_of(7, 40, 6), adapter=number) for number in (1, 2, 0)]
    before = engine.generate(asked)
    engine.set_adapter(1, adapters[3])
    assert engine.weights(1)[1] == 0  # no page of the old one can be found
    after = engine.generate(asked)
    assert [c.cached_tokens for c in after] == [0, 32, 32]
    assert sampled(after[1:]) == sampled(before[1:])
    # In another place an adapter samples the same.
    assert sampled(after[:1]) == sampled(
        engine.generate([replace(asked[0], adapter=3)])
    )
    assert sampled(after[:1]) != sampled(before[:1])


def test_an_empty_place_is_the_model_itself(engine):
    engine.set_adapter(1, None)
    asked = request_of(8, 30, 12)
    base, empty = (
        engine.generate([replace(asked, adapter=number)])[0] for number in (0, 1)
    )
    assert sampled([empty]) == sampled([base])


def test_an_adapter_in_use_is_not_swapped(engine, adapters):
    engine.submit(replace(request_of(1), adapter=2))
    with pytest.raises(RuntimeError, match="adapter 2 has unfinished requests"):
        engine.set_adapter(2, adapters[1])
    engine.set_adapter(3, adapters[1])  # nobody is using it
    while not engine.idle:
        engine.poll()


def test_an_adapter_that_is_not_finite_is_refused(engine, adapters):
    broken = jax.tree.map(lambda x: x.at[0].set(jnp.nan), adapters[1])
    with pytest.raises(UserError, match="not finite"):
        engine.set_adapter(1, broken)


def test_an_unknown_adapter_is_the_requests_fault(engine):
    (done,) = engine.generate([replace(request_of(1), adapter=COUNT + 1)])
    assert done.finish_reason == "error"
    assert done.problem == "adapter=4: the engine has 3 of them"


def test_the_fingerprint_is_that_of_the_adapter_as_it_was_given(engine, adapters):
    for number, adapter in adapters.items():
        held = tuple(np.asarray(fingerprint(adapter)).tolist())
        assert engine.weights(number) == (held, 0)


def test_the_weights_stay_when_the_cache_goes(engine, params):
    held = engine.weights()
    before = engine.generate([request_of(2)])
    engine.free_cache()
    assert engine.weights() == held
    assert sampled(engine.generate([request_of(2)])) == sampled(before)


def test_weights_that_are_taken_are_in_memory_once(tiny_config, params):
    own = jax.tree.map(jnp.copy, params)
    engine = Engine(own, tiny_config, Letters(), SIZES, take=True)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(own))
    assert engine.generate([request_of(3)])[0].finish_reason == "length"
