"""The fingerprint sees one bit of one weight, and no order, joining or sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward, sharding
from models.fingerprint import fingerprint
from models.unstacked import unstack


def of(params, dtype=None):
    return jax.jit(fingerprint, static_argnums=1)(params, dtype).tolist()


def test_it_is_the_same_however_the_weights_are_laid_out(tiny_config, tiny_params):
    whole = of(tiny_params)
    for weights_first in (False, True):
        laid_out = unstack(tiny_params, tiny_config, weights_first=weights_first)
        assert of(laid_out) == whole
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    shardings = sharding.param_shardings(forward.shapes(tiny_config), mesh)
    assert of(sharding.place(tiny_params, shardings)) == whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_bit_of_one_weight_changes_both_numbers(tiny_params, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), tiny_params)
    assert of(params) == of(tiny_params, dtype)
    leaves, tree = jax.tree.flatten(params)
    kind = np.uint16 if dtype == "bfloat16" else np.uint32
    for place in (0, len(leaves) // 2, len(leaves) - 1):
        bits = np.array(leaves[place]).view(kind).copy()
        bits.flat[bits.size // 3] ^= 1
        changed = list(leaves)
        changed[place] = jnp.asarray(bits.view(leaves[place].dtype))
        found = of(jax.tree.unflatten(tree, changed))
        assert all(a != b for a, b in zip(found, of(params), strict=True))
