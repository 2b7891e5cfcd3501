"""Seeds: one range everywhere, and every one of the 64 bits counts."""

import jax
import numpy as np
import pytest

import configs
from models.errors import UserError
from rl import seeds
from rl.engine.sampling import row_keys
from scope_jax.run.cli import parse


@pytest.mark.parametrize("seed", [0, 5, 42, 2**31, 2**32 - 1])
def test_a_seed_below_2_to_the_32_gives_the_key_that_jax_gives(seed):
    mine, theirs = seeds.key(seed), jax.random.key(seed)
    assert mine.dtype == theirs.dtype
    np.testing.assert_array_equal(*map(jax.random.key_data, (mine, theirs)))


def test_every_bit_changes_the_key_which_is_the_samplers():
    some = [5] + [5 ^ (1 << bit) for bit in range(64)]
    data = [tuple(jax.random.key_data(seeds.key(seed)).tolist()) for seed in some]
    assert len(set(data)) == 65
    rows = row_keys(np.asarray([seeds.halves(seed) for seed in some], np.uint32))
    assert [tuple(row) for row in jax.random.key_data(rows).tolist()] == data


@pytest.mark.parametrize("bad", [-1, 2**64, 2**70, 1.5, True, "3"])
def test_anything_else_is_no_seed(bad):
    message = r"seed=.*: must be a whole number from 0 to 2\*\*64 - 1"
    with pytest.raises(UserError, match=message):
        seeds.key(bad)


@pytest.mark.parametrize("bad", ["-1", str(2**64), str(2**70)])
def test_a_run_has_a_seed_of_the_same_range(bad):
    with pytest.raises(UserError, match="must be a whole number from 0 to 2"):
        parse(["--config", "tiny", "--seed", bad], configs)
    config, _ = parse(["--config", "tiny", "--seed", str(2**64 - 1)], configs)
    assert config.seed == 2**64 - 1
