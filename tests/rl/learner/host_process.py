"""One of several processes of an update, on two CPU devices; see ``test_update_hosts``.

python tests/rl/learner/host_process.py ADDRESS COUNT INDEX FOLDER
"""

import json
import os
import sys
from pathlib import Path

import jax
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]


def main(address, count, index, folder):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
    from jax.experimental import multihost_utils
    from test_update import LOSS, OPTIMIZER, SHAPE, VALID, make_datums

    from models import forward, sharding
    from models.config import DecoderConfig
    from rl.learner import checkpoint
    from rl.learner.update import Updater

    config = DecoderConfig.from_hf(json.loads(os.environ["MODEL"]))
    init = jax.jit(forward.init, static_argnums=0)
    # On each process by itself, as from a file.
    params, reference = (
        jax.device_get(init(config, jax.random.key(seed))) for seed in (0, 1)
    )
    mesh = sharding.make_mesh(fsdp=2 * int(count))
    updater = Updater(config, LOSS, OPTIMIZER, SHAPE, mesh, valid_vocab=VALID)
    state = updater.states.init(params)
    placed = updater.states.reference_params(reference)
    for moment in jax.tree.leaves(state.opt_state.mu["blocks"]["mlp"]):
        assert not moment.is_fully_addressable
        assert 4 * moment.addressable_shards[0].data.size == moment.size
    state, metrics = updater.update(state, placed, make_datums(12))
    checkpoint.save(f"{folder}/steps", 1, state, meta={"of": int(count)})
    back, _, _ = checkpoint.restore(f"{folder}/steps", updater.states.abstract())
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        for mine, read in zip(x.addressable_shards, y.addressable_shards, strict=True):
            np.testing.assert_array_equal(mine.data, read.data)
    whole = multihost_utils.process_allgather(
        (state.opt_state.mu, state.opt_state.nu, state.params), tiled=True
    )
    if jax.process_index() == 0:
        leaves = jax.tree.leaves(whole)
        np.savez(f"{folder}/found.npz", *leaves, norm=metrics["loss/grad_norm"])


if __name__ == "__main__":
    main(*sys.argv[1:])
