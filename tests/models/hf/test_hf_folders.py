"""Folders that can't be used, each one clear line; tokenizers in and out."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import forward, hf
from models.errors import UserError
from models.hf import loading
from models.hf.tokenizer import QWEN2_WORDS
from tests.models.oracle import make_model

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "good"
    make_model("qwen3", tie_word_embeddings=True).save_pretrained(folder)
    return folder


def edit_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def drop(name):
    return lambda folder: (folder / name).unlink()


def cut(size):
    def change(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return change


def config_says(**fields):
    return lambda folder: edit_config(folder, **fields)


def tensors(change):
    def rewrite(folder):
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return rewrite


def without(name):
    return tensors(lambda t: {k: v for k, v in t.items() if k != name})


NORM, QUERY = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("config.json"), "no config.json"),
        (write("config.json", "{"), "not valid JSON"),
        (write("config.json", "[" * 100_000), "not valid JSON"),
        (write("config.json", "[]"), "not a JSON object"),
        (config_says(model_type="mamba"), "model_type='mamba'"),
        (config_says(model_type=[]), r"model_type=\[\]"),
        (config_says(hidden_act="relu"), "hidden_act"),
        (config_says(num_attention_heads=0), "num_attention_heads=0: must"),
        (config_says(hidden_size=None), "hidden_size=None: must"),
        (config_says(num_hidden_layers="2"), "num_hidden_layers='2': must"),
        (config_says(rms_norm_eps="x"), "rms_norm_eps='x': must"),
        (config_says(layer_types=3), "layer_types=3: must"),
        (config_says(layer_types=[[], 1]), r"layer_types: \[\] is not"),
        (config_says(rope_parameters="yarn"), "rope_parameters='yarn': must"),
        (
            config_says(rope_parameters={"rope_type": "yarn", "factor": "4"}),
            "factor='4': must",
        ),
        (
            config_says(quantization_config={"quant_method": "fp8"}),
            r"quantised .*\(fp8\)",
        ),
        (drop("model.safetensors"), r"no \*.safetensors"),
        (cut(-100), "damaged or cut short"),
        (cut(40), "damaged or cut short"),
        (cut(0), "damaged or cut short"),
        (write("model.safetensors", "version https://git-lfs"), "damaged or cut short"),
        (write(INDEX, "{}"), "not an index of tensors"),
        (write(INDEX, "[" * 10_000), "not an index of tensors"),
        (
            write(INDEX, '{"weight_map": {"a": "gone.safetensors"}}'),
            "no gone.safetensors",
        ),
        (without(QUERY), f"has no tensor {QUERY}, which"),
        (without(NORM), f"has no tensor {NORM}"),
        (
            config_says(num_hidden_layers=4, layer_types=None),
            r"has no tensor model.layers.2.* and 21 more",
        ),
        (
            config_says(num_hidden_layers=1, layer_types=None),
            "has tensor model.layers.1",
        ),
        (config_says(num_hidden_layers=1), "layer_types: 2 entries for 1 layers"),
        (tensors(lambda t: t | {"extra": np.ones(2)}), "has tensor extra, which"),
        (
            config_says(intermediate_size=40),
            r"has shape \[80, 48\], .* implies \[40, 48\]",
        ),
        (tensors(lambda t: t | {NORM: np.ones(3, "f4")}), rf"{NORM} has shape \[3\]"),
        (
            tensors(lambda t: t | {NORM: np.ones(48, "i1")}),
            f"{NORM} is of type I8: use",
        ),
        (tensors(lambda t: t | {NORM: np.ones(48, "f8")}), f"{NORM} is of type F64"),
        (config_says(tie_word_embeddings=False), "has no tensor lm_head.weight"),
        (
            tensors(lambda t: t | {"lm_head.weight": np.ones((97, 48), "f4")}),
            "lm_head.weight differs .* tie_word_embeddings",
        ),
    ],
)
def test_a_bad_folder_is_one_clear_line(good, tmp_path, damage, words):
    folder = tmp_path / "bad"
    shutil.copytree(good, folder)
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        hf.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_file_that_shrinks_while_it_is_read_is_one_clear_line(
    good, tmp_path, monkeypatch
):
    folder = tmp_path / "bad"
    shutil.copytree(good, folder)
    check = loading._check_tensors

    def check_and_cut(*arguments):
        check(*arguments)
        cut(2_000)(folder)

    monkeypatch.setattr(loading, "_check_tensors", check_and_cut)
    with pytest.raises(UserError, match="cut short") as caught:
        hf.load(folder)
    assert "\n" not in str(caught.value)


def test_pickles_are_never_read(good, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(good, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        hf.load(folder)


def test_an_index_cannot_point_outside_its_folder(good, tmp_path):
    folder = tmp_path / "inner"
    shutil.copytree(good, folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / INDEX).write_text('{"weight_map": {"x": "../outside.safetensors"}}')
    with pytest.raises(UserError, match=r"no outside.safetensors"):
        hf.load(folder)


@pytest.mark.parametrize("path", ["no/where/at/all", "../nowhere", "a b"])
def test_no_folder_and_no_hub_name_is_one_clear_line(path):
    with pytest.raises(UserError, match="no such folder"):
        hf.load(path)


def test_a_hub_that_does_not_answer_is_one_clear_line(monkeypatch):
    import huggingface_hub

    def fail(*args, **options):
        raise OSError("unreachable\nfor a reason")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"owner/name: .*unreachable\)") as caught:
        hf.load("owner/name")
    assert "\n" not in str(caught.value)


def test_a_hub_name_is_downloaded(good, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        return str(good)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    _, params = hf.load("owner/name")
    assert {name for name, _ in asked} == {"owner/name"}
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked[0][1])
    jax.tree.map(np.testing.assert_array_equal, params, hf.load(good)[1])


def test_a_place_that_is_no_model_folder_is_left_alone(
    tiny_config, tiny_params, tmp_path
):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(UserError, match="not a model folder"):
        hf.save(tmp_path, tiny_config, tiny_params)
    with pytest.raises(UserError, match="not a model folder"):
        hf.save(tmp_path / "keep.txt", tiny_config, tiny_params)
    with pytest.raises(UserError, match="can't be written") as caught:
        hf.save(tmp_path / "keep.txt" / "model", tiny_config, tiny_params)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "keep.txt").read_text() == "mine"


# --- tokenizers ---------------------------------------------------------------------


def make_tokenizer():
    from tokenizers import Tokenizer, models

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "<end>": 2}, "<unk>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        eos_token="<end>",
        chat_template="{{ 'own' }}",
    )


@pytest.fixture
def source(tmp_path):
    """A folder as a model's makers publish it, with things that only they know."""
    folder = tmp_path / "source"
    make_tokenizer().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    fields |= {"tokenizer_class": "Qwen2Tokenizer", "chat_template": "{{ 'own' }}"}
    file.write_text(json.dumps(fields))
    (folder / "vocab.json").write_text("{}")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    (folder / "modeling_own.py").write_text("raise SystemExit")
    return folder


