"""A decoder's configuration: the static numbers that its functions are compiled for."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from models.errors import UserError
from models.ranges import WHOLE
from models.rope import Rope, read_ropes


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the decoders of one ``model_type`` have in common.

    Attributes:
      architecture: Hugging Face's class, without ``ForCausalLM``.
      qkv_bias: q, k and v always have biases; if False, ``attention_bias`` decides.
      qk_norm: RMS norm of q and k: of each head, of all heads at once, or none.
      post_norm: the two norms come after attention and MLP instead of before them.
      wide_norm: norms scale in float32 and round once, instead of before and after.
      mlp_bias: whether ``config.json`` can turn on biases in the MLP.
      windows: how layers with a sliding window are chosen: ``switch``: those from
        ``max_window_layers`` on, if ``use_sliding_window``; ``pattern``: three of four.
        ``layer_types`` overrides both.
      default_eps: epsilon of the norms if ``config.json`` doesn't have it.
      default_head_dim: the same for ``head_dim``; 0 divides the width by the heads.
    """

    architecture: str
    qkv_bias: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"
    post_norm: bool = False
    wide_norm: bool = False
    mlp_bias: bool = False
    windows: Literal["none", "switch", "pattern"] = "none"
    default_eps: float = 1e-6
    default_head_dim: int = 0


