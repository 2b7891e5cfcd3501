"""SmolLM3: as Llama, but every fourth layer has no rotary positions."""

from typing import Any

from models.families.family import FULL, SLIDING, Family, Fields


def rotating(fields: Fields) -> list[bool]:
    """``no_rope_layers`` has a 1 for a layer that does rotate, whatever its name says.

    Without it, every ``no_rope_layer_interval``-th doesn't.
    """
    layers, given = fields["num_hidden_layers"], fields.get("no_rope_layers")
    if given is None:
        each = fields.get("no_rope_layer_interval") or 4
        given = [layer % each for layer in range(1, layers + 1)]
    return [bool(rotates) for rotates in given[:layers]]


def sliding(fields: Fields) -> list[str]:
    """It is the layers without positions that slide."""
    return [FULL if rotates else SLIDING for rotates in rotating(fields)]


def spelled(config: Any) -> dict[str, Any]:
    """Which layers rotate, and the switch of the window."""
    rotates = config.rope_layers or (True,) * config.num_layers
    return {
        "no_rope_layers": [int(does) for does in rotates],
        "use_sliding_window": config.window > 0,
        # Or transformers takes its default, which a smaller vocabulary doesn't have.
        "pad_token_id": None,
    }


SMOLLM3 = Family(
    architecture="SmolLM3",
    template="smollm3",
    mlp_bias=True,
    layers=sliding,
    window_switch="use_sliding_window",
    rotating=rotating,
    defaults={
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "rope_theta": 2_000_000.0,
    },
    spelled=spelled,
)
