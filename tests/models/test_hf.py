"""Weights in and out, against transformers' own models."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import hf
from models.errors import UserError
from models.forward import forward
from models.sharding import make_mesh

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = dict(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
FAMILIES = {
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=False)),
    "llama": ("Llama", dict(tie_word_embeddings=True, rope_theta=1e5)),
}


def make_model(family: str, folder, **save_options):
    """Saves a random transformers model in which no tensor is trivial."""
    name, extra = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SHAPE, **extra)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + 0.1)
    model.save_pretrained(folder, **save_options)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers_before_and_after_export(family, tmp_path):
    model = make_model(family, tmp_path / "in")
    config, params = hf.load(tmp_path / "in", dtype=jnp.float32)
    tokens = np.random.default_rng(0).integers(0, 61, (2, 9))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    got = forward(params, config, jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-4)

    hf.save(tmp_path / "out", config, params)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with torch.no_grad():
        logits = again.eval()(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_array_equal(logits, expected)


def test_sharded_files_load_like_one_file(tmp_path):
    make_model("qwen3", tmp_path / "one")
    make_model("qwen3", tmp_path / "many", max_shard_size="8KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    config, one = hf.load(tmp_path / "one")
    _, many = hf.load(tmp_path / "many")
    jax.tree.map(np.testing.assert_array_equal, one, many)

    hf.save(tmp_path / "ours", config, many, shard_bytes=8_000)
    assert (tmp_path / "ours" / "model.safetensors.index.json").is_file()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert model.config.num_hidden_layers == 3
    jax.tree.map(np.testing.assert_array_equal, one, hf.load(tmp_path / "ours")[1])


def test_bfloat16_round_trips_bit_for_bit(tmp_path):
    make_model("qwen2", tmp_path / "in")
    config, params = hf.load(tmp_path / "in", dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.bfloat16.dtype}
    hf.save(tmp_path / "out", config, params)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    _, again = hf.load(tmp_path / "out", dtype=jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    _, wide = hf.load(tmp_path / "out")
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.float32.dtype}


def test_a_mesh_puts_tensors_into_their_shardings(tmp_path):
    make_model("qwen3", tmp_path / "in")
    devices = min(2, len(jax.devices()))
    mesh = make_mesh(fsdp=devices)
    _, params = hf.load(tmp_path / "in", mesh=mesh)
    sharding = params["blocks"]["attn"]["q"].sharding
    assert sharding.mesh == mesh and sharding.spec[1] == "fsdp"
    _, plain = hf.load(tmp_path / "in")
    jax.tree.map(np.testing.assert_array_equal, params, plain)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "good"
    make_model("qwen3", folder)
    return folder


def edit_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def drop(name):
    return lambda folder: (folder / name).unlink()


def cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("config.json"), "no config.json"),
        (drop("model.safetensors"), "no \\*.safetensors"),
        (cut_short, "damaged or cut short"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: edit_config(f, model_type="mamba"), "mamba"),
        (lambda f: edit_config(f, num_hidden_layers=4), "lacks tensor model.layers.3"),
        (lambda f: edit_config(f, num_hidden_layers=2), "has tensor model.layers.2"),
        (lambda f: edit_config(f, intermediate_size=40), "has shape .* asks for"),
        (lambda f: edit_config(f, tie_word_embeddings=False), "lm_head"),
    ],
)
def test_a_bad_folder_is_one_clear_line(good, tmp_path, damage, words):
    folder = tmp_path / "bad"
    shutil.copytree(good, folder)
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        hf.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_no_folder_and_no_hub_name_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        hf.load(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(UserError, match=r"no tokenizer.json"):
        (tmp_path / "empty").mkdir()
        hf.load_tokenizer(tmp_path / "empty")


def test_a_failed_save_leaves_nothing_and_keeps_what_was_there(good, tmp_path):
    config, params = hf.load(good)
    hf.save(tmp_path / "model", config, params)
    before = hf.content_hash(tmp_path / "model")
    broken = params | {"final_norm": None}
    with pytest.raises(Exception):  # noqa: B017 - any failure must leave it whole
        hf.save(tmp_path / "model", config, broken)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert hf.content_hash(tmp_path / "model") == before
    changed = jax.tree.map(lambda x: x + 1, params)
    hf.save(tmp_path / "model", config, changed)
    assert hf.content_hash(tmp_path / "model") != before

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "keep.txt").write_text("mine")
    with pytest.raises(UserError, match="no model folder"):
        hf.save(tmp_path / "notes", config, params)
    assert (tmp_path / "notes" / "keep.txt").read_text() == "mine"


def test_content_hash_depends_on_contents_not_on_place(good, tmp_path):
    shutil.copytree(good, tmp_path / "copy")
    assert hf.content_hash(good) == hf.content_hash(tmp_path / "copy")
    edit_config(tmp_path / "copy", rms_norm_eps=1e-5)
    assert hf.content_hash(good) != hf.content_hash(tmp_path / "copy")


def test_tokenizer_and_generation_config_travel_with_a_save(good, tmp_path):
    from tokenizers import Tokenizer, models

    shutil.copytree(good, tmp_path / "in")
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", chat_template="{{ 'hello' }}"
    )
    made.save_pretrained(tmp_path / "in")
    (tmp_path / "in/generation_config.json").write_text('{"eos_token_id": 1}')
    tokenizer = hf.load_tokenizer(tmp_path / "in")
    config, params = hf.load(tmp_path / "in")
    hf.save(tmp_path / "out", config, params, tokenizer=tokenizer)
    again = hf.load_tokenizer(tmp_path / "out")
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.chat_template == "{{ 'hello' }}"
    kept = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert kept == {"eos_token_id": 1}
