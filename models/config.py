"""A decoder's configuration: the static numbers that its functions are compiled for."""

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.config_fields import (
    check_kinds,
    check_supported,
    family_of,
    text_part,
)
from models.errors import UserError
from models.families import FAMILIES, LAYER_TYPES, Family
from models.rope import Rope, read_ropes


class LayerKind(NamedTuple):
    """What is particular to a layer; layers of one kind run one program.

    Attributes:
      window: most tokens, itself included, that a token attends to; 0: all.
      rope: rotary frequencies; None: no positions.
    """

    window: int
    rope: Rope | None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder-only transformer of one of ``models.families``.

    Attributes:
      attention_bias: biases on q, k, v and o.
      rope: rotary frequencies; ``window_rope``: those of the layers with a window.
      rope_layers: for each layer whether it has rotary positions; () if all have.
      window: most tokens, itself included, that a token attends to in these layers.
      window_layers: for each layer whether it has the window; () if none has.
      query_scalar: scores are divided by its square root; 0: by that of ``head_dim``.
      final_softcap: logits are bent so that none is above it (``forward.unembed``); 0:
        they aren't.
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
    rope_layers: tuple[bool, ...] = ()
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    window: int = 0
    window_layers: tuple[bool, ...] = ()
    query_scalar: float = 0.0
    final_softcap: float = 0.0
    max_position: int = 32_768
    hf: str = ""

    def __post_init__(self):
        family_of(self.model_type)
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_kv_heads={self.num_kv_heads}: must divide "
                f"num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise UserError(
                f"head_dim={self.head_dim}: must be even for rotary positions"
            )
        for name in ("window_layers", "rope_layers"):
            count = len(getattr(self, name))
            if count not in (0, self.num_layers):
                raise UserError(
                    f"{name}: {count} entries for {self.num_layers} layers: give one "
                    "per layer"
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
        return self.family.biases == "qkv" or self.attention_bias

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by, beside one over the root of ``head_dim``."""
        if not self.query_scalar:
            return 1.0
        return math.sqrt(self.head_dim / self.query_scalar)

    @property
    def period(self) -> int:
        """After how many layers the pattern of kinds repeats.

        It need not divide the number of layers: the last period may be cut short.
        """
        kinds = [self.layer_kind(layer) for layer in range(self.num_layers)]
        for period in range(1, self.num_layers):
            if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
                return period
        return self.num_layers

    def layer_kind(self, layer: int) -> LayerKind:
        """What is particular to a layer."""
        slides = any(self.window_layers[layer : layer + 1])
        rope = self.window_rope if slides and self.window_rope else self.rope
        if not all(self.rope_layers[layer : layer + 1]):
            rope = None
        return LayerKind(self.window if slides else 0, rope)

    def layer_window(self, layer: int) -> int:
        """The window of a layer; 0 if it attends to all previous tokens."""
        return self.layer_kind(layer).window

    def layer_rope(self, layer: int) -> Rope | None:
        """The rotary frequencies of a layer; None if it has no positions."""
        return self.layer_kind(layer).rope

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "DecoderConfig":
        """Read a Hugging Face ``config.json``, of transformers 5 or older.

        Of a model that also sees images, only the text model is read; an export is that
        of a text model.

        Raises:
          UserError: for a model type, rotary scaling, activation or bias that is not
            supported, or fields that don't fit together.
        """
        config = text_part(config)
        family = family_of(model_type := config.get("model_type"))
        if family.with_layer_types and config.get("layer_types"):
            family = family_of(model_type := family.with_layer_types)
        check_kinds(config)
        check_supported(config, family)
        try:
            layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
            head_dim = family.read(config, "head_dim") or config["hidden_size"] // heads
            window, window_layers = _windows(config, family)
            rope, window_rope = read_ropes(config, family)
            rotating = tuple(family.rotating(config))
            kv_heads = family.defaults.get("num_key_value_heads")
            kv_heads = config.get("num_key_value_heads", kv_heads) or heads
            scalar = float(family.read(config, "query_pre_attn_scalar") or 0)
            softcap = float(family.read(config, "final_logit_softcapping") or 0)
            return cls(
                model_type=model_type,
                vocab_size=config["vocab_size"],
                num_layers=layers,
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                rope=rope,
                window_rope=window_rope,
                rope_layers=() if rotating == (True,) * layers else rotating,
                rms_norm_eps=float(family.read(config, "rms_norm_eps") or 1e-6),
                tie_embeddings=bool(family.read(config, "tie_word_embeddings")),
                attention_bias=family.biases == "configured"
                and bool(config.get("attention_bias", False)),
                mlp_bias=family.mlp_bias and bool(config.get("mlp_bias", False)),
                window=window,
                window_layers=window_layers,
                query_scalar=0.0 if scalar == head_dim else scalar,
                final_softcap=softcap,
                max_position=family.read(config, "max_position_embeddings") or 32_768,
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
            self.family.activation_field: self.family.activation,
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
        if self.family.reads_layer_types:
            windowed = self.window_layers or (False,) * self.num_layers
            made["layer_types"] = [LAYER_TYPES[slides] for slides in windowed]
        if self.window or "sliding_window" in self.family.defaults:
            made["sliding_window"] = self.window or None
        if self.family.rope_by_kind:
            ropes = (self.rope, self.window_rope or self.rope)
            both = zip(LAYER_TYPES, ropes, strict=True)
            made["rope_parameters"] = {name: rope.to_hf() for name, rope in both}
        return made | self.family.spelled(self)


def _windows(config: dict[str, Any], family: Family) -> tuple[int, tuple[bool, ...]]:
    """The window, and which layers have it."""
    layers, window = config["num_hidden_layers"], family.window(config)
    types = config.get("layer_types") if family.reads_layer_types else None
    if types is None:
        types = family.layers(config) if window else []
    else:
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
    slides = tuple(name == "sliding_attention" for name in types)
    return (window, slides) if any(slides) else (0, ())
