"""Shapes of published models, for memory plans and benchmarks without weights.

The numbers are from each model's ``config.json`` on the Hugging Face hub. If the path
is a local folder, its own file is read instead.
"""

from pathlib import Path

from models.config import DecoderConfig
from models.errors import UserError
from models.hf.folder import load_config

PUBLISHED: dict[str, dict] = {
    "Qwen/Qwen3-1.7B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "Qwen/Qwen3-4B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "Qwen/Qwen3-8B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 40960,
    },
    "Qwen/Qwen2.5-0.5B-Instruct": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 32768,
    },
    "allenai/Olmo-3-7B-Instruct": {
        "model_type": "olmo3",
        "vocab_size": 100278,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_position_embeddings": 65536,
    },
    "google/gemma-3-1b-it": {
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 32768,
    },
    "google/gemma-3-4b-it": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window": 1024,
        },
    },
    "HuggingFaceTB/SmolLM3-3B": {
        "model_type": "smollm3",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "rope_theta": 5_000_000.0,
        "no_rope_layer_interval": 4,
        "max_position_embeddings": 65536,
    },
    "mistralai/Ministral-8B-Instruct-2410": {
        "model_type": "mistral",
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000_000.0,
        "sliding_window": 32768,
        "max_position_embeddings": 32768,
    },
}

ENCODER_WIDTHS = {
    "intfloat/e5-base-v2": 768,
    "sentence-transformers/all-MiniLM-L6-v2": 384,
}
"""Numbers of a vector of published encoders."""


def shape_of(path: str) -> tuple[DecoderConfig, str]:
    """Returns a model's shape, and the source of it, without loading weights.

    Args:
      path: a folder in Hugging Face format, or the name of a published model.

    Raises:
      UserError: if there is no such folder and the name is not known here.
    """
    file = Path(path) / "config.json"
    if file.is_file():
        return load_config(path), str(file)
    if path in PUBLISHED:
        return DecoderConfig.from_hf(PUBLISHED[path]), f"{path} as published"
    raise UserError(
        f"model.path={path}: no folder with a config.json, and its shape is not known: "
        f"give a folder, or one of {', '.join(PUBLISHED)}"
    )
