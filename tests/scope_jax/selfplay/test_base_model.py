"""What is written of the base model beside an adapter, and which base is refused."""

import json
from dataclasses import replace

import jax
import pytest
from safetensors.numpy import load_file

import configs
from models import forward, hf
from models.chat import ChatRenderer
from models.config import DecoderConfig
from models.lora import LoraConfig
from models.sharding import make_mesh
from scope_jax.run.export import export
from scope_jax.run.folder import RunPaths
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
