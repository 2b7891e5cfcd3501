"""Weights in and out, against transformers' own models."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import hf
from models.forward import forward, shapes
from models.sharding import make_mesh, param_shardings
from tests.models.oracle import logits_of, make_model

pytestmark = pytest.mark.usefixtures("compiled_quickly")

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Each family as it is published, tied and untied, and with what its type also allows.
MODELS = {
    "qwen2": dict(tie_word_embeddings=False),
    "qwen2-tied": dict(tie_word_embeddings=True),
    "qwen3": dict(tie_word_embeddings=False, head_dim=16),
    "qwen3-tied": dict(tie_word_embeddings=True, head_dim=32),
    "olmo3": dict(tie_word_embeddings=False, num_key_value_heads=4),
    "olmo3-tied": dict(tie_word_embeddings=True),
    "llama": dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "llama-tied": dict(tie_word_embeddings=True, rope_theta=1e5),
    "gemma3_text": dict(tie_word_embeddings=False, head_dim=16, attention_bias=True),
    "gemma3_text-tied": dict(head_dim=16, sliding_window_pattern=2),
    "smollm3-tied": dict(no_rope_layers=[1, 0, 1]),
    "mistral": dict(sliding_window=None),
    "ministral-tied": dict(head_dim=16, tie_word_embeddings=True),
    "ministral3": dict(head_dim=16),
}


def saved(name, folder, *, dtype=None, **options):
    model = make_model(name.partition("-")[0], num_hidden_layers=3, **MODELS[name])
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder, **options)
    return model


def raw_bytes(folder):
    """Name -> (dtype, shape, bytes) of all tensors, by the safetensors package."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            tensors[name] = (tensor.dtype, tensor.shape, tensor.tobytes())
    return tensors


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_out_comes_what_went_in(name, dtype, tmp_path):
    saved(name, tmp_path / "in", dtype=getattr(torch, dtype))
    config, params = hf.load(tmp_path / "in", dtype=dtype)
    assert config.tie_embeddings == name.endswith("-tied")
    hf.save(tmp_path / "out", config, params)
    assert raw_bytes(tmp_path / "out") == raw_bytes(tmp_path / "in")
    given, written = (
        json.loads((tmp_path / x / "config.json").read_text()) for x in ("in", "out")
    )
    assert given.items() <= written.items()
    assert written.keys() - given.keys() <= {
        "rope_theta",
        "rope_scaling",
        "rope_local_base_freq",
        "torch_dtype",
    }
    assert written["dtype"] == written["torch_dtype"] == dtype
    assert (tmp_path / "out/generation_config.json").is_file()
    tokens = np.random.default_rng(0).integers(0, 97, (2, 9))
    both = [
        transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / which, dtype="auto", attn_implementation="eager"
        )
        for which in ("in", "out")
    ]
    expected, got = (logits_of(each.float().eval(), tokens) for each in both)
    np.testing.assert_array_equal(got, expected)
    if dtype == "float32":
        got = forward(params, config, jnp.asarray(tokens, jnp.int32))
        np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-4)


def test_a_folder_of_several_files_loads_like_one_and_is_written_again(tmp_path):
    saved("qwen3", tmp_path / "one")
    saved("qwen3", tmp_path / "many", max_shard_size="30KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    config, one = hf.load(tmp_path / "one")
    _, many = hf.load(tmp_path / "many")
    jax.tree.map(np.testing.assert_array_equal, one, many)

    hf.save(tmp_path / "ours", config, many, shard_bytes=30_000)
    files = list((tmp_path / "ours").glob("model-*-of-*.safetensors"))
    assert len(files) > 2
    largest = max(len(t[2]) for t in raw_bytes(tmp_path / "ours").values())
    for file in files:
        assert file.stat().st_size < max(30_000, largest) + 4_000
    index = json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(
        x.nbytes for x in jax.tree.leaves(one)
    )
    assert raw_bytes(tmp_path / "ours") == raw_bytes(tmp_path / "one")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_every_dtype_is_read_as_torch_casts_it(stored, wanted, tmp_path):
    model = saved("qwen2", tmp_path / "in", dtype=getattr(torch, stored))
    config, params = hf.load(tmp_path / "in", dtype=wanted)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {wanted}
    hf.save(tmp_path / "out", config, params)
    model.to(getattr(torch, wanted)).save_pretrained(tmp_path / "torch")
    assert raw_bytes(tmp_path / "out") == raw_bytes(tmp_path / "torch")
    _, wide = hf.load(tmp_path / "in", dtype="float32")
    hf.save(tmp_path / "cast", config, wide, dtype=wanted)
    assert raw_bytes(tmp_path / "cast") == raw_bytes(tmp_path / "torch")
    written = json.loads((tmp_path / "cast/config.json").read_text())["dtype"]
    assert written == wanted


def test_float32_is_what_a_cpu_computes_in(tmp_path):
    saved("qwen2", tmp_path / "in", dtype=torch.bfloat16)
    _, params = hf.load(tmp_path / "in")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.float32.dtype}


@pytest.mark.parametrize(
    "mesh",
    [dict(fsdp=4), dict(fsdp=2, tensor=2), dict(data=2, tensor=2), dict(tensor=4)],
)
@pytest.mark.parametrize("name", ["qwen3", "olmo3-tied", "llama"])
def test_tensors_go_straight_into_their_shardings(name, mesh, tmp_path):
    saved(name, tmp_path / "in", dtype=torch.bfloat16)
    config, whole = hf.load(tmp_path / "in", dtype="float32")
    mesh = make_mesh(**mesh)
    _, params = hf.load(tmp_path / "in", mesh=mesh, dtype="float32")
    shardings = param_shardings(shapes(config), mesh)

    def check(array, plain, sharding):
        assert array.sharding == sharding
        for shard in array.addressable_shards:
            expected = np.asarray(plain)[shard.index]
            np.testing.assert_array_equal(np.asarray(shard.data), expected)

    jax.tree.map(check, params, whole, shardings)
    hf.save(tmp_path / "out", config, params, dtype="bfloat16")
    assert raw_bytes(tmp_path / "out") == raw_bytes(tmp_path / "in")


