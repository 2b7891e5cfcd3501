"""Float32 logits and gradients are those of transformers, for every flag."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from models import forward
from models.config import DecoderConfig
from models.errors import UserError
from models.families import FAMILIES
from models.hf.layout import flatten, unflatten
from models.layers import rms_norm
from models.rope import Rope
from tests.models.cases import CASES, both
from tests.models.oracle import logits_of, make_model, pair, tensors_to_params, torch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

run = jax.jit(forward.forward, static_argnums=1)
TOKENS = np.random.default_rng(0).integers(0, 97, (2, 40))
TOLERANCE = 1e-4  # of the logits' standard deviation


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case):
    family, fields = CASES[case]
    model, config, params = pair(family, seed=len(case), **fields)
    expected = logits_of(model, TOKENS)
    logits = run(params, config, TOKENS)
    assert logits.dtype == jnp.float32
    assert np.abs(logits - expected).max() <= TOLERANCE * expected.std()


def moved(case: str, **change) -> float:
    """How far another configuration moves the logits, in tolerances."""
    family, fields = CASES[case]
    _, config, params = pair(family, seed=len(case), **fields)
    plain = run(params, config, TOKENS)
    other = run(params, dataclasses.replace(config, **change), TOKENS)
    return np.abs(plain - other).max() / (TOLERANCE * plain.std())


def rope(case: str, **change) -> dict:
    _, fields = CASES[case]
    found = fields["rope_parameters"]
    if "full_attention" in found:
        found = found["full_attention"]
    return {"rope": dataclasses.replace(Rope(**found), **change)}


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("qwen3-eps", {"rms_norm_eps": 2e-2}),
        ("olmo3-biased", {"rms_norm_eps": 1e-2}),
        ("qwen2-theta", rope("qwen2-theta", rope_theta=1e5)),
        ("qwen3-yarn", rope("qwen3-yarn", rope_type="default")),
        ("qwen3-yarn", rope("qwen3-yarn", factor=3.0)),
        ("qwen3-yarn", rope("qwen3-yarn", original_max_position_embeddings=32)),
        ("qwen2-yarn", rope("qwen2-yarn", mscale=2.0)),
        ("qwen2-yarn", rope("qwen2-yarn", mscale_all_dim=None)),
        ("llama-yarn-exact", rope("llama-yarn-exact", truncate=True)),
        ("llama-yarn-exact", rope("llama-yarn-exact", beta_fast=8.0)),
        ("llama3", rope("llama3", rope_type="default")),
        ("llama3", rope("llama3", factor=4.0)),
        ("llama3", rope("llama3", low_freq_factor=2.0)),
        ("llama3", rope("llama3", high_freq_factor=6.0)),
        ("llama3", rope("llama3", original_max_position_embeddings=32)),
        ("olmo3", rope("olmo3", attention_factor=1.1)),
        ("olmo3", rope("olmo3", beta_slow=1.0)),
        ("olmo3", {"window_rope": None}),
        ("olmo3", {"window": 7}),
        ("olmo3", {"window_layers": (True, False, True, True) * 2}),
        ("qwen3-window", {"window": 6}),
        ("qwen3-window", {"window_layers": (True, False)}),
        ("gemma3", {"query_scalar": 20.0}),
        ("gemma3", {"final_softcap": 0.0}),
        ("gemma3", {"window_rope": None}),
        ("gemma3", {"window": 6}),
        ("gemma3", {"window_layers": (True,) * 7}),
        ("gemma3", rope("gemma3", rope_type="default")),
        ("gemma3", rope("gemma3", factor=4.0)),
        ("smollm3", {"rope_layers": ()}),
        ("smollm3", {"rope_layers": (True, True, False, True)}),
        ("smollm3-window", {"window": 4}),
        ("mistral", {"window": 6}),
        ("ministral", {"window_layers": (True,) * 4}),
        ("ministral3", rope("ministral3", llama_4_scaling_beta=0.0)),
        ("ministral3", rope("ministral3", llama_4_scaling_beta=0.3)),
    ],
)
def test_each_number_of_the_configuration_moves_the_logits(case, change):
    assert moved(case, **change) > 100


@pytest.mark.parametrize(
    "case",
    [
        "qwen3-biased",
        "qwen2-untied",
        "llama-biased",
        "olmo3-biased",
        "gemma3-biased",
        "smollm3-biased",
        "ministral",
    ],
)
def test_each_tensor_moves_the_logits(case):
    family, fields = CASES[case]
    _, config, params = pair(family, **fields)
    plain = run(params, config, TOKENS)
    flat = flatten(params)
    generator = np.random.default_rng(2)
    for path, leaf in flat.items():
        # Not one factor for all: OLMo-3's norm after the MLP would divide it out.
        factors = generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        changed = unflatten(flat | {path: leaf * factors})
        difference = np.abs(run(changed, config, TOKENS) - plain).max()
        assert difference > 100 * TOLERANCE * plain.std(), path
    # Untied, the output has a tensor of its own.
    tied = dataclasses.replace(config, tie_embeddings=True)
    difference = np.abs(run(params, tied, TOKENS) - plain).max()
    assert difference > 100 * TOLERANCE * plain.std()


@pytest.mark.parametrize(
    "case",
    [
        "qwen3-biased",
        "qwen2",
        "qwen3-window",
        "llama-biased",
        "olmo3-biased",
        "gemma3",
        "gemma3-biased",
        "smollm3",
        "smollm3-biased",
        "mistral",
        "ministral",
        "ministral3",
    ],
)
def test_gradients_are_those_of_torch(case):
    family, fields = CASES[case]
    model, config, params = pair(family, **fields)
    weight = np.random.default_rng(1).standard_normal((*TOKENS.shape, 97))
    logits = model(torch.tensor(TOKENS), use_cache=False).logits
    (logits * torch.tensor(weight, dtype=torch.float32)).mean().backward()
    expected = tensors_to_params(
        {name: p.grad.numpy() for name, p in model.named_parameters()}, config
    )

    def loss(params):
        return (forward.forward(params, config, TOKENS) * weight).mean()

    gradients = flatten(jax.jit(jax.grad(loss))(params))
    for path, theirs in flatten(expected).items():
        error = np.linalg.norm(gradients[path] - theirs) / np.linalg.norm(theirs)
        assert error < 1e-4, (path, error)


def test_files_of_before_transformers_5_are_read():
    """Their rotary numbers are at the top, and scaling is for full attention."""
    old = {
        "model_type": "olmo3",
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "sliding_window": 4096,
        "rope_theta": 500_000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "attention_factor": 1.2079441541679836,
            "beta_fast": 32,
            "beta_slow": 1,
        },
    }
    config = DecoderConfig.from_hf(old)
    assert config.window_rope == Rope(rope_theta=500_000.0)
    assert config.rope.rope_type == "yarn" and config.rope.rope_theta == 500_000
    assert config.window_layers == (True, True, True, False)
    made = dataclasses.replace(config, hf="").to_hf()
    assert dataclasses.replace(DecoderConfig.from_hf(made), hf="") == (
        dataclasses.replace(config, hf="")
    )
    qwen = {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e6}
    config = DecoderConfig.from_hf(
        old | qwen | {"model_type": "qwen2", "max_position_embeddings": 32_768}
    )
    assert (config.rope.factor, config.rope.rope_theta) == (4.0, 1e6)
    assert config.rope.original_max_position_embeddings == 32_768
    assert config.window == 0 and config.qkv_bias


PLAIN_FILE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "sliding_window": 4096,
}


def test_the_older_base_of_olmo3_is_for_all_layers_as_in_transformers_4():
    """Transformers 5.24 gives the layers with a window 500,000 instead."""
    old = PLAIN_FILE | {"model_type": "olmo3", "rope_theta": 1e6}
    config = DecoderConfig.from_hf(old)
    assert config.rope == config.window_rope == Rope(rope_theta=1e6)


def test_qwen3_without_head_dim_has_the_128_of_transformers():
    config = DecoderConfig.from_hf(PLAIN_FILE | {"model_type": "qwen3"})
    assert config.head_dim == transformers.Qwen3Config(**PLAIN_FILE).head_dim == 128
    for family in ("qwen2", "llama", "olmo3"):
        config = DecoderConfig.from_hf(PLAIN_FILE | {"model_type": family})
        assert config.head_dim == 12


BASE = {"rope_type": "default", "rope_theta": 1e6}
RECIPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("family", "fields", "names"),
    [
        ("qwen3", {"rope_scaling": RECIPE, "rope_parameters": BASE}, "rope_scaling"),
        (
            "olmo3",
            {"rope_scaling": RECIPE, "rope_parameters": both(BASE, BASE)},
            "rope_scaling",
        ),
        ("qwen2", {"rope_theta": 1e5, "rope_parameters": BASE}, "rope_theta=100000.0"),
        (
            "olmo3",
            {"rope_theta": 1e5, "rope_parameters": both(BASE, BASE)},
            "rope_theta=100000.0",
        ),
        ("qwen3", {"rope_parameters": both(BASE, BASE)}, "same frequencies in all"),
    ],
)
def test_frequencies_that_contradict_each_other_are_refused(family, fields, names):
    with pytest.raises(UserError, match="rope_parameters") as caught:
        DecoderConfig.from_hf(PLAIN_FILE | {"model_type": family} | fields)
    assert names in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["qwen3", "olmo3", "ministral3"])
def test_both_spellings_that_agree_are_one(family):
    scaled = BASE | RECIPE
    new = {"rope_parameters": both(scaled, BASE) if family == "olmo3" else scaled}
    own = {"model_type": family, "num_key_value_heads": 4}
    old = {"rope_scaling": RECIPE, "rope_theta": 1e6}
    read = [
        dataclasses.replace(DecoderConfig.from_hf(PLAIN_FILE | fields), hf="")
        for fields in (own | s for s in (new, old, new | old))
    ]
    assert read[0] == read[1] == read[2] and read[0].rope.rope_theta == 1e6


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_round_where_transformers_round_them(family):
    """In bfloat16: scaling before the rounding or after it are other numbers."""
    model = make_model(family, rms_norm_eps=1e-6, head_dim=16).model.to(torch.bfloat16)
    wide = FAMILIES[family].wide_norm
    generator = np.random.default_rng(0)
    x = torch.tensor(generator.normal(size=(500, 48))).to(torch.bfloat16)
    with torch.no_grad():
        expected = model.norm(x).float().numpy()
    x, scale = (
        jnp.asarray(t.float().numpy(), jnp.bfloat16)
        for t in (x, model.norm.weight.detach())
    )

    def normed(wide):
        return rms_norm(x, scale, 1e-6, wide=wide, offset=FAMILIES[family].norm_offset)

    same = {
        w: np.mean(np.asarray(normed(w), np.float32) == expected) for w in (True, False)
    }
    assert same[wide] > 0.999 > 0.9 > same[not wide]
