"""Loading beside transformers: rates, and what the host held."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_load_beside_transformers(tmp_path):
    pytest.importorskip("torch")
    from tests.models.oracle import make_model

    model = make_model("qwen2", hidden_size=96)
    model.save_pretrained(tmp_path / "model")
    command = [sys.executable, "scripts/bench.py", "load", "--repeats", "2"]
    command += [
        "--model",
        str(tmp_path / "model"),
        "--json",
        str(tmp_path / "out.json"),
    ]
    command += ["--peer", f"transformers={sys.executable}"]
    environment = os.environ | {"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    said = json.loads((tmp_path / "out.json").read_text())
    assert said["ratios"]["transformers"] > 0
    assert len(said["seconds"]["ours"]) == len(said["seconds"]["transformers"]) == 2
    assert said["amount"] * 1e9 == 4 * sum(p.numel() for p in model.parameters())