FAMILIES: dict[str, Family] = {
    "qwen3": Family(
        architecture="Qwen3", qk_norm="head", windows="switch", default_head_dim=128
    ),
    "qwen2": Family(architecture="Qwen2", qkv_bias=True, windows="switch"),
    "olmo3": Family(
        architecture="Olmo3",
        qk_norm="all",
        post_norm=True,
        wide_norm=True,
        windows="pattern",
        default_eps=1e-5,
    ),
    "llama": Family(architecture="Llama", mlp_bias=True),
}
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder-only transformer (Qwen3, Qwen2, OLMo-3 and Llama types).

    Attributes:
      attention_bias: biases on q, k, v and o.
      rope: rotary frequencies; ``window_rope``: those of the layers with a window.
      window: most tokens, itself included, that a token attends to in these layers.
      window_layers: for each layer whether it has the window; () if none has.
      hf: the whole original ``config.json`` as a JSON string, so that an export has
        the same fields; "" for a model that was created here.
    """

    model_type: str
    vocab_size: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope = Rope()
    window_rope: Rope | None = None
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    window: int = 0
    window_layers: tuple[bool, ...] = ()
    max_position: int = 32_768
    hf: str = ""

    def __post_init__(self):
        _family_of(self.model_type)
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_kv_heads={self.num_kv_heads}: must divide "
                f"num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise UserError(
                f"head_dim={self.head_dim}: must be even for rotary positions"
            )
        if self.window_layers and len(self.window_layers) != self.num_layers:
            raise UserError(
                f"window_layers: {len(self.window_layers)} entries for "
                f"{self.num_layers} layers: give one per layer"
            )
        if any(self.window_layers) != (self.window > 0):
            raise UserError(
                f"sliding_window={self.window or None}: must be positive if and only "
                "if layer_types has layers with a window: check config.json"
            )

    @property
    def family(self) -> Family:
        """What the model type implies."""
        return FAMILIES[self.model_type]

    @property
    def qkv_bias(self) -> bool:
        """Whether q, k and v have biases."""
        return self.family.qkv_bias or self.attention_bias

    @property
    def period(self) -> int:
        """After how many layers the pattern of windows repeats; it divides L."""
        layers = range(self.num_layers)
        for period in range(1, self.num_layers):
            if self.num_layers % period == 0 and all(
                self.layer_window(i) == self.layer_window(i % period) for i in layers
            ):
                return period
        return self.num_layers

    def layer_window(self, layer: int) -> int:
        """The window of a layer; 0 if it attends to all previous tokens."""
        return self.window if any(self.window_layers[layer : layer + 1]) else 0

    def layer_rope(self, layer: int) -> Rope:
        """The rotary frequencies of a layer."""
        windowed = self.window_rope is not None and self.layer_window(layer)
        return self.window_rope if windowed else self.rope

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "DecoderConfig":
        """Read a Hugging Face ``config.json``, of transformers 5 or older.

        Raises:
          UserError: for a model type, rotary scaling, activation or bias that is not
            supported, or fields that don't fit together.
        """
        family = _family_of(model_type := config.get("model_type"))
        if (act := config.get("hidden_act", "silu")) != "silu":
            raise UserError(f"hidden_act={act!r}: not supported: use a model with silu")
        _check_kinds(config)
        try:
            heads = config["num_attention_heads"]
            window, window_layers = _windows(config, family)
            rope, window_rope = read_ropes(
                config, layered=LAYER_TYPES if family.windows == "pattern" else None
            )
            return cls(
                model_type=model_type,
                vocab_size=config["vocab_size"],
                num_layers=config["num_hidden_layers"],
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_heads=heads,
                num_kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim")
                or family.default_head_dim
                or config["hidden_size"] // heads,
                rope=rope,
                window_rope=window_rope,
                rms_norm_eps=float(config.get("rms_norm_eps") or family.default_eps),
                tie_embeddings=bool(config.get("tie_word_embeddings", False)),
                attention_bias=not family.qkv_bias
                and bool(config.get("attention_bias", False)),
                mlp_bias=family.mlp_bias and bool(config.get("mlp_bias", False)),
                window=window,
                window_layers=window_layers,
                max_position=config.get("max_position_embeddings", 32_768),
                hf=json.dumps(config, sort_keys=True),
            )
        except KeyError as error:
            raise UserError(
                f"config.json: has no field {error}: use the model's own file"
            ) from None

    def to_hf(self) -> dict[str, Any]:
        """The ``config.json`` to export: the imported one, else one for this shape."""
        if self.hf:
            return json.loads(self.hf)
        made = {
            "architectures": [f"{self.family.architecture}ForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": self.attention_bias,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "max_position_embeddings": self.max_position,
            # Both spellings: transformers 5 reads the first, other tools the second.
            "rope_parameters": self.rope.to_hf(),
            "rope_theta": self.rope.rope_theta,
        }
        if self.rope.rope_type != "default":
            made["rope_scaling"] = self.rope.to_hf()
        if self.family.mlp_bias:
            made["mlp_bias"] = self.mlp_bias
        if self.family.windows != "none":
            windowed = self.window_layers or (False,) * self.num_layers
            made["layer_types"] = [LAYER_TYPES[slides] for slides in windowed]
            made["sliding_window"] = self.window or None
        if self.family.windows == "switch":
            made["use_sliding_window"] = self.window > 0
            if self.window:  # for transformers before 4.53, which ignores layer_types
                made["max_window_layers"] = self.window_layers.index(True)
        if self.family.windows == "pattern":
            ropes = (self.rope, self.window_rope or self.rope)
            both = zip(LAYER_TYPES, ropes, strict=True)
            made["rope_parameters"] = {name: rope.to_hf() for name, rope in both}
        return made


def _family_of(model_type: Any) -> Family:
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UserError(f"model_type={model_type!r}: not supported: use one of {known}")
    return FAMILIES[model_type]


# Fields that are counts, with the most that any model comes near; those that a file
# must have, and those that it may have.
NEEDED = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**24,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**16,
}
SIZES = NEEDED | {
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
    "max_position_embeddings": WHOLE,
}


def check_counts(config: dict[str, Any]) -> None:
    """Raises ``UserError`` for a count of ``config.json`` that no model has."""
    for name, most in SIZES.items():
        value = config.get(name)
        if value is None and not (name in NEEDED and name in config):
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not 0 < value <= most:
            words = "a whole number above 0" if not whole or value < 1 else ""
            raise UserError(
                f"{name}={value!r}: must be {words or f'at most {most}'}: use the "
                "model's own config.json"
            )


def _check_kinds(config: dict[str, Any]) -> None:
    """Raises ``UserError`` for a field of the wrong type."""
    check_counts(config)
    kinds: dict[str, tuple[str, Any]] = {
        **dict.fromkeys(("rope_theta", "rms_norm_eps"), ("above 0", int | float)),
        "sliding_window": ("a whole number", int),
        "layer_types": ("a list of names", list),
        "rope_scaling": ("an object", dict),
        "rope_parameters": ("an object", dict),
    }
    for name, (words, kind) in kinds.items():
        value = config.get(name)
        if value is None:
            continue
        right = isinstance(value, kind) and not isinstance(value, bool)
        if right and "above" in words:
            right = value > 0
        if not right:
            raise UserError(
                f"{name}={value!r}: must be {words}: use the model's own config.json"
            )


def _windows(config: dict[str, Any], family: Family) -> tuple[int, tuple[bool, ...]]:
    """The window, and which layers have it."""
    layers = config["num_hidden_layers"]
    types = config.get("layer_types")
    window = config.get("sliding_window", 4096) or 0
    if family.windows == "none":
        return 0, ()
    if family.windows == "switch":
        if not config.get("use_sliding_window", False):
            window = 0
        first = config.get("max_window_layers", 28) if window else layers
        slides = [layer >= first for layer in range(layers)]
    else:
        slides = [(layer + 1) % 4 != 0 for layer in range(layers)]
    if types is not None:
        if unknown := [name for name in types if name not in LAYER_TYPES]:
            raise UserError(
                f"layer_types: {unknown[0]!r} is not supported: use a model with "
                f"{' and '.join(LAYER_TYPES)}"
            )
        if len(types) != layers:
            raise UserError(
                f"layer_types: {len(types)} entries for {layers} layers: give one per "
                "layer"
            )
        slides = [name == "sliding_attention" for name in types]
    if not any(slides):
        return 0, ()
    return window, tuple(slides)
