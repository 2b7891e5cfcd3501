"""Mistral and Ministral: as Llama without biases; all, some or no layers slide.

``ministral3`` also lets queries grow with their position, so that attention stays sharp
in long contexts (``Rope.llama_4_scaling_beta``).
"""

from dataclasses import replace

from models.families.family import SLIDING, Family, Fields


def all_slide(fields: Fields) -> list[str]:
    """All layers slide."""
    return [SLIDING] * fields["num_hidden_layers"]


MINISTRAL = Family(
    architecture="Ministral",
    template="mistral",
    biases="none",
    layers=all_slide,
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
# With layer_types it is a Ministral: AutoConfig of transformers 5 reads it so too. Its
# class for Mistral ignores them.
MISTRAL = replace(
    MINISTRAL,
    architecture="Mistral",
    reads_layer_types=False,
    with_layer_types="ministral",
)
MINISTRAL3 = replace(
    MINISTRAL,
    architecture="Ministral3",
    reads_layer_types=False,
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1_000_000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16_384,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
)
