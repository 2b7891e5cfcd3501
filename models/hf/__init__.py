"""Reads and writes Hugging Face folders: weights, configurations, tokenizers.

May import the rest of ``models``, which must not import it and touches no model files.
"""

from models.hf.adapters import load_adapter, save_adapter
from models.hf.folder import (
    base_of,
    content_hash,
    load_config,
    read_json,
    resolve,
    sees_images,
    verify,
)
from models.hf.loading import load
from models.hf.saving import save
from models.hf.tokenizer import load_tokenizer, vocab_rows

__all__ = [
    "base_of",
    "content_hash",
    "load",
    "load_adapter",
    "load_config",
    "load_tokenizer",
    "read_json",
    "resolve",
    "save",
    "save_adapter",
    "sees_images",
    "verify",
    "vocab_rows",
]
