"""What a ``config.json`` may hold: checked before a configuration is made of it."""

from typing import Any

from models.errors import UserError
from models.families import FAMILIES, TEXT_PARTS, Family
from models.ranges import WHOLE


def family_of(model_type: Any) -> Family:
    """The family of a type; raises ``UserError`` if it isn't supported."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UserError(f"model_type={model_type!r}: not supported: use one of {known}")
    return FAMILIES[model_type]


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of the text model, if a model also sees images."""
    outer = config.get("model_type")
    if not isinstance(outer, str) or outer not in TEXT_PARTS:
        return config
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise UserError(
            f"text_config={text!r}: must be an object in a model of type {outer}: use "
            "the model's own config.json"
        )
    model_type = text.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        model_type = TEXT_PARTS[outer]
    # Such files leave out what is transformers' default.
    defaults = FAMILIES[model_type].defaults
    shared = {name: config[name] for name in SHARED if name in config}
    needed = {name: defaults[name] for name in NEEDED if name in defaults}
    return shared | needed | text | {"model_type": model_type}


SHARED = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
"""Fields that may stand beside ``text_config``."""


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


POSITIVE = (
    "rope_theta",
    "rope_local_base_freq",
    "rms_norm_eps",
    "query_pre_attn_scalar",
    "final_logit_softcapping",
    "sliding_window_pattern",
    "no_rope_layer_interval",
)
"""Fields that are numbers above 0."""


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


def check_kinds(config: dict[str, Any]) -> None:
    """Raises ``UserError`` for a field of the wrong type."""
    check_counts(config)
    kinds: dict[str, tuple[str, Any]] = {
        **dict.fromkeys(POSITIVE, ("above 0", int | float)),
        "sliding_window": ("a whole number", int),
        "max_window_layers": ("a whole number", int),
        "layer_types": ("a list of names", list),
        "no_rope_layers": ("a list of 0 and 1", list),
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


def check_supported(config: dict[str, Any], family: Family) -> None:
    """Raises ``UserError`` for a variant of a family that isn't supported."""
    name, wanted = family.activation_field, family.activation
    if (found := config.get(name, wanted)) != wanted:
        raise UserError(f"{name}={found!r}: not supported: use a model with {wanted}")
    for name, values in family.refused.items():
        if (found := config.get(name)) not in values:
            raise UserError(f"{name}={found!r}: not supported: use a model without it")
