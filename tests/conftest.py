"""Four simulated CPU devices for every test, and a tiny model that compiles fast."""

import os

# Before jax is imported anywhere: the number of devices is fixed at its start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    ).strip()

import pytest


def pytest_collection_modifyitems(items):
    """The longest file first, or one worker of several ends alone with it."""
    items.sort(key=lambda item: item.path.name != "test_run.py")


@pytest.fixture(scope="session")
def tiny_config():
    """A Qwen3-shaped decoder: 2 layers, D 32, 4 heads over 2 key/value heads, V 64."""
    from models.config import DecoderConfig

    return DecoderConfig(
        model_type="qwen3",
        vocab_size=64,
        num_layers=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        tie_embeddings=False,
        max_position=256,
    )


@pytest.fixture(scope="session")
def tiny_params(tiny_config):
    """Random float32 parameters of ``tiny_config``; nothing may write to them."""
    import jax

    from models import forward

    # One program, not one for each of init's operations.
    return jax.jit(forward.init, static_argnums=0)(tiny_config, jax.random.key(0))
