"""Qwen3: each head's queries and keys are normalised; windows as in Qwen2."""

from models.families.family import Family
from models.families.qwen2 import SWITCH, from_a_layer_on, switched

QWEN3 = Family(
    architecture="Qwen3",
    template="qwen3_strip_thinking",
    qk_norm="head",
    layers=from_a_layer_on,
    window_switch=SWITCH,
    defaults={"head_dim": 128, "sliding_window": 4096},
    spelled=switched,
)
