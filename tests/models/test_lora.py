"""Low-rank adapters: what they add, in both forms of the parameters, and how merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import forward, lora
from models.config import DecoderConfig
from models.errors import UserError
from models.lora import LoraConfig
from models.unstacked import unstack

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TOKENS = np.random.default_rng(0).integers(0, 64, (2, 12))


def random_adapter(config, settings, seed=0):
    """An adapter whose A and B are both random, as in the middle of training."""
    shapes = lora.shapes(config, settings)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), shapes
    )


@pytest.mark.parametrize(
    "targets", [lora.TARGETS, ("q_proj", "v_proj"), ("o_proj", "up_proj", "down_proj")]
)
@pytest.mark.parametrize("form", ["stacked", "unstacked", "weights_first"])
def test_an_adapter_adds_its_product(tiny_config, tiny_params, targets, form):
    settings = LoraConfig(rank=3, alpha=6, targets=targets)
    adapter = lora.scaled(random_adapter(tiny_config, settings), settings)
    whole = forward.forward(lora.merge(tiny_params, adapter), tiny_config, TOKENS)
    params = tiny_params
    if form != "stacked":
        first = form == "weights_first"
        params = unstack(params, tiny_config, weights_first=first)
    found = forward.forward(lora.attach(params, adapter), tiny_config, TOKENS)
    plain = forward.forward(params, tiny_config, TOKENS)
    np.testing.assert_allclose(found, whole, atol=2e-5)
    assert np.abs(np.asarray(plain) - whole).max() > 0.05


def test_merged_weights_are_w_plus_scale_times_a_b(tiny_config, tiny_params):
    settings = LoraConfig(rank=2, alpha=5)
    adapter = random_adapter(tiny_config, settings)
    merged = lora.merge(tiny_params, lora.scaled(adapter, settings))
    attn, blocks = adapter["blocks"]["attn"], tiny_params["blocks"]["attn"]
    for name, cut in (("q", 1), ("o", 2)):
        a, b = np.float64(attn[f"{name}_a"]), np.float64(attn[f"{name}_b"])
        product = np.stack([np.tensordot(x, y, 1) for x, y in zip(a, b, strict=True)])
        want = np.float64(blocks[name]) + 2.5 * product
        np.testing.assert_allclose(merged["blocks"]["attn"][name], want, atol=1e-6)
        assert a.shape[1 : 1 + cut] == blocks[name].shape[1 : 1 + cut]
    assert merged["embed"] is tiny_params["embed"]
    assert merged["blocks"]["norm_attn"] is tiny_params["blocks"]["norm_attn"]


def test_a_fresh_adapter_changes_nothing_and_has_a_random_a(tiny_config, tiny_params):
    settings = LoraConfig(rank=4)
    adapter = lora.init(tiny_config, settings, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(adapter)
    assert len(leaves) == 14
    for path, leaf in leaves:
        if path[-1].key.endswith("_b"):
            assert not leaf.any()
        else:
            bound = np.prod(leaf.shape[1:-1]) ** -0.5
            assert bound > np.abs(leaf).max() > 0.9 * bound
    plain = forward.forward(tiny_params, tiny_config, TOKENS)
    with_it = forward.forward(lora.attach(tiny_params, adapter), tiny_config, TOKENS)
    np.testing.assert_allclose(with_it, plain, atol=5e-6)  # but for how XLA rounds


def test_layers_with_windows_scan_by_period():
    config = DecoderConfig(
        model_type="olmo3",
        vocab_size=64,
        num_layers=4,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        window=4,
        window_layers=(True, False, True, False),
    )
    assert config.period == 2
    params = forward.init(config, jax.random.key(0))
    settings = LoraConfig(rank=3)
    adapter = lora.scaled(random_adapter(config, settings), settings)
    found = forward.forward(lora.attach(params, adapter), config, TOKENS)
    merged = lora.merge(params, adapter)
    want = forward.forward(merged, config, TOKENS)
    np.testing.assert_allclose(found, want, atol=2e-5)
    unrolled = forward.forward(unstack(merged, config), config, TOKENS)
    np.testing.assert_allclose(unrolled, want, atol=2e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"targets": ()}, r"targets=\(\): name some of q_proj"),
        ({"rank": -1}, "rank=-1: must be between 0 and 4096"),
        ({"alpha": 0.0}, "alpha=0.0: must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        LoraConfig(**fields)
