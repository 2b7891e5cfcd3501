"""What the host holds while weights come in and go out, measured in processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from models import hf
from models.config import DecoderConfig
from models.hf.layout import layout, unflatten

ROOT = Path(__file__).resolve().parents[3]
MB = 2**20

MEASURE = """
import json, sys
import jax
from models import hf
from models.sharding import make_mesh

def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024

def peak(work):
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    before = resident("VmRSS")
    result = work()
    return resident("VmHWM") - before, result

folder, small, out, fsdp, dtype = sys.argv[1:]
mesh = make_mesh(fsdp=int(fsdp)) if int(fsdp) else None
hf.save(out, *hf.load(small, mesh=mesh, dtype=dtype))  # imports and threads are there
came, (config, params) = peak(
    lambda: jax.block_until_ready(hf.load(folder, mesh=mesh, dtype=dtype))
)
hf.save(out, config, params)  # and now the programs
went, _ = peak(lambda: hf.save(out, config, params))
total = sum(float(abs(x.astype("float32")).sum()) for x in jax.tree.leaves(params))
print(json.dumps({"in": came, "out": went, "sum": total}))
"""


def make(folder, layers, width):
    """A model of type llama whose numbers are all different from 0, in bfloat16."""
    config = DecoderConfig(
        model_type="llama",
        vocab_size=8 * width,
        num_layers=layers,
        hidden_size=width,
        intermediate_size=4 * width,
        num_heads=8,
        num_kv_heads=8,
        head_dim=width // 8,
    )
    rng = np.random.default_rng(0)
    flat = {
        path: rng.integers(1, 200, leaf.full_shape(layers)).astype(np.float32)
        for path, leaf in layout(config).items()
    }
    hf.save(folder, config, unflatten(flat), dtype="bfloat16")
    return config, flat


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    make(folder / "small", 2, 64)
    return folder, *make(folder / "large", 16, 384)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("fsdp", "dtype"), [(0, "float32"), (4, "float32"), (0, "bfloat16")]
)
def test_the_host_holds_the_parameters_and_little_more(models, fsdp, dtype, tmp_path):
    folder, config, flat = models
    arguments = [folder / "large", folder / "small", tmp_path / "out", fsdp, dtype]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        cwd=ROOT,
        # The compiler's own memory is part of what is measured, so nothing is read.
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout)
    size = np.dtype(dtype).itemsize if dtype == "float32" else 2
    stacked = [x for path, x in flat.items() if path[0] == "blocks"]
    target = size * sum(x.size for x in flat.values())
    layer = size * sum(x.size for x in stacked) // config.num_layers
    embedding = size * flat["embed",].size
    figures = {k: round(v / MB, 1) for k, v in measured.items() if k != "sum"}
    shown = f"{figures} of {target / MB:.1f}, layer {layer / MB:.1f}"
    # One parameter's layers together would be too much: the bound tells them apart.
    assert max(x.nbytes for x in stacked) * size / 4 > layer + embedding
    assert measured["in"] < target + layer + embedding, shown
    assert measured["out"] < layer + embedding, shown
    wanted = sum(float(np.abs(x).sum()) for x in jax.tree.leaves(flat))
    assert measured["sum"] == pytest.approx(wanted, rel=1e-4)
    print(shown)
