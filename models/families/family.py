"""What a family of decoders declares, in the words that the shared parts read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Fields = Mapping[str, Any]
"""The fields of a ``config.json``."""

FULL, SLIDING = LAYER_TYPES = ("full_attention", "sliding_attention")
"""Hugging Face's names of the kinds of layers."""

Norms = Literal["before", "after", "around"]
NORMS: dict[Norms, dict[str, str]] = {
    "before": {
        "norm_attn": "input_layernorm",
        "norm_mlp": "post_attention_layernorm",
    },
    "after": {
        "norm_attn": "post_attention_layernorm",
        "norm_mlp": "post_feedforward_layernorm",
    },
    "around": {
        "norm_attn": "input_layernorm",
        "norm_attn_out": "post_attention_layernorm",
        "norm_mlp": "pre_feedforward_layernorm",
        "norm_mlp_out": "post_feedforward_layernorm",
    },
}
"""Our name of each norm of a block -> its tensor's, by where the norms stand."""


def all_full(fields: Fields) -> list[str]:
    """Every layer attends to all previous tokens."""
    return [FULL] * fields["num_hidden_layers"]


def all_rotate(fields: Fields) -> list[bool]:
    """Every layer rotates its queries and keys."""
    return [True] * fields["num_hidden_layers"]


def one_full_in(count: int, fields: Fields) -> list[str]:
    """Every ``count``-th layer attends to all previous tokens, the others slide."""
    layers = range(1, fields["num_hidden_layers"] + 1)
    return [SLIDING if layer % count else FULL for layer in layers]


def nothing_more(config: Any) -> dict[str, Any]:
    """No fields beyond those that all families have."""
    del config
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the decoders of one ``model_type`` have in common.

    Attributes:
      architecture: Hugging Face's class, without ``ForCausalLM``.
      biases: of the projections of attention: none; always of q, k and v; or of all
        four if ``config.json`` turns them on.
      mlp_bias: whether ``config.json`` can turn on biases in the MLP.
      qk_norm: RMS norm of q and k: of each head, of all heads at once, or none.
      norms: where the norms of a block stand, seen from attention and MLP.
      wide_norm: norms scale in float32 and round once, instead of before and after.
      norm_offset: norms scale by 1 + weight.
      activation: of the MLP's gate, in Hugging Face's words; ``activation_field`` is
        where ``config.json`` says it.
      scaled_embeddings: they are multiplied by the square root of the width.
      layers: which kind each layer is, if there is a window; ``layer_types``
        overrides it where ``reads_layer_types``, and is ignored where not.
      with_layer_types: as which type a file is read that has ``layer_types``; empty: as
        its own.
      window_switch: the field without which there is no window; empty: none is needed.
      rotating: for each layer whether it has rotary positions.
      rope_by_kind: ``rope_parameters`` has an object for each kind of layer.
      local_base: where ``config.json`` of transformers 4 has the rotary base of layers
        that slide; empty: it is that of the others.
      local_theta: their base if ``config.json`` doesn't have it; 0: as the others'.
      defaults: what ``config.json`` means by a field that it doesn't have. It may be a
        null there too; but a null ``sliding_window`` says that there is none.
      refused: fields that a model of this type may set to what isn't supported here,
        with the values that are.
      spelled: fields of an exported ``config.json`` beyond those that all have.
      template: the packaged chat template in the family's form.
    """

    architecture: str
    template: str
    biases: Literal["none", "qkv", "configured"] = "configured"
    mlp_bias: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"
    norms: Norms = "before"
    wide_norm: bool = False
    norm_offset: bool = False
    activation: Literal["silu", "gelu_pytorch_tanh"] = "silu"
    activation_field: str = "hidden_act"
    scaled_embeddings: bool = False
    layers: Callable[[Fields], list[str]] = all_full
    reads_layer_types: bool = True
    with_layer_types: str = ""
    window_switch: str = ""
    rotating: Callable[[Fields], list[bool]] = all_rotate
    rope_by_kind: bool = False
    local_base: str = ""
    local_theta: float = 0.0
    defaults: Fields = field(default_factory=dict)
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    spelled: Callable[[Any], dict[str, Any]] = nothing_more

    def read(self, fields: Fields, name: str) -> Any:
        """A field of ``config.json``, or what its absence means."""
        value = fields.get(name)
        return self.defaults.get(name) if value is None else value

    def window(self, fields: Fields) -> int:
        """The window of the layers that slide; 0 if there is none."""
        if self.window_switch and not fields.get(self.window_switch):
            return 0
        default = self.defaults.get("sliding_window", 0)
        return fields.get("sliding_window", default) or 0
