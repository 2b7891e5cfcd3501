"""The BERT encoder against transformers' own."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import encoder
from models.errors import UserError
from models.hf import encoders

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = dict(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=16,
)


POOLINGS = ("mean_tokens", "cls_token", "max_tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SHAPE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + 0.1)
    model.save_pretrained(folder)
    raw = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def batch():
    ids = np.random.default_rng(0).integers(0, 50, (3, 9))
    mask = np.ones((3, 9), int)
    mask[1, 5:] = 0
    mask[2, 1:] = 0
    return ids, mask


def torch_hidden(folder, ids, mask):
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    return out.last_hidden_state.numpy()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_equal_transformers(folder, batch, pooling):
    ids, mask = batch
    (folder / "1_Pooling").mkdir(exist_ok=True)
    fields = {f"pooling_mode_{k}": k.startswith(pooling) for k in POOLINGS}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(fields))
    config, params, _ = encoders.load_encoder(folder)
    assert config.pooling == pooling
    expected = torch_hidden(folder, ids, mask)
    got = np.asarray(encoder.hidden(params, config, ids, mask))
    np.testing.assert_allclose(got[mask > 0], expected[mask > 0], atol=1e-5)
    weights = mask[..., None] / mask.sum(1)[:, None, None]
    pooled = expected[:, 0] if pooling == "cls" else (expected * weights).sum(1)
    vectors = encoder.embed(params, config, ids, mask)
    np.testing.assert_allclose(vectors, unit(pooled), atol=1e-5)


def test_padding_changes_nothing_and_an_empty_row_is_zero(folder, batch):
    ids, mask = batch
    config, params, _ = encoders.load_encoder(folder)
    short = encoder.embed(params, config, ids[1:2, :5], mask[1:2, :5])
    long = encoder.embed(params, config, ids[1:2], mask[1:2])
    np.testing.assert_allclose(short, long, atol=1e-6)
    empty = encoder.embed(params, config, ids, np.zeros_like(mask))
    np.testing.assert_array_equal(empty, 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "t5"}, "model_type='t5'"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_hidden_layers": 3}, r"tensor encoder.layer.2\S* is missing"),
        ({"num_hidden_layers": 1}, "has tensor encoder.layer.1"),
        ({"hidden_size": 32}, "has shape"),
    ],
)
def test_a_folder_that_is_no_such_encoder_is_one_clear_line(
    folder, tmp_path, fields, words
):
    shutil.copytree(folder, tmp_path / "bad")
    file = tmp_path / "bad" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(UserError, match=words) as caught:
        encoders.load_encoder(tmp_path / "bad")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens pooling"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "cls_token and mean_tokens pooling",
        ),
        ({"pooling_mode": "lasttoken"}, "lasttoken pooling"),
    ],
)
def test_another_pooling_is_one_clear_line(folder, tmp_path, fields, words):
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad/1_Pooling").mkdir(exist_ok=True)
    (tmp_path / "bad/1_Pooling/config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=words) as caught:
        encoders.load_encoder(tmp_path / "bad")
    assert "\n" not in str(caught.value)


def test_pooling_as_newer_packages_write_it(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "new")
    (tmp_path / "new/1_Pooling").mkdir(exist_ok=True)
    file = tmp_path / "new/1_Pooling/config.json"
    file.write_text('{"embedding_dimension": 24, "pooling_mode": "cls"}')
    assert encoders.load_encoder(tmp_path / "new")[0].pooling == "cls"


OLDER, NEWER = "sentence_transformers.models", "sentence_transformers.base.modules"


def modules(*kinds, at=OLDER, pooling="1_Pooling"):
    """What sentence-transformers writes of a model of these modules."""
    paths = {"Transformer": "", "Pooling": pooling}
    return [
        {"idx": i, "name": str(i), "path": paths.get(kind, f"{i}_{kind}")}
        | {"type": f"{at}.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def copied(folder, target, written):
    """The encoder with a ``modules.json``."""
    shutil.copytree(folder, target)
    shutil.rmtree(target / "1_Pooling", ignore_errors=True)
    (target / "modules.json").write_text(json.dumps(written))
    return target


@pytest.mark.parametrize("at", [OLDER, NEWER])
@pytest.mark.parametrize("last", [(), ("Normalize",)])
def test_the_pooling_of_its_own_list_of_modules_is_read(folder, tmp_path, at, last):
    """MiniLM, E5 and bge have such a list, with ``1_Pooling``."""
    written = modules("Transformer", "Pooling", *last, at=at, pooling="7_Other")
    encoder_folder = copied(folder, tmp_path / "own", written)
    (encoder_folder / "7_Other").mkdir()
    file = encoder_folder / "7_Other/config.json"
    file.write_text('{"pooling_mode_cls_token": true}')
    assert encoders.load_encoder(encoder_folder)[0].pooling == "cls"
    file.unlink()
    with pytest.raises(UserError, match=r"7_Other/config.json: no such file, but"):
        encoders.load_encoder(encoder_folder)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            modules("Transformer", "Pooling", "Dense", "Normalize"),
            r"modules.json: module sentence_transformers.models.Dense: not supported",
        ),
        (
            modules("Transformer", "Pooling", "Dropout", at=NEWER),
            ".Dropout: not",
        ),
        (modules("Transformer", "Pooling", "Pooling"), "of the one pooling"),
        (modules("Transformer", "Pooling", pooling=3), "path=3 of .*Pooling: must"),
        ([3], "module None: not supported"),
        ({}, "not a JSON list"),
    ],
)
def test_a_module_that_is_not_computed_is_one_clear_line(
    folder, tmp_path, written, words
):
    """LaBSE has a dense layer behind its pooling."""
    with pytest.raises(UserError, match=words) as caught:
        encoders.load_encoder(copied(folder, tmp_path / "bad", written))
    assert "\n" not in str(caught.value)


def test_a_model_saved_with_a_head_is_read_too(folder, batch, tmp_path):
    shutil.copytree(folder, tmp_path / "head")
    file = tmp_path / "head/model.safetensors"
    tensors = {f"bert.{name}": value for name, value in load_file(file).items()}
    save_file(tensors | {"cls.predictions.bias": np.ones(50, np.float32)}, file)
    vectors = [
        encoder.embed(params, config, *batch)
        for config, params, _ in map(encoders.load_encoder, (folder, tmp_path / "head"))
    ]
    np.testing.assert_array_equal(*vectors)


def test_minilm_equals_transformers():
    """Sentence vectors of real passages: torch's, pooled and normalised, to 1e-5."""
    models = Path(os.environ.get("SCOPE_MODELS", ""))
    if not (models / "minilm/config.json").is_file():
        pytest.skip("no minilm in the folder $SCOPE_MODELS")
    config, params, tokenizer = encoders.load_encoder(models / "minilm")
    texts = ["a river in Switzerland", "Who founded the city of Bern, and when?", "é"]
    corpus = models / "wiki10k/wiki10k.jsonl"
    if corpus.is_file():
        lines = corpus.read_text(encoding="utf-8").splitlines()[::350]
        texts += [json.loads(line)["contents"] for line in lines]
    worst = 0.0
    for start in range(0, len(texts), 8):
        encoded = tokenizer(
            texts[start : start + 8],
            padding=True,
            truncation=True,
            max_length=180,
            return_tensors="np",
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        expected = torch_hidden(models / "minilm", ids, mask)
        weights = mask[..., None] / mask.sum(1)[:, None, None]
        wanted = unit((expected * weights).sum(1))
        got = np.asarray(encoder.embed(params, config, ids, mask))
        worst = max(worst, float(np.abs(got - wanted).max()))
    print(f"{len(texts)} texts, largest difference {worst:.1e}")
    assert worst < 1e-5
