"""A role's weights out of a run: the right ones, whole, or one line that says why."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import configs
from models import hf, lora
from models.chat_templates import load_template
from models.errors import UserError
from models.lora import LoraConfig
from rl.learner import checkpoint
from scope_jax.run.export import export
from scope_jax.run.paths import RunPaths
from scope_jax.small_world import assets
from scope_jax.system import settings
from tests.models.test_lora import random_adapter

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two checkpoints of the Challenger, and a finished Solver; all weights differ."""
    paths = RunPaths(tmp_path_factory.mktemp("runs") / "look")
    paths.path.mkdir()
    config = configs.load("ci")
    config = replace(
        config, model=replace(config.model, template="qwen3_strip_thinking")
    )
    settings.save(config, paths.path / "config.json")
    decoder, params = hf.load(assets.model_path(), dtype="float32")
    for step in (1, 2):
        weights = jax.tree.map(lambda x, by=step: x + by, params)
        state = {"params": weights, "opt_state": [weights, None], "step": step}
        checkpoint.save(paths.checkpoints(1, "challenger"), step, state)
    hf.save(paths.export(1, "solver"), decoder, params, dtype="bfloat16")
    return paths.path, params


def assert_params(folder, wanted, dtype="float32"):
    _, got = hf.load(folder, dtype=dtype)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), got, wanted)


@pytest.mark.parametrize("step", [None, 1])
def test_a_checkpoint_becomes_a_folder(run, step, tmp_path):
    folder, params = run
    out, words = export(folder, 1, "challenger", step=step, out=tmp_path / "model")
    assert words == f"the checkpoint of step {step or 2}"
    assert_params(out, jax.tree.map(lambda x: x + (step or 2), params))
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


def test_a_finished_stage_is_taken_from_its_export(run, tmp_path):
    folder, params = run
    out, words = export(folder, 1, "solver", out=tmp_path / "model")
    assert words == "the end of iteration 1"
    half = jax.tree.map(lambda x: np.asarray(x.astype("bfloat16")), params)
    assert_params(out, half, dtype="bfloat16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_folder_has_the_template_and_the_tokenizer_of_the_training(run, tmp_path):
    out, _ = export(run[0], 1, "solver", out=tmp_path / "model")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == load_template(tokenizer, "qwen3_strip_thinking")
    ours = hf.load_tokenizer(assets.model_path())
    assert tokenizer.get_vocab() == ours.get_vocab()
    assert tokenizer.eos_token_id == ours.eos_token_id
    kept = json.loads((out / "tokenizer_config.json").read_text())
    assert kept["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (out / "generation_config.json").is_file()


def test_dtype_is_what_was_asked_for(run, tmp_path):
    out, _ = export(run[0], 1, "challenger", out=tmp_path / "m", dtype="bfloat16")
    wanted = jax.tree.map(lambda x: np.asarray((x + 2).astype("bfloat16")), run[1])
    assert_params(out, wanted, dtype="bfloat16")
    size = (out / "model.safetensors").stat().st_size
    assert size < 2.1 * sum(x.size for x in jax.tree.leaves(wanted))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(iteration=3), "the run has iterations 1 to 2"),
        (dict(iteration=0), "the run has iterations 1 to 2"),
        (dict(iteration=2), "iteration 2 has trained no solver yet"),
        (dict(role="challenger", step=7), r"no checkpoint of step 7 .*\[1, 2\]"),
        (
            dict(run="nowhere"),
            r"nowhere/config.json: no such file: name the folder of a run",
        ),
        (dict(run=__file__), r"test_export.py/config.json: no such file: name the"),
        (dict(out="."), "already exists"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, options, words):
    given = dict(run=run[0], iteration=1, role="solver", out=tmp_path / "m") | options
    if "out" in options:
        given["out"] = tmp_path
    with pytest.raises(UserError, match=words) as caught:
        export(
            Path(given.pop("run")), given.pop("iteration"), given.pop("role"), **given
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("given", [("--role", "judge"), ("--dtype", "int8")])
def test_a_role_or_dtype_that_is_none_is_one_line(run, given):
    script = runpy.run_path(str(ROOT / "scripts/export_hf.py"))
    options = {"--iteration": "1", "--role": "solver"} | dict([given])
    argv = [word for option in options.items() for word in option]
    with pytest.raises(UserError, match=f"{given[0]}: invalid choice: '{given[1]}'"):
        script["main"]([str(run[0]), *argv])


def test_the_script_writes_beside_where_it_is_called_and_never_overwrites(
    run, tmp_path
):
    command = [sys.executable, ROOT / "scripts/export_hf.py", run[0]]
    command += ["--iteration", "1", "--role", "solver"]
    # It copies on the CPU whatever else is there: a run may hold the accelerator.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cuda"}
    options = dict(cwd=tmp_path, env=environment, capture_output=True, text=True)
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "look-iter_1-solver: from the end of iteration 1\n"
    assert (tmp_path / "look-iter_1-solver/model.safetensors").is_file()
    again = subprocess.run(command, **options)
    assert again.returncode == 2
    assert again.stderr.startswith("error: look-iter_1-solver: already exists")
    assert again.stderr.count("\n") == 1
    command[-1:] = []
    missing = subprocess.run(command, **options)
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A checkpoint of the Challenger's adapter, and the Solver's, exported."""
    paths = RunPaths(tmp_path_factory.mktemp("runs") / "adapters")
    paths.path.mkdir()
    config = replace(configs.load("ci"), lora=LoraConfig(rank=2, alpha=4))
    settings.save(config, paths.path / "config.json")
    decoder, params = hf.load(assets.model_path(), dtype="float32")
    adapter = random_adapter(decoder, config.lora)
    state = {"params": adapter, "opt_state": [adapter, None], "step": 1}
    checkpoint.save(paths.checkpoints(1, "challenger"), 1, state)
    base = str(assets.model_path())
    hf.save_adapter(paths.export(1, "solver"), decoder, adapter, config.lora, base=base)
    return paths.path, decoder, lora.merge(params, lora.scaled(adapter, config.lora))


@pytest.mark.parametrize("role", ["challenger", "solver"])
@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_becomes_a_folder_of_its_own_or_a_whole_model(
    adapters, tmp_path, role, merged
):
    folder, _, whole = adapters
    out, _ = export(folder, 1, role, out=tmp_path / "model", merged=merged)
    assert (out / "adapter_config.json").is_file() != merged
    assert (out / "config.json").is_file() == merged
    assert hf.load_tokenizer(out).chat_template
    # Read as any model of its family, either way; merged weights are rounded once, to
    # what the base model is stored in.
    _, found = hf.load(out, dtype="float32")
    near = partial(np.testing.assert_allclose, rtol=2e-3 if merged else 0, atol=1e-7)
    jax.tree.map(near, found, whole)


def test_there_is_nothing_to_merge_where_whole_weights_were_trained(run, tmp_path):
    with pytest.raises(UserError, match="--merged: the run trains whole weights"):
        export(run[0], 1, "solver", out=tmp_path / "model", merged=True)
