"""Qwen2 and Qwen2.5: biases on q, k and v; a window from some layer on, if at all."""

from typing import Any

from models.families.family import FULL, SLIDING, Family, Fields

SWITCH = "use_sliding_window"


def from_a_layer_on(fields: Fields) -> list[str]:
    """Layers from ``max_window_layers`` on slide."""
    first = fields.get("max_window_layers")
    first = 28 if first is None else first
    layers = range(fields["num_hidden_layers"])
    return [SLIDING if layer >= first else FULL for layer in layers]


def switched(config: Any) -> dict[str, Any]:
    """The switch of the window, beside ``layer_types``."""
    made: dict[str, Any] = {SWITCH: config.window > 0}
    if config.window:  # for transformers before 4.53, which ignores layer_types
        made["max_window_layers"] = config.window_layers.index(True)
    return made


QWEN2 = Family(
    architecture="Qwen2",
    template="chatml",
    biases="qkv",
    layers=from_a_layer_on,
    window_switch=SWITCH,
    defaults={"sliding_window": 4096},
    spelled=switched,
)
