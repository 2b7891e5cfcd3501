"""The five commands of the README's section "One GPU", run at toy size, in order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import hf
from scope_jax.run import tracking

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"## One GPU\n(.*?)\n## ", re.DOTALL)
# The small world's model, with adapters, in place of a model for a card.
TOY = ["--config", "ci", "--lora.rank", "4", "--iterations", "1"]
TOY += ["--challenger_train.steps", "1", "--solver_train.steps", "1"]
TOY += ["--evaluation.count", "0", "--run", "runs/qwen3_1_7b"]


def commands():
    text = SECTION.search((ROOT / "README.md").read_text(encoding="utf-8"))[1]
    return [shlex.split(line) for line in re.findall(r"^    (python .*)$", text, re.M)]


def run(arguments, folder):
    command = [sys.executable, str(ROOT / arguments[1]), *arguments[2:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_commands_of_the_section_do_what_it_says(tmp_path):
    plan, sized, index, train, export = commands()
    assert "trainer: rollouts" in run(plan, tmp_path)
    said = run(sized, tmp_path)
    assert said.startswith("--memory 48: trains adapters of rank 32")

    passages = tmp_path / "FILE"
    lines = (
        f'{{"id": "{n}", "contents": "Number {n}\\nis a number."}}\n' for n in range(20)
    )
    passages.write_text("".join(lines))
    assert index[2:4] == ["--passages", "FILE"]
    run([*index[:4], "--encoder", "lexical"], tmp_path)
    assert list(tmp_path.glob("FILE.index/**/*.faiss"))

    assert train[2:] == [
        *("--config", "qwen3_1_7b", "--memory", "48", "--retrieval.passages", "FILE")
    ]
    run([*train[:2], *TOY], tmp_path)
    assert export[2:] == ["runs/qwen3_1_7b", "--iteration", "3", "--role", "solver"]
    export[4] = "1"
    run(export, tmp_path)
    run([*export, "--merged", "--out", "whole"], tmp_path)

    # One model in memory: the inference process has served no model but the search.
    folder = tmp_path / "runs/qwen3_1_7b"
    log = (folder / "inference.log").read_text()
    assert "ready" in log and "model judge" not in log and "model solver" not in log
    steps = [r for r in tracking.read(folder) if "agree/max" in r]
    assert [r["stage"] for r in steps] == ["challenger", "solver"]
    assert max(r["agree/max"] for r in steps) < 1e-3
    # The Solver is an adapter, which peft reads, and merged the same model.
    decoder, merged = hf.load(tmp_path / "whole", dtype="float32")
    adapter, settings = hf.load_adapter(tmp_path / "qwen3_1_7b-iter_1-solver", decoder)
    assert settings.rank == 4
    assert all(np.isfinite(x).all() for x in adapter["blocks"]["mlp"].values())
    _, loaded = hf.load(tmp_path / "qwen3_1_7b-iter_1-solver", dtype="float32")
    near = pytest.approx(np.asarray(loaded["blocks"]["mlp"]["up"]), rel=2e-3, abs=1e-4)
    assert np.asarray(merged["blocks"]["mlp"]["up"]) == near
