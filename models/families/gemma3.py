"""Gemma 3, text: norms before and behind, scaled embeddings, two rotary bases.

Five of six layers slide, with a base of their own. Norms scale by 1 + weight. What
attention scores are divided by is a field; so is a limit of the logits.
"""

from typing import Any

from models.families.family import Family, Fields, one_full_in


def by_pattern(fields: Fields) -> list[str]:
    """Every ``sliding_window_pattern``-th layer attends to all previous tokens."""
    return one_full_in(fields.get("sliding_window_pattern") or 6, fields)


def spelled(config: Any) -> dict[str, Any]:
    """Gemma's own names, and the base of sliding layers as transformers 4 reads it."""
    local = config.window_rope or config.rope
    scalar = config.query_scalar or config.head_dim
    return {
        # Transformers 5 takes no other number here than a whole one.
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "final_logit_softcapping": config.final_softcap or None,
        "rope_local_base_freq": local.rope_theta,
    }


GEMMA3 = Family(
    architecture="Gemma3",
    template="gemma3",
    qk_norm="head",
    norms="around",
    wide_norm=True,
    norm_offset=True,
    activation="gelu_pytorch_tanh",
    activation_field="hidden_activation",
    scaled_embeddings=True,
    layers=by_pattern,
    rope_by_kind=True,
    local_base="rope_local_base_freq",
    local_theta=10_000.0,
    defaults={
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "rope_theta": 1_000_000.0,
        "sliding_window": 4096,
        "max_position_embeddings": 131_072,
    },
    # No published model sets them, and transformers reads the first without using it.
    refused={
        "attn_logit_softcapping": (None,),
        "use_bidirectional_attention": (None, False),
    },
    spelled=spelled,
)
