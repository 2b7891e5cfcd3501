"""The decoder agrees with transformers, and sees only what it may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from models import forward
from models.config import DecoderConfig
from models.errors import UserError

torch = pytest.importorskip("torch")

run = jax.jit(forward.forward, static_argnums=1)

FAMILIES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
SHAPE = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)


def oracle(family: str, *, tie: bool, seed: int = 0):
    """A transformers model with every tensor random, and our config and params."""
    torch.manual_seed(seed)
    config_class, model_class = FAMILIES[family]
    head = {"head_dim": 16} if family == "qwen3" else {}
    rope = {"rope_type": "default", "rope_theta": 5_000.0}
    hf_config = config_class(
        **SHAPE, **head, tie_word_embeddings=tie, rope_parameters=rope
    )
    model = model_class(hf_config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            center = 1.0 if "norm" in name else 0.0
            tensor.copy_(center + 0.15 * torch.randn_like(tensor))
    config = DecoderConfig.from_hf(hf_config.to_dict())
    return model, config, to_params(model, config)


def to_params(model, config: DecoderConfig) -> dict:
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    width, head = config.hidden_size, config.head_dim

    def stack(suffix: str, shape=None):
        layers = []
        for layer in range(config.num_layers):
            tensor = state[f"model.layers.{layer}.{suffix}"]
            tensor = tensor.T if tensor.ndim == 2 else tensor
            layers.append(tensor.reshape(shape) if shape else tensor)
        return jnp.asarray(np.stack(layers))

    counts = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    attn = {
        n: stack(f"self_attn.{n}_proj.weight", (width, c, head))
        for n, c in counts.items()
    }
    attn["o"] = stack("self_attn.o_proj.weight", (config.num_heads, head, width))
    if config.qkv_bias:
        for n, c in counts.items():
            attn[f"{n}_bias"] = stack(f"self_attn.{n}_proj.bias", (c, head))
    if config.qk_norm:
        for n in "qk":
            attn[f"{n}_norm"] = stack(f"self_attn.{n}_norm.weight")
    params = {
        "embed": jnp.asarray(state["model.embed_tokens.weight"]),
        "final_norm": jnp.asarray(state["model.norm.weight"]),
        "blocks": {
            "attn": attn,
            "mlp": {n: stack(f"mlp.{n}_proj.weight") for n in ("gate", "up", "down")},
            "norm_attn": stack("input_layernorm.weight"),
            "norm_mlp": stack("post_attention_layernorm.weight"),
        },
    }
    if not config.tie_embeddings:
        params["head"] = jnp.asarray(state["lm_head.weight"].T)
    return params


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_agree_with_transformers(family, tie):
    model, config, params = oracle(family, tie=tie)
    tokens = np.random.default_rng(0).integers(0, 97, (2, 23))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    logits = run(params, config, tokens)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=3e-5)


def test_init_makes_the_tree_that_the_forward_pass_reads():
    for family in FAMILIES:
        _, config, params = oracle(family, tie=False)
        made = jax.eval_shape(lambda: forward.init(config, jax.random.key(0)))  # noqa: B023
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


def test_packed_segments_do_not_see_each_other():
    _, config, params = oracle("qwen3", tie=True)
    tokens = np.random.default_rng(1).integers(0, 97, (1, 20))
    segment_ids = np.array([[1] * 8 + [2] * 9 + [0] * 3])
    positions = np.array([[*range(8), *range(9), 0, 0, 0]])
    packed = run(params, config, tokens, positions=positions, segment_ids=segment_ids)
    first = run(params, config, tokens[:, :8])
    second = run(params, config, tokens[:, 8:17])
    np.testing.assert_allclose(packed[:, :8], first, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(packed[:, 8:17], second, rtol=1e-5, atol=1e-5)
    assert np.isfinite(packed).all()


def test_no_gradient_flows_from_a_logit_to_later_tokens():
    _, config, params = oracle("qwen2", tie=True)
    tokens = jnp.arange(12)[None]

    def logit_of_token_5(embed):
        logits = run(params | {"embed": embed}, config, tokens)
        return logits[0, 5, 0]

    untied = params | {"head": params["embed"].T}
    config = DecoderConfig.from_hf(config.to_hf() | {"tie_word_embeddings": False})
    params = untied
    reached = jnp.abs(jax.grad(logit_of_token_5)(params["embed"])).sum(-1) > 0
    assert reached[:12].tolist() == [True] * 6 + [False] * 6


def test_remat_leaves_the_gradient_alone():
    _, config, params = oracle("llama", tie=True)
    tokens = jnp.arange(10)[None]

    def loss(params, remat):
        return jnp.square(forward.hidden(params, config, tokens, remat=remat)).sum()

    plain, again = (
        jax.jit(jax.grad(loss), static_argnums=1)(params, r) for r in ("none", "block")
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_config_survives_the_round_trip_and_refuses_what_it_cannot_compute():
    _, config, _ = oracle("qwen3", tie=True)
    assert DecoderConfig.from_hf(config.to_hf()) == config
    hf = config.to_hf()
    for change in (
        {"model_type": "gpt2"},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
    ):
        with pytest.raises(UserError, match="not supported"):
            DecoderConfig.from_hf(hf | change)
    del hf["hidden_size"]
    with pytest.raises(UserError, match="hidden_size"):
        DecoderConfig.from_hf(hf)