def test_tokenizer_files_travel_as_they_are(source, tiny_config, tiny_params, tmp_path):
    tokenizer = hf.load_tokenizer(source)
    hf.save(tmp_path / "out", tiny_config, tiny_params, tokenizer=tokenizer)
    weights = {"config.json", "model.safetensors", "SHA256SUMS"}
    names = {file.name for file in (tmp_path / "out").iterdir()} - weights
    assert names == {file.name for file in source.iterdir()} - {"modeling_own.py"}
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_the_template_of_the_training_replaces_the_other_everywhere(
    source, tiny_config, tiny_params, tmp_path
):
    tokenizer = hf.load_tokenizer(source)
    options = dict(tokenizer=tokenizer, template="{{ 'trained' }}")
    hf.save(tmp_path / "out", tiny_config, tiny_params, **options)
    assert hf.load_tokenizer(tmp_path / "out").chat_template == "{{ 'trained' }}"
    fields = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert fields["chat_template"] == "{{ 'trained' }}"
    assert fields["tokenizer_class"] == "Qwen2Tokenizer"
    assert tokenizer.chat_template == "{{ 'own' }}"


def test_a_tokenizer_that_was_changed_is_written_anew(
    source, tiny_config, tiny_params, tmp_path
):
    tokenizer = hf.load_tokenizer(source)
    tokenizer.add_tokens(["new"])
    hf.save(tmp_path / "out", tiny_config, tiny_params, tokenizer=tokenizer)
    again = hf.load_tokenizer(tmp_path / "out")
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.chat_template == "{{ 'own' }}"


