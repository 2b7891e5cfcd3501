"""Llama 2 and 3, and what has their type, as SmolLM2: biases if asked for."""

from models.families.family import Family

LLAMA = Family(
    architecture="Llama", template="llama3", mlp_bias=True, reads_layer_types=False
)
