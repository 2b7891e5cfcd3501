"""Folders of adapters: peft reads ours, we read peft's, and what is refused."""

import dataclasses
import json
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import forward, hf, lora, sharding
from models.errors import DamagedError, UserError
from models.families import TEXT_PARTS
from models.lora import LoraConfig
from tests.models.cases import ONE_OF_EACH
from tests.models.oracle import logits_of, model_with_images, pair, torch
from tests.models.test_lora import random_adapter

pytestmark = pytest.mark.usefixtures("compiled_quickly")

peft = pytest.importorskip("peft")
SETTINGS = LoraConfig(rank=3, alpha=6)
run = jax.jit(forward.forward, static_argnums=1)
TOKENS = np.random.default_rng(1).integers(0, 97, (2, 14))
FAMILIES = {
    "qwen3": ONE_OF_EACH["qwen3"] | {"tie_word_embeddings": False},
    "qwen2": ONE_OF_EACH["qwen2"] | {"tie_word_embeddings": True},
    "olmo3": ONE_OF_EACH["olmo3"] | {"tie_word_embeddings": False},
    "llama": ONE_OF_EACH["llama"] | {"attention_bias": True, "mlp_bias": True},
    "gemma3_text": ONE_OF_EACH["gemma3_text"] | {"tie_word_embeddings": True},
    "smollm3": ONE_OF_EACH["smollm3"] | {"attention_bias": True, "mlp_bias": True},
    "mistral": ONE_OF_EACH["mistral"],
    "ministral": ONE_OF_EACH["ministral"],
    "ministral3": ONE_OF_EACH["ministral3"] | {"tie_word_embeddings": True},
}


