"""Two processes of two devices each compute what one device does, and save it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_update import LOSS, OPTIMIZER, SHAPE, VALID, distance, make_datums

from models import forward, sharding
from rl.learner import checkpoint
from rl.learner.update import Updater

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SCRIPT = Path(__file__).with_name("host_process.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def found(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        # Two processes that read kept CPU programs wait for one another for ever.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "MODEL": json.dumps(tiny_config.to_hf()),
    }
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), address, "2", str(index), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
    return folder


def test_two_processes_compute_what_one_device_does(found, tiny_config, tiny_params):
    updater = Updater(
        tiny_config, LOSS, OPTIMIZER, SHAPE, sharding.make_mesh(), valid_vocab=VALID
    )
    state = updater.states.init(tiny_params)
    init = jax.jit(forward.init, static_argnums=0)
    placed = updater.states.reference_params(init(tiny_config, jax.random.key(1)))
    state, metrics = updater.update(state, placed, make_datums(12))
    with np.load(found / "found.npz") as file:
        norm = float(file["norm"])
        leaves = [file[f"arr_{i}"] for i in range(len(file.files) - 1)]
    # The moments are sums of the gradients, which the weights show only roughly.
    trees = (state.opt_state.mu, state.opt_state.nu, state.params)
    ours = [np.asarray(x) for x in jax.tree.leaves(trees)]
    third = len(ours) // 3
    for start in range(0, len(ours), third):
        part = slice(start, start + third)
        assert distance(leaves[part], ours[part]) < 1e-5
    assert norm == pytest.approx(metrics["loss/grad_norm"], rel=1e-5)
    # What both wrote together, one process reads, on another mesh.
    back, meta, step = checkpoint.restore(found / "steps", updater.states.abstract())
    assert (step, meta) == (1, {"of": 2})
    for x, y in zip(jax.tree.leaves(back.params), leaves[-third:], strict=True):
        np.testing.assert_array_equal(x, y)
