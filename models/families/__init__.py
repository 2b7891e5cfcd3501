"""The families of decoders: a file of declarations each, read by the shared parts.

A new family is a file here, a line in ``FAMILIES``, and its rows in the tests.
"""

from models.families import gemma3, llama, mistral, olmo3, qwen2, qwen3, smollm3
from models.families.family import LAYER_TYPES, NORMS, Family

FAMILIES: dict[str, Family] = {
    "qwen3": qwen3.QWEN3,
    "qwen2": qwen2.QWEN2,
    "olmo3": olmo3.OLMO3,
    "llama": llama.LLAMA,
    "gemma3_text": gemma3.GEMMA3,
    "smollm3": smollm3.SMOLLM3,
    "mistral": mistral.MISTRAL,
    "ministral": mistral.MINISTRAL,
    "ministral3": mistral.MINISTRAL3,
}
"""``model_type`` of a ``config.json`` -> its family."""

TEXT_PARTS = {"gemma3": "gemma3_text", "mistral3": "ministral3"}
"""``model_type`` of a model that also sees images -> that of its text model, unless its
``text_config`` names another."""

__all__ = ["FAMILIES", "LAYER_TYPES", "NORMS", "TEXT_PARTS", "Family"]
