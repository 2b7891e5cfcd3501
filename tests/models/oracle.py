"""Transformers' own models, small, every tensor random, and ours beside them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from models.config import DecoderConfig
from models.families import FAMILIES
from models.hf.layout import layout, unflatten

torch = pytest.importorskip("torch")

SHAPE = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    pad_token_id=None,  # torch gives its row of the embedding no gradient
)


def make_model(family: str, *, seed: int = 0, **fields: Any):
    """A transformers model in which no tensor is what initialisation makes it."""
    hf_config = transformers.CONFIG_MAPPING[family](**SHAPE | fields)
    hf_config._attn_implementation = "eager"
    name = FAMILIES[family].architecture
    model = getattr(transformers, f"{name}ForCausalLM")(hf_config).eval()
    return randomised(model, family, seed=seed)


VISION = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
)


def model_with_images(outer: str, family: str, **fields: Any):
    """A transformers model that also sees images, its text model of a family."""
    tied = outer == "gemma3"
    kind = "siglip_vision_model" if outer == "gemma3" else "pixtral"
    text = SHAPE | fields | {"tie_word_embeddings": tied, "model_type": family}
    config = transformers.CONFIG_MAPPING[outer](
        text_config=text,
        vision_config=VISION | {"model_type": kind},
        tie_word_embeddings=tied,
    )
    name = f"{outer.capitalize()}ForConditionalGeneration"
    return randomised(getattr(transformers, name)(config).eval(), family)


def randomised(model, family: str, *, seed: int = 0):
    """The model with every tensor random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scales = "norm" in name and not FAMILIES[family].norm_offset
            center = 1.0 if scales else 0.0
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(center + 0.15 * noise)
    return model


def to_params(model, config: DecoderConfig) -> dict:
    """The model's tensors in our tree."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return tensors_to_params(state, config)


def tensors_to_params(state: dict[str, np.ndarray], config: DecoderConfig) -> dict:
    """Hugging Face tensors (or their gradients) by name, in our tree."""
    flat = {}
    for path, leaf in layout(config).items():
        parts = [
            (state[name].T if leaf.transposed else state[name]).reshape(leaf.shape)
            for name in leaf.names(config.num_layers)
        ]
        flat[path] = jnp.asarray(np.stack(parts) if leaf.stacked else parts[0])
    return unflatten(flat)


def pair(family: str, *, seed: int = 0, **fields: Any):
    """A transformers model, and our configuration and parameters of it."""
    model = make_model(family, seed=seed, **fields)
    config = DecoderConfig.from_hf(model.config.to_dict())
    return model, config, to_params(model, config)


def logits_of(model, tokens: np.ndarray, **inputs: Any) -> np.ndarray:
    """Transformers' logits."""
    with torch.no_grad():
        return model(torch.tensor(tokens), use_cache=False, **inputs).logits.numpy()
