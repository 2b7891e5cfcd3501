"""What is written of the base model beside an adapter, and which base is refused."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import configs
from models import forward, hf
from models.chat import ChatRenderer
from models.config import DecoderConfig
from models.errors import UserError
from models.lora import LoraConfig
from models.sharding import make_mesh
from scope_jax.run.export import export
from scope_jax.run.paths import RunPaths
from scope_jax.run.plan import plan
from scope_jax.run.sizes import check_base
from scope_jax.selfplay import pipeline, preference
from scope_jax.selfplay.base_model import BaseModel
from scope_jax.small_world import assets
from scope_jax.system import settings
from scope_jax.system.hosts import ONE_HOST
from tests.models.test_lora import random_adapter

LORA = LoraConfig(rank=2, alpha=4, targets=("q_proj", "down_proj"))
SHAPE = {
    "model_type": "gemma3_text",
    "vocab_size": 512,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@pytest.fixture(scope="module", params=["gemma3", "gemma3_text"])
def base(request, tmp_path_factory):
    """A model's folder, of its type: with images or of text alone."""
    folder = tmp_path_factory.mktemp("base") / "model"
    decoder = DecoderConfig.from_hf(SHAPE)
    params = forward.init(decoder, jax.random.key(0), "float32")
    tokenizer = hf.load_tokenizer(assets.model_path())
    hf.save(folder, decoder, params, tokenizer=tokenizer)
    if request.param == "gemma3":
        file = folder / "config.json"
        whole = {"model_type": "gemma3", "text_config": json.loads(file.read_text())}
        file.write_text(json.dumps(whole))
        (folder / "SHA256SUMS").unlink()
    return folder, decoder, request.param


@pytest.mark.parametrize("by", ["the run", "the script"])
def test_an_adapter_has_the_names_of_the_model_that_it_belongs_to(base, tmp_path, by):
    folder, decoder, kind = base
    adapter = random_adapter(decoder, LORA)
    tokenizer = hf.load_tokenizer(folder)
    renderer = ChatRenderer.from_tokenizer(tokenizer)
    mesh = make_mesh(fsdp=1)
    opened, _ = BaseModel.open(
        str(folder), tokenizer, renderer, mesh=mesh, hosts=ONE_HOST, dtype="float32"
    )
    paths = RunPaths(tmp_path / "run")
    out = paths.export(1, "solver")
    opened.export(out, adapter, lora=LORA)
    if by == "the script":
        config = configs.load("ci")
        model = replace(config.model, path=str(folder))
        settings.save(
            replace(config, model=model, lora=LORA), paths.path / "config.json"
        )
        out, _ = export(paths.path, 1, "solver", out=tmp_path / "out")
    names = load_file(out / "adapter_model.safetensors")
    within = "language_model." if kind == "gemma3" else ""
    assert all(n.startswith(f"base_model.model.model.{within}layers.") for n in names)
    fields = json.loads((out / "adapter_config.json").read_text())
    assert isinstance(fields["target_modules"], str if within else list)
    assert hf.load(out, dtype="float32")[0] == hf.load_config(folder)


@pytest.fixture
def adapted(base, tmp_path):
    """The folder of an adapter."""
    folder, decoder, kind = base
    first, images = random_adapter(decoder, LORA), kind == "gemma3"
    options = {"base": str(folder), "images": images}
    hf.save_adapter(tmp_path / "first", decoder, first, LORA, **options)
    return tmp_path / "first"


def on(folder, rank, **changes):
    """A configuration that trains from a model in a folder."""
    config = configs.load("ci")
    model, adapter = replace(config.model, path=str(folder)), replace(LORA, rank=rank)
    return replace(config, model=model, lora=adapter, **changes)


@pytest.mark.parametrize("start", [pipeline.run, preference.run, lambda c, _: plan(c)])
def test_an_adapter_of_an_adapter_is_refused_before_anything_starts(
    adapted, base, tmp_path, start
):
    changes = {}
    if start is preference.run:
        pairs = replace(configs.load("ci").preference, run="x")
        changes = {"recipe": "preference", "preference": pairs}
    said = f"lora.rank=2: trains an adapter, and model.path={adapted} is the folder"
    with pytest.raises(UserError, match=said) as caught:
        start(on(adapted, 2, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert {file.name for file in tmp_path.glob("run/*")} <= {".lock"}
    check_base(on(adapted, 0))  # whole weights, from the merged model
    check_base(on(base[0], 2))


def test_a_run_that_trained_one_gives_a_whole_model_alone(adapted, base, tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.path.mkdir()
    settings.save(on(adapted, 2), paths.path / "config.json")
    second, options = random_adapter(base[1], LORA), {"base": str(adapted)}
    hf.save_adapter(paths.export(1, "solver"), base[1], second, LORA, **options)
    with pytest.raises(UserError, match="write a whole model with --merged"):
        export(paths.path, 1, "solver", out=tmp_path / "out")
    out, _ = export(paths.path, 1, "solver", out=tmp_path / "out", merged=True)
    _, found = hf.load(out, dtype="float32")
    _, wanted = hf.load(paths.export(1, "solver"), dtype="float32")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted
    )