def rewrite(folder, change):
    """Replaces a folder's only safetensors file by a changed one."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qwen3-tied", lambda t: {k.removeprefix("model."): v for k, v in t.items()}),
        ("qwen3", lambda t: {k.removeprefix("model."): v for k, v in t.items()}),
        (
            "llama",
            lambda t: (
                t
                | {
                    f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(6, "f4")
                    for i in range(3)
                }
                | {"model.rotary_emb.inv_freq": np.ones(6, np.float32)}
            ),
        ),
        (
            "qwen2-tied",
            lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"]},
        ),
        (
            "qwen2-tied",
            lambda t: {
                k.replace("model.embed_tokens", "lm_head"): v for k, v in t.items()
            },
        ),
    ],
    ids=["no prefix", "no prefix, head", "buffers", "both names", "the other name"],
)
def test_other_ways_to_write_the_same_model(name, change, tmp_path):
    saved(name, tmp_path / "in")
    usual = raw_bytes(tmp_path / "in")
    config, params = hf.load(tmp_path / "in")
    rewrite(tmp_path / "in", change)
    if not any(name.startswith("model.") for name in raw_bytes(tmp_path / "in")):
        file = tmp_path / "in/config.json"  # as a model without a head says it
        fields = json.loads(file.read_text()) | {"architectures": ["Qwen3Model"]}
        file.write_text(json.dumps(fields))
    config, again = hf.load(tmp_path / "in")
    jax.tree.map(np.testing.assert_array_equal, params, again)
    hf.save(tmp_path / "out", config, again)
    assert raw_bytes(tmp_path / "out") == usual
    made = json.loads((tmp_path / "out/config.json").read_text())["architectures"]
    assert made[0].endswith("ForCausalLM")


YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 64, "attention_factor": 1.1}


def rope_fields(name):
    """The two spellings of one family's frequencies, scaled for some."""
    plain = {"rope_type": "default", "rope_theta": 1e6}
    if name == "olmo3":
        parameters = {"full_attention": YARN, "sliding_attention": plain}
    else:
        parameters = YARN if name == "qwen3" else plain
    older = {"rope_theta": 1e6}
    if name in ("olmo3", "qwen3"):
        older["rope_scaling"] = {k: v for k, v in YARN.items() if k != "rope_theta"}
    return {"rope_parameters": parameters}, older


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "olmo3", "llama"])
def test_an_export_has_both_spellings_of_the_frequencies_and_the_dtype(name, tmp_path):
    saved(name, tmp_path / "in")
    file = tmp_path / "in/config.json"
    fields = json.loads(file.read_text())
    del fields["rope_parameters"], fields["dtype"]
    newer, older = rope_fields(name)
    written = []
    for spelling in (newer | {"dtype": "float32"}, older | {"torch_dtype": "float32"}):
        file.write_text(json.dumps(fields | spelling))
        hf.save(tmp_path / "out", *hf.load(tmp_path / "in"), dtype="bfloat16")
        written.append(json.loads((tmp_path / "out/config.json").read_text()))
        again = hf.load_config(tmp_path / "out")
        assert replace(again, hf="") == replace(hf.load_config(tmp_path / "in"), hf="")
    for out in written:
        assert out["dtype"] == out["torch_dtype"] == "bfloat16"
        assert out["rope_theta"] == 1e6
        scaling = out.get("rope_scaling") or {}
        assert scaling.items() >= older.get("rope_scaling", {}).items()
        # As transformers 5 reads it, whichever it was made from.
        read = transformers.AutoConfig.from_pretrained(tmp_path / "out").rope_parameters
        for kind, wanted in newer["rope_parameters"].items():
            if isinstance(wanted, dict):
                assert out["rope_parameters"][kind].items() >= wanted.items()
                assert read[kind].items() >= wanted.items()
            else:
                assert out["rope_parameters"][kind] == read[kind] == wanted


def test_a_model_made_here_is_read_by_transformers(tiny_config, tiny_params, tmp_path):
    hf.save(tmp_path / "out", tiny_config, tiny_params)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = np.random.default_rng(0).integers(0, 64, (1, 7))
    got = forward(tiny_params, tiny_config, jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(got, logits_of(model, tokens), atol=2e-5, rtol=1e-4)


def test_parameters_of_another_model_are_not_written(
    tiny_config, tiny_params, tmp_path
):
    with pytest.raises(ValueError, match="head"):
        hf.save(tmp_path / "out", tiny_config, tiny_params | {"head2": np.ones(3)})
    assert list(tmp_path.iterdir()) == []


def test_content_hash_depends_on_contents_not_on_place(tmp_path):
    saved("qwen2", tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "copy")
    assert hf.content_hash(tmp_path / "good") == hf.content_hash(tmp_path / "copy")
    file = tmp_path / "copy/config.json"
    file.write_text(file.read_text().replace("1e-06", "1e-05"))
    assert hf.content_hash(tmp_path / "good") != hf.content_hash(tmp_path / "copy")


def test_content_hash_depends_on_a_template_inside_tokenizer_config(tmp_path):
    saved("qwen2", tmp_path / "good")
    file = tmp_path / "good/tokenizer_config.json"
    file.write_text('{"chat_template": "one"}')
    one = hf.content_hash(tmp_path / "good")
    file.write_text('{"chat_template": "two"}')
    assert hf.content_hash(tmp_path / "good") != one