def written(path, family="qwen3", settings=SETTINGS, **options):
    """A base model's folder and an adapter's, and the base in transformers."""
    model, config, params = pair(family, **FAMILIES[family])
    hf.save(path / "base", config, params)
    adapter = random_adapter(config, settings)
    base = str(path / "base")
    hf.save_adapter(path / "adapter", config, adapter, settings, base=base, **options)
    return model, config, params, adapter


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_computes_what_we_compute(tmp_path, family):
    model, config, params, adapter = written(tmp_path, family)
    model = model.double()
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    expected = logits_of(theirs, TOKENS)
    attached = lora.attach(params, lora.scaled(adapter, SETTINGS))
    ours = run(attached, config, TOKENS)
    spread = expected.std()
    np.testing.assert_allclose(ours / spread, expected / spread, atol=1e-5)
    # And so do we, from the folder alone, merged.
    loaded_config, merged = hf.load(tmp_path / "adapter", dtype="float32")
    assert dataclasses.replace(loaded_config, hf="") == dataclasses.replace(
        config, hf=""
    )
    ours = run(merged, config, TOKENS)
    np.testing.assert_allclose(ours / spread, expected / spread, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_peft_saves_is_read_and_written_back_byte_for_byte(tmp_path, family):
    model, config, params = pair(family, **FAMILIES[family])
    hf.save(tmp_path / "base", config, params)
    theirs = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=2,
            lora_alpha=7,
            target_modules=["q_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "lora_" in name:
                tensor.normal_(0, 0.2, generator=drawn)
    theirs.save_pretrained(tmp_path / "theirs")
    adapter, settings = hf.load_adapter(tmp_path / "theirs", config)
    assert settings == LoraConfig(rank=2, alpha=7.0, targets=("q_proj", "down_proj"))
    attached = lora.attach(params, lora.scaled(adapter, settings))
    expected = logits_of(theirs.double(), TOKENS)
    # Theirs is float64; in float32 the worst of nine families is off by 1.1e-5.
    np.testing.assert_allclose(
        run(attached, config, TOKENS), expected, atol=2e-5 * expected.std()
    )
    base = str(tmp_path / "base")
    hf.save_adapter(tmp_path / "ours", config, adapter, settings, base=base)
    held = [
        {
            name: (x.dtype, x.tobytes())
            for name, x in load_file(f / "adapter_model.safetensors").items()
        }
        for f in (tmp_path / "theirs", tmp_path / "ours")
    ]
    assert held[0] == held[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_is_byte_equal(tmp_path, family, dtype):
    _, config, _, adapter = written(tmp_path, family, dtype=jnp.dtype(dtype))
    read, settings = hf.load_adapter(
        tmp_path / "adapter", config, dtype=jnp.dtype(dtype)
    )
    assert settings == SETTINGS
    for old, new in zip(*map(jax.tree.leaves, (adapter, read)), strict=True):
        np.testing.assert_array_equal(np.asarray(old).astype(dtype), new)
    base = str(tmp_path / "base")
    hf.save_adapter(tmp_path / "again", config, read, settings, base=base)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        first, second = (tmp_path / f / name for f in ("adapter", "again"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("outer", "family"), TEXT_PARTS.items())
def test_peft_adapts_the_text_model_of_one_that_sees_images(tmp_path, outer, family):
    model = model_with_images(outer, family, **ONE_OF_EACH[family])
    model.save_pretrained(tmp_path / "base")
    assert hf.sees_images(tmp_path / "base")
    config, params = hf.load(tmp_path / "base", dtype="float32")
    adapter = random_adapter(config, SETTINGS)
    base = {"base": str(tmp_path / "base"), "images": True}
    hf.save_adapter(tmp_path / "adapter", config, adapter, SETTINGS, **base)
    with warnings.catch_warnings():  # it only warns of what it does not find
        warnings.simplefilter("error", UserWarning)
        theirs = peft.PeftModel.from_pretrained(model.double(), tmp_path / "adapter")
    names = [name for name, _ in theirs.named_parameters() if "lora_" in name]
    assert names and all(".language_model.layers." in name for name in names)
    expected = logits_of(theirs, TOKENS)
    attached = lora.attach(params, lora.scaled(adapter, SETTINGS))
    close = partial(np.testing.assert_allclose, atol=1e-5 * expected.std())
    close(run(attached, config, TOKENS), expected)
    close(
        run(hf.load(tmp_path / "adapter", dtype="float32")[1], config, TOKENS), expected
    )
    theirs.save_pretrained(tmp_path / "theirs")
    again, settings = hf.load_adapter(tmp_path / "theirs", config)
    assert settings == SETTINGS
    jax.tree.map(np.testing.assert_array_equal, again, adapter)


def test_names_of_a_model_with_images_as_transformers_before_4_52_has_them(tmp_path):
    _, config, _, adapter = written(tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    older = {
        name.replace(".model.layers", ".language_model.model.layers"): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(older, file)
    assert all(name.startswith("base_model.model.language_model.") for name in older)
    read, _ = hf.load_adapter(tmp_path / "adapter", config)
    jax.tree.map(np.testing.assert_array_equal, read, adapter)


def test_a_merged_model_is_placed_as_its_base(tmp_path):
    written(tmp_path)
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    _, merged = hf.load(tmp_path / "adapter", mesh=mesh, dtype="float32")
    shardings = sharding.param_shardings(merged, mesh)
    jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(str(s)), merged, shardings)
    _, alone = hf.load(tmp_path / "adapter", dtype="float32")
    for a, b in zip(*map(jax.tree.leaves, (merged, alone)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_hash_depends_on_adapter_and_base(tmp_path):
    written(tmp_path)
    before = hf.content_hash(tmp_path / "adapter")
    assert before == hf.content_hash(tmp_path / "adapter")
    assert before != hf.content_hash(tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    file.write_text(file.read_text() + "\n")
    assert hf.content_hash(tmp_path / "adapter") != before


def test_damage_is_found(tmp_path):
    written(tmp_path)
    hf.verify(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    held = bytearray(file.read_bytes())
    held[-1] ^= 1
    file.write_bytes(held)
    with pytest.raises(DamagedError, match="adapter_model"):
        hf.load(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora=True: not supported: merge the adapter"),
        ({"use_rslora": True}, "use_rslora=True: not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.'lm_head'.: not"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern=.*not supported"),
        ({"peft_type": "IA3"}, "peft_type='IA3': not supported"),
        # These two take a library or numbers that are not here to be loaded by peft.
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda': not supported"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq': not supported"),
        ({"r": 5}, r"r=5 imply \[5, 48\]: check that they belong together"),
        ({"r": None}, "r=None, lora_alpha=6: not those of an adapter"),
        ({"base_model_name_or_path": ""}, "names no model: write the folder"),
        (
            {"base_model_name_or_path": "/no/such"},
            "its model: /no/such: no such folder",
        ),
    ],
)
def test_an_adapter_that_would_be_computed_wrongly_is_refused(tmp_path, change, said):
    written(tmp_path)
    change_fields(tmp_path / "adapter", **change)
    with pytest.raises(UserError, match=said):
        hf.load(tmp_path / "adapter", dtype="float32")


def change_fields(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    (folder / "SHA256SUMS").unlink()


LEFT_ALONE = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")


@pytest.mark.parametrize("kind", [*LEFT_ALONE, "pissa", "pissa_niter_4", "olora"])
def test_an_adapter_for_which_peft_changes_the_model_is_refused_and_no_other(
    tmp_path, kind
):
    settings = LoraConfig(rank=2, alpha=6, targets=("q_proj", "down_proj"))
    model, config, _, _ = written(tmp_path, settings=settings)
    change_fields(tmp_path / "adapter", init_lora_weights=kind)
    matrix = model.model.layers[0].self_attn.q_proj.weight
    before = matrix.detach().clone()
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    after = model.model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(before, after) == (kind in LEFT_ALONE)
    if kind not in LEFT_ALONE:
        with pytest.raises(UserError, match=f"init_lora_weights='{kind}': not sup"):
            hf.load(tmp_path / "adapter", dtype="float32")
        return
    _, merged = hf.load(tmp_path / "adapter", dtype="float32")
    expected = logits_of(theirs.double(), TOKENS)
    np.testing.assert_allclose(
        run(merged, config, TOKENS), expected, atol=2e-5 * expected.std()
    )


def test_a_tensor_that_is_none_of_ours_is_refused(tmp_path):
    written(tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    name = "base_model.model.lm_head.lora_A.weight"
    save_file(load_file(file) | {name: np.ones((3, 48), np.float32)}, file)
    (tmp_path / "adapter" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"lm_head\.lora_A\.weight, which is no"):
        hf.load(tmp_path / "adapter")


def test_no_other_folder_is_replaced(tmp_path):
    _, config, _, adapter = written(tmp_path)
    base = str(tmp_path / "base")
    with pytest.raises(UserError, match="is not a model folder"):
        hf.save_adapter(base, config, adapter, SETTINGS, base=base)
