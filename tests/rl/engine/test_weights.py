"""An engine says which weights it plays, and whether older ones are in its cache."""

import engine_world as world
import jax
import pytest

from models.fingerprint import fingerprint
from rl.engine.engine import Engine


@pytest.fixture(scope="module")
def engine(tiny_config, tiny_params):
    one = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    return Engine(tiny_params, tiny_config, world.Letters(), world.SIZES, mesh=one)


def of(params):
    return tuple(jax.jit(fingerprint)(params).tolist())


def test_after_a_swap_it_has_the_new_weights_and_no_page_of_the_old(
    engine, tiny_config, tiny_params
):
    assert engine.weights() == (of(tiny_params), 0)
    engine.generate([world.request(1, 40)])
    assert engine.weights() == (of(tiny_params), 0)
    others = world.make_params(tiny_config, 5)
    engine.set_params(others)
    assert engine.weights() == (of(others), 0) and of(others) != of(tiny_params)


def test_pages_that_a_swap_has_left_are_counted(engine, tiny_config, monkeypatch):
    """The fault that it is for: a swap that forgets the cache."""
    engine.generate([world.request(1, 40)])
    monkeypatch.setattr(engine._admission, "clear", lambda: None)
    engine.set_params(world.make_params(tiny_config, 6))
    assert engine.weights()[1] == 1  # two whole chunks of 16 are in it
    completion = engine.generate([world.request(1, 40)])[0]
    assert completion.cached_tokens  # played on a prefix of other weights
