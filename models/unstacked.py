"""Parameters by layers, as engines take them: joined, and on CPUs transposed."""

from typing import Any

import jax
import jax.numpy as jnp

from models.config import DecoderConfig
from models.embedding import WEIGHTS_FIRST
from models.layers import inputs_of

# The matrices of a layer as ``unstack`` leaves them, and which each is made of (joined
# along their axis 1).
GROUPS = {
    "attn": {"qkv": ("q", "k", "v"), "o": ("o",)},
    "mlp": {"gate_up": ("gate", "up"), "down": ("down",)},
}
MATRICES = {name for groups in GROUPS.values() for name in groups}


def unstack(
    params: dict[str, Any], config: DecoderConfig, *, weights_first: bool = False
) -> dict[str, Any]:
    """Parameters with ``blocks`` as a tuple of layers: what the cached passes take.

    Slicing the stack inside a decoding loop would read every weight twice per step, so
    it is done once before decoding (https://github.com/NovaSky-AI/SkyRL/pull/1363).
    Matrices that multiply the same activations become one: a few large products take
    less time than many small ones.

    Args:
      weights_first: also transpose the matrices, [out, in], and multiply them from the
        left. For CPUs: with 8 to 32 rows of activations their products then take about
        half the time, from 256 rows on the same.
    """
    blocks = tuple(
        _join(jax.tree.map(lambda x: x[i], params["blocks"]))  # noqa: B023
        for i in range(config.num_layers)
    )
    if not weights_first:
        return params | {"blocks": blocks}

    def transposed(path, weight):
        name = path[-1].key
        inputs = inputs_of(name) if name in MATRICES else 0
        return jnp.moveaxis(weight, range(inputs), range(-inputs, 0))

    params = params | {"blocks": jax.tree_util.tree_map_with_path(transposed, blocks)}
    if not config.tie_embeddings:
        params["head"] = params["head"].T
    return params | {WEIGHTS_FIRST: ()}


def _join(block: dict[str, Any]) -> dict[str, Any]:
    """One layer's parameters with the matrices of ``GROUPS`` concatenated."""
    block = dict(block)
    for part, groups in GROUPS.items():
        weights = dict(block[part])
        for joined, names in groups.items():
            if len(names) > 1:
                matrices = [weights.pop(name) for name in names]
                weights[joined] = jnp.concatenate(matrices, axis=1)
        block[part] = weights
    return block