def test_a_tokenizer_made_in_memory_loads_in_older_programs_too(
    tiny_config, tiny_params, tmp_path
):
    hf.save(tmp_path / "out", tiny_config, tiny_params, tokenizer=make_tokenizer())
    fields = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.get_vocab() == make_tokenizer().get_vocab()
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation == {"_from_model_config": True, "eos_token_id": 2}


@pytest.mark.parametrize("changed", [False, True])
def test_a_list_of_special_tokens_has_the_name_that_both_generations_read(
    source, changed, tiny_config, tiny_params, tmp_path
):
    file = source / "tokenizer_config.json"
    fields = json.loads(file.read_text()) | {"extra_special_tokens": ["a"]}
    file.write_text(json.dumps(fields))
    tokenizer = hf.load_tokenizer(source)
    if changed:
        tokenizer.add_tokens(["new"])
    hf.save(tmp_path / "out", tiny_config, tiny_params, tokenizer=tokenizer)
    written = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in written  # 4.57 wants a dictionary there
    assert written["additional_special_tokens"] == ["a"]
    again = hf.load_tokenizer(tmp_path / "out")
    assert again.extra_special_tokens == ["a"] and "a" in again.all_special_tokens


@pytest.mark.parametrize(
    ("given", "ends"), [("[2, 1]", [2, 1, 7]), ("2", [2, 7]), ("null", [7, 2])]
)
def test_every_end_of_a_turn_is_in_the_generation_config(
    source, tiny_config, tiny_params, tmp_path, given, ends
):
    (source / "generation_config.json").write_text(
        f'{{"eos_token_id": {given}, "top_p": 0.8}}'
    )
    tokenizer = hf.load_tokenizer(source)
    options = dict(tokenizer=tokenizer, stop_ids=(7, 2))
    hf.save(tmp_path / "out", tiny_config, tiny_params, **options)
    fields = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert fields == {"eos_token_id": ends, "top_p": 0.8}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("tokenizer.json"), "no tokenizer.json"),
        (write("tokenizer.json", "{"), "not valid JSON"),
        (write("tokenizer.json", "{}"), "tokenizer can't be read"),
        (write("tokenizer.json", '{"model": {"type": "Odd"}}'), "can't be read"),
        (write("tokenizer_config.json", "{"), "tokenizer can't be read"),
    ],
)
def test_a_bad_tokenizer_is_one_clear_line(source, damage, words):
    damage(source)
    with pytest.raises(UserError, match=words) as caught:
        hf.load_tokenizer(source)
    assert "\n" not in str(caught.value) and str(source) in str(caught.value)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("cut", ["qwen2", "gpt2"])
def test_cuts_that_transformers_5_replaces_are_said(
    tiny_config, tmp_path, caplog, family, cut
):
    """It reads "12" as Qwen2's tokenizer in every folder of that type."""
    config = replace(tiny_config, model_type=family, vocab_size=300)
    params = forward.init(config, jax.random.key(0), "float32")
    tokenizer = digits_tokenizer(qwen2=cut == "qwen2")
    hf.save(tmp_path / "out", config, params, tokenizer=tokenizer)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.encode("e\u0301 12")
    assert hf.load_tokenizer(tmp_path / "out").encode("e\u0301 12") == ids
    replaced = family == "qwen2" and cut == "gpt2"
    assert (auto.encode("e\u0301 12") != ids) == replaced
    assert ("PreTrainedTokenizerFast" in caplog.text) == replaced


def digits_tokenizer(*, qwen2):
    """Bytes and "12" as tokens; cut as Qwen2's, with its normalizer, or as GPT-2's."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as pre

    alphabet = [*sorted(pre.ByteLevel.alphabet()), "12"]
    vocab = {token: i for i, token in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(vocab, [("1", "2")]))
    raw.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    if qwen2:
        raw.normalizer = normalizers.NFC()
        split = pre.Split(Regex(QWEN2_WORDS), "isolated")
        behind = pre.ByteLevel(add_prefix_space=False, use_regex=False)
        raw.pre_tokenizer = pre.Sequence([split, behind])
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<end>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")


def test_ids_that_a_tokenizer_leaves_out_are_counted():
    from tokenizers import Tokenizer, models

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "<end>": 9}, "<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw)
    assert len(tokenizer) == 3  # so the end of a text would never be sampled
    assert hf.vocab_rows(tokenizer) == 10
