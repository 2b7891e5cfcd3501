"""Model shapes that the benchmarks use, with random weights."""

from typing import Any

import jax

from models import forward
from models.config import DecoderConfig
from models.rope import Rope

ROPE = Rope(rope_theta=1_000_000.0)  # as published; google-tunix knows no other

SHAPES = {
    # 31.5 million parameters: fits where the peers' figures are taken, on two cores.
    "qwen3_31m": DecoderConfig(
        model_type="qwen3",
        vocab_size=12_288,
        num_layers=8,
        hidden_size=512,
        intermediate_size=1_536,
        num_heads=8,
        num_kv_heads=4,
        head_dim=64,
        rope=ROPE,
        tie_embeddings=True,
    ),
    "qwen3_1_7b": DecoderConfig(
        model_type="qwen3",
        vocab_size=151_936,
        num_layers=28,
        hidden_size=2_048,
        intermediate_size=6_144,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        rope=ROPE,
        tie_embeddings=True,
    ),
    "qwen3_4b": DecoderConfig(
        model_type="qwen3",
        vocab_size=151_936,
        num_layers=36,
        hidden_size=2_560,
        intermediate_size=9_728,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rope=ROPE,
        tie_embeddings=True,
    ),
    "qwen3_8b": DecoderConfig(
        model_type="qwen3",
        vocab_size=151_936,
        num_layers=36,
        hidden_size=4_096,
        intermediate_size=12_288,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rope=ROPE,
        tie_embeddings=False,
    ),
}


def random_params(config: DecoderConfig, dtype: Any, seed: int = 0) -> Any:
    """Fresh parameters, made on the device in their dtype."""
    make = jax.jit(forward.init, static_argnums=(0, 2))
    return make(config, jax.random.key(seed), dtype)


class Ids:
    """A tokenizer for weights that know no text."""

    def __init__(self, vocab: int):
        self.vocab = vocab

    def get_vocab(self) -> dict[str, int]:
        """Every row of the model has an id."""
        return {str(index): index for index in range(self.vocab)}

    def decode(self, ids, skip_special_tokens=False):
        """No text."""
        return ""
