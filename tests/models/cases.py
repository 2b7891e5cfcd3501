"""Small configurations of every family: each flag at both of its values, odd sizes."""

PLAIN = {"rope_type": "default", "rope_theta": 300.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 200.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 150.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
OLMO_YARN = YARN | {"attention_factor": 1.2, "beta_fast": 8.0, "beta_slow": 2.0}


def both(full: dict, sliding: dict = PLAIN) -> dict:
    return {"full_attention": full, "sliding_attention": sliding}


LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0}
GEMMA = dict(
    num_hidden_layers=7,
    head_dim=16,
    sliding_window=5,
    query_pre_attn_scalar=24,
    rope_parameters=both(LINEAR, PLAIN | {"rope_theta": 30.0}),
)

# Every flag at both of its values at least once, and the odd sizes.
CASES = {
    "qwen3": ("qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3-untied": ("qwen3", dict(head_dim=12, tie_word_embeddings=False)),
    "qwen3-biased": ("qwen3", dict(head_dim=16, attention_bias=True)),
    "qwen3-wide-heads": ("qwen3", dict(head_dim=40, num_key_value_heads=1)),
    "qwen3-mha": ("qwen3", dict(head_dim=8, num_key_value_heads=4)),
    "qwen3-yarn": ("qwen3", dict(head_dim=16, rope_parameters=YARN)),
    "qwen3-eps": ("qwen3", dict(head_dim=16, rms_norm_eps=1e-2)),
    "qwen3-window": (
        "qwen3",
        dict(
            head_dim=16, use_sliding_window=True, sliding_window=7, max_window_layers=1
        ),
    ),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen2-untied": ("qwen2", dict(tie_word_embeddings=False)),
    "qwen2-theta": ("qwen2", dict(rope_parameters=PLAIN | {"rope_theta": 1e6})),
    "qwen2-yarn": (
        "qwen2",
        dict(rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}),
    ),
    "qwen2-heads": (
        "qwen2",
        dict(num_attention_heads=6, num_key_value_heads=3, hidden_size=36),
    ),
    "qwen2-window": (
        "qwen2",
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=0),
    ),
    "qwen2-eps": ("qwen2", dict(rms_norm_eps=1e-3)),
    "llama": ("llama", dict(tie_word_embeddings=True)),
    "llama-untied": ("llama", dict(tie_word_embeddings=False, head_dim=20)),
    "llama-biased": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama-mlp-bias": ("llama", dict(mlp_bias=True, num_key_value_heads=4)),
    "llama3": ("llama", dict(rope_parameters=LLAMA3)),
    "llama3-narrow": (
        "llama",
        dict(rope_parameters=LLAMA3 | {"high_freq_factor": 2.0, "factor": 32.0}),
    ),
    "llama-yarn-exact": (
        "llama",
        dict(rope_parameters=YARN | {"truncate": False, "beta_fast": 16.0}),
    ),
    "olmo3": (
        "olmo3",
        dict(num_hidden_layers=8, sliding_window=6, rope_parameters=both(OLMO_YARN)),
    ),
    "olmo3-tied": (
        "olmo3",
        dict(num_hidden_layers=4, sliding_window=4, tie_word_embeddings=True),
    ),
    "olmo3-biased": (
        "olmo3",
        dict(num_hidden_layers=4, sliding_window=9, attention_bias=True),
    ),
    "olmo3-layer-types": (
        "olmo3",
        dict(
            num_hidden_layers=3,
            sliding_window=3,
            num_key_value_heads=4,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            rope_parameters=both(PLAIN | {"rope_theta": 1e4}, YARN),
            rms_norm_eps=1e-5,
        ),
    ),
    # Five layers slide, one doesn't, one is left over.
    "gemma3": ("gemma3_text", GEMMA | dict(final_logit_softcapping=2.0)),
    "gemma3-untied": (
        "gemma3_text",
        GEMMA | dict(tie_word_embeddings=False, num_key_value_heads=1),
    ),
    "gemma3-biased": (
        "gemma3_text",
        GEMMA | dict(attention_bias=True, tie_word_embeddings=False, head_dim=12),
    ),
    "gemma3-layer-types": (
        "gemma3_text",
        GEMMA
        | dict(
            num_hidden_layers=3,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            rms_norm_eps=1e-2,
        ),
    ),
    "smollm3": ("smollm3", dict(num_hidden_layers=4, rope_parameters=PLAIN)),
    "smollm3-untied": (
        "smollm3",
        dict(tie_word_embeddings=False, no_rope_layers=[0, 1], rope_parameters=YARN),
    ),
    "smollm3-biased": (
        "smollm3",
        dict(
            attention_bias=True,
            mlp_bias=True,
            no_rope_layers=[1, 0],
            tie_word_embeddings=False,
        ),
    ),
    "smollm3-window": (
        "smollm3",
        dict(
            num_hidden_layers=3,
            no_rope_layer_interval=2,
            use_sliding_window=True,
            sliding_window=5,
        ),
    ),
    "mistral": ("mistral", dict(sliding_window=7, rope_parameters=PLAIN)),
    "mistral-full": (
        "mistral",
        dict(sliding_window=None, tie_word_embeddings=True, head_dim=20),
    ),
    "ministral": (
        "ministral",
        dict(
            num_hidden_layers=4,
            head_dim=16,
            sliding_window=5,
            layer_types=["full_attention", *["sliding_attention"] * 3],
        ),
    ),
    "ministral3": (
        "ministral3",
        dict(
            head_dim=16,
            rope_parameters=YARN
            | {
                "original_max_position_embeddings": 8,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        ),
    ),
    "ministral3-window": ("ministral3", dict(head_dim=8, sliding_window=4)),
}

# One of each family, as small as shows what it has: windows of 5, a layer of each kind.
SLIDES = dict(num_hidden_layers=2, head_dim=16, sliding_window=5)
ONE_OF_EACH = {
    "qwen3": dict(head_dim=16),
    "qwen2": dict(num_attention_heads=3, num_key_value_heads=1),
    "olmo3": SLIDES | dict(layer_types=["full_attention", "sliding_attention"]),
    "llama": dict(head_dim=16, rope_parameters=LLAMA3),
    "gemma3_text": GEMMA | dict(num_hidden_layers=3, sliding_window_pattern=2),
    "smollm3": dict(head_dim=16, no_rope_layers=[1, 0]),
    "mistral": SLIDES,
    "ministral": SLIDES | dict(layer_types=["full_attention", "sliding_attention"]),
    "ministral3": dict(
        head_dim=16,
        rope_parameters=YARN
        | {"original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.2},
    ),
}
