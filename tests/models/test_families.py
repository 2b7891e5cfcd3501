"""What holds for every family: docs/families.md has a row for each of these tests."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from models import forward, hf, sharding
from models.cache import HeadsFirst, TokensFirst, init_cache
from models.chat_templates import TEMPLATES
from models.config import DecoderConfig
from models.errors import UserError
from models.families import FAMILIES, TEXT_PARTS
from models.fingerprint import fingerprint
from models.hf.layout import flatten
from models.hf.published import PUBLISHED
from models.unstacked import unstack
from tests.models.cases import ONE_OF_EACH
from tests.models.oracle import logits_of, model_with_images, pair, torch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

run = jax.jit(forward.forward, static_argnums=1)
CHUNK, LENGTH = 16, 24


@pytest.fixture(scope="module", params=FAMILIES)
def one(request):
    """A transformers model of a family, ours, and logits of whole rows."""
    model, config, params = pair(request.param, seed=3, **ONE_OF_EACH[request.param])
    tokens = np.random.default_rng(2).integers(0, 97, (2, LENGTH))
    logits = np.asarray(run(params, config, tokens))
    made = SimpleNamespace(model=model, config=config, params=params)
    made.tokens, made.logits = tokens, logits
    return made


def test_whole_rows_are_those_of_transformers(one):
    """Logits in float32, to 1e-4 of their standard deviation."""
    expected = logits_of(one.model, one.tokens)
    assert np.abs(one.logits - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    ("attention", "layout"), [("blocks", HeadsFirst), ("pallas", TokensFirst)]
)
def test_prefill_and_decode_are_the_whole_row(one, attention, layout):
    """Through the paged cache, by `blocks` and by the kernel; windows are shorter."""
    config = one.config
    params = unstack(one.params, config, weights_first=attention == "blocks")
    cache = init_cache(config, 5, CHUNK, jnp.float32, layout)
    tables = np.array([[4, 2], [1, 0], [5, 5]])
    cache, hidden = jax.jit(forward.prefill, static_argnums=1)(
        params,
        config,
        cache,
        np.concatenate([one.tokens[:, :CHUNK], np.zeros((1, CHUNK), int)]),
        tables,
        np.zeros(3, int),
        np.full(3, CHUNK - 1),
    )
    step = jax.jit(forward.decode_step, static_argnums=1, static_argnames="attention")
    found, active = [hidden[:2]], np.array([True, True, False])
    for at in range(CHUNK, LENGTH):
        now = np.array([*one.tokens[:, at], 5])
        places = np.full(3, at)
        cache, hidden = step(
            params, config, cache, now, tables, places, active, attention=attention
        )
        found.append(hidden[:2])
    got = forward.unembed(params, config, jnp.stack(found, axis=1))
    np.testing.assert_allclose(got, one.logits[:, CHUNK - 1 :], rtol=1e-3, atol=1e-5)


def test_four_devices_compute_the_same(one):
    """Every parameter has its axes in the table; weights over two axes of a mesh."""
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    placed = jax.device_put(one.params, sharding.param_shardings(one.params, mesh))
    got = run(placed, one.config, one.tokens)
    np.testing.assert_allclose(got, one.logits, atol=1e-4 * one.logits.std())


def test_an_export_holds_every_bit_also_of_fused_weights(one, tmp_path):
    """Out, in, and fused for decoding in either order of the weights."""
    hf.save(tmp_path / "model", one.config, one.params)
    config, params = hf.load(tmp_path / "model", dtype="float32")
    assert flatten(params).keys() == flatten(one.params).keys()
    jax.tree.map(np.testing.assert_array_equal, params, one.params)
    expected = fingerprint(one.params)
    for first in (False, True):
        fused = unstack(params, config, weights_first=first)
        np.testing.assert_array_equal(fingerprint(fused), expected)


def test_a_config_made_here_is_read_the_same_here_and_by_transformers(one, tmp_path):
    """A `config.json` that is written without an original one."""
    made = bare(one.config)
    fields = json.loads(json.dumps(made.to_hf()))
    assert bare(DecoderConfig.from_hf(fields)) == made
    (tmp_path / "config.json").write_text(json.dumps(fields))
    read = transformers.AutoConfig.from_pretrained(tmp_path)
    assert read.model_type == made.model_type
    assert bare(DecoderConfig.from_hf(read.to_dict())) == made


def bare(config: DecoderConfig) -> DecoderConfig:
    """The configuration without the file that it was read from."""
    return replace(config, hf="")


def test_a_chat_template_in_its_form_is_packaged():
    """For base models, whose tokenizers have none: `model.template`."""
    assert ONE_OF_EACH.keys() == FAMILIES.keys()
    for family in FAMILIES.values():
        assert (TEMPLATES / f"{family.template}.jinja").is_file()


@pytest.mark.parametrize(("outer", "family"), TEXT_PARTS.items())
def test_of_a_model_that_sees_images_the_text_is_read(outer, family, tmp_path):
    model = model_with_images(outer, family, **ONE_OF_EACH[family])
    model.save_pretrained(tmp_path / "in")
    read, params = hf.load(tmp_path / "in", dtype="float32")
    tokens = np.random.default_rng(1).integers(0, 97, (2, 12))
    expected = logits_of(model, tokens)
    got = run(params, read, tokens)
    assert np.abs(got - expected).max() < 1e-4 * expected.std()
    hf.save(tmp_path / "out", read, params)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    )
    assert again.config.model_type == family
    theirs = model.state_dict()
    for name, tensor in again.state_dict().items():
        where = name.replace("model.", "model.language_model.", 1)
        assert torch.equal(tensor, theirs[where if where in theirs else name]), name


def test_a_sparse_text_config_means_what_transformers_takes_it_for():
    fields = PUBLISHED["google/gemma-3-4b-it"]
    theirs = transformers.CONFIG_MAPPING["gemma3"](**fields).text_config
    config = DecoderConfig.from_hf(fields)
    assert bare(config) == bare(DecoderConfig.from_hf(theirs.to_dict()))
    assert (config.num_kv_heads, config.vocab_size, config.window) == (4, 262_208, 1024)


GEMMA = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "without it"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "without"),
        ({"model_type": "gemma3_text", "hidden_activation": "gelu"}, "gelu_pytorch"),
        ({"model_type": "gemma3_text", "query_pre_attn_scalar": 0}, "above 0"),
        (
            {
                "model_type": "gemma3_text",
                "rope_local_base_freq": 1e5,
                "rope_parameters": {"sliding_attention": {"rope_theta": 1e4}},
            },
            "contradict",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "2 entries for 6 layers"),
        ({"model_type": "smollm3", "no_rope_layers": "no"}, "a list of 0 and 1"),
        ({"model_type": "gemma3"}, "text_config=None: must be an object"),
        ({"model_type": "gemma2"}, "use one of gemma3_text"),
    ],
)
def test_what_a_family_cannot_have_is_one_line(fields, words):
    with pytest.raises(UserError) as caught:
        DecoderConfig.from_hf(GEMMA | fields)
    assert words in str(caught.value) and "\n" not in str(caught.value)
