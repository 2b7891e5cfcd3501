"""What a decoder is: the static numbers that its functions are compiled for."""

import json
from dataclasses import dataclass
from typing import Any

from models.errors import UserError

# Whether the family adds biases to q/k/v, and RMS norms to the heads of q and k.
FAMILIES: dict[str, dict[str, bool]] = {
    "qwen3": {"qkv_bias": False, "qk_norm": True},
    "qwen2": {"qkv_bias": True, "qk_norm": False},
    "llama": {"qkv_bias": False, "qk_norm": False},
}


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder-only transformer (Qwen3, Qwen2 and Llama types).

    Attributes:
      hf: the whole original ``config.json`` as a JSON string, so that an export says
        what the import said; "" for a model that was made here.
    """

    model_type: str
    vocab_size: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    qkv_bias: bool = False
    qk_norm: bool = True
    max_position: int = 32_768
    hf: str = ""

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_kv_heads={self.num_kv_heads}: does not divide "
                f"num_heads={self.num_heads}: choose a divisor"
            )

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "DecoderConfig":
        """Read a Hugging Face ``config.json``.

        Raises:
          UserError: for a model type, rotary scaling, activation, bias or attention
            window that these decoders do not compute.
        """
        model_type = config.get("model_type")
        if model_type not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise UserError(
                f"model_type={model_type!r}: not supported: use one of {known}"
            )
        _refuse_variants(config)
        rope = config.get("rope_parameters") or {}
        theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
        try:
            heads = config["num_attention_heads"]
            return cls(
                model_type=model_type,
                vocab_size=config["vocab_size"],
                num_layers=config["num_hidden_layers"],
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_heads=heads,
                num_kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                rope_theta=float(theta),
                rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                tie_embeddings=bool(config.get("tie_word_embeddings", False)),
                max_position=config.get("max_position_embeddings", 32_768),
                hf=json.dumps(config, sort_keys=True),
                **FAMILIES[model_type],
            )
        except KeyError as error:
            raise UserError(
                f"config.json: has no field {error}: use the model's own file"
            ) from None

    def to_hf(self) -> dict[str, Any]:
        """The ``config.json`` to export: the imported one, else one for this shape."""
        architecture = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}
        made = {
            "architectures": [f"{architecture[self.model_type]}ForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "max_position_embeddings": self.max_position,
            # Both spellings: transformers 5 reads the first, other tools the second.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rope_theta,
            },
            "rope_theta": self.rope_theta,
        }
        return json.loads(self.hf) if self.hf else made


def _refuse_variants(config: dict[str, Any]) -> None:
    """Raise UserError where the checkpoint computes something that we would not."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    variants = {
        "rope_type": (rope_type, "default"),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (bool(config.get("attention_bias", False)), False),
        "mlp_bias": (bool(config.get("mlp_bias", False)), False),
        "use_sliding_window": (bool(config.get("use_sliding_window", False)), False),
    }
    for name, (value, supported) in variants.items():
        if value != supported:
            raise UserError(
                f"{name}={value!r}: not supported: use a model with {supported!r}"
            )
