"""Model shapes that the benchmarks use, with random weights."""

from dataclasses import replace
from typing import Any

import jax

from models import forward
from models.config import DecoderConfig
from models.hf.published import PUBLISHED
from models.precision import resolved
from models.rope import Rope

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
        # As in the published ones; google-tunix knows no other.
        rope=Rope(rope_theta=1_000_000.0),
        tie_embeddings=True,
    ),
    "qwen3_1_7b": DecoderConfig.from_hf(PUBLISHED["Qwen/Qwen3-1.7B"]),
    "qwen3_4b": DecoderConfig.from_hf(PUBLISHED["Qwen/Qwen3-4B"]),
    "qwen3_8b": DecoderConfig.from_hf(PUBLISHED["Qwen/Qwen3-8B"]),
}


# Runs everything in seconds on a CPU; says nothing about speed.
TOY = replace(
    SHAPES["qwen3_31m"],
    vocab_size=512,
    num_layers=2,
    hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
)


def usual_dtype(asked: str = "auto") -> Any:
    """What weights are held in on this machine, unless something else is asked for."""
    return resolved(asked, jax.default_backend())


def random_params(config: DecoderConfig, dtype: Any) -> Any:
    """Fresh parameters, made on the device in their dtype."""
    make = jax.jit(forward.init, static_argnums=(0, 2))
    return make(config, jax.random.key(0), dtype)


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
