"""Hugging Face folders in and out: weights, configurations, tokenizers.

May import ``models``; the decoder itself knows nothing of files. What other rooms call
is named here.
"""

from models.hf.folder import content_hash, load_config, read_json, resolve
from models.hf.loading import load
from models.hf.saving import save
from models.hf.tokenizer import load_tokenizer, vocab_rows

__all__ = [
    "content_hash",
    "load",
    "load_config",
    "load_tokenizer",
    "read_json",
    "resolve",
    "save",
    "vocab_rows",
]
