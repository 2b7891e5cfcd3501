"""The engine with the Pallas kernel: the same tokens, and the same promise."""

from dataclasses import replace

import numpy as np
import pytest

from models.errors import UserError
from rl.engine.engine import Engine
from tests.rl.engine.engine_world import SIZES, Letters, crowd, make_params, sampled


@pytest.fixture(scope="module")
def config(tiny_config):
    return replace(tiny_config, head_dim=16)


@pytest.fixture(scope="module")
def engines(config):
    params = make_params(config, 3)
    sizes = {name: replace(SIZES, attention=name) for name in ("blocks", "pallas")}
    return {
        name: Engine(params, config, Letters(), size) for name, size in sizes.items()
    }


def test_ragged_rows_get_the_same_tokens_and_logprobs(engines):
    work = crowd()
    blocks, pallas = (engines[name].generate(work) for name in ("blocks", "pallas"))
    assert engines["pallas"].sampler.attention == "pallas"
    assert len({len(one.ids) for one in work}) > 4
    for one, other in zip(blocks, pallas, strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)


def test_a_row_gets_the_same_alone_and_in_company_to_the_bit(engines, config):
    engine, work = engines["pallas"], crowd()
    together = sampled(engine.generate(work))
    engine.set_params(make_params(config, 3))  # forgets what it has computed
    alone = [sampled(engine.generate([one]))[0] for one in work[::5]]
    assert alone == together[::5]


def test_what_the_machine_cannot_do_is_refused(config):
    with pytest.raises(UserError, match=r"engine\.attention=fa3: runs on Hopper"):
        Engine(
            make_params(config, 3), config, Letters(), replace(SIZES, attention="fa3")
        )
