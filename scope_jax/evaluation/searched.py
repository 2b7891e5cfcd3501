"""What is searched, as far as answers depend on it: passages, settings, a server."""

from pathlib import Path

from models import hf
from retrieval.config import RetrievalConfig
from retrieval.search import open_passages
from scope_jax.config import Config
from scope_jax.selfplay.own_parts import pinned

HARMLESS = ("index_dir", "build_limit", "passage_batch", "query_batch")
"""Settings that change no result but for rounding."""
NOTED = ("passages", "ranking", "cut_tokens", "cut_by", "top_k")
"""Those that answers have always been kept with, in facts of their own."""
LATER = ("search_server", "search_settings", "search_passages", "search_encoder")
"""Facts that answers of older versions lack, and those without the files at hand."""


def in_words(config: Config) -> str:
    """What is searched, in words."""
    if config.tools:
        return f"{config.tools} {pinned(config).tools_hash}"
    told = config.retrieval
    how = "" if told.ranking == "vectors" else f" by {told.ranking}"
    cut = f" cut to {told.cut_tokens} {told.cut_by}" if told.cut_tokens else ""
    return config.inference.retrieval_url or f"{told.passages}{how}{cut}"


def facts(config: Config) -> dict[str, str]:
    """What else answers depend on of the search; flat, named as ``LATER``.

    Passages are told by the hash in their table of offsets: only what no search has
    opened before is read as a whole. Where they do not lie here, nothing is said of
    them: answers that are there can be judged without them.

    Raises:
      UserError: passages or encoder are there, and cannot be used.
    """
    if config.tools:  # which have their hash among the words
        return {"search_server": "", "search_settings": ""}
    served = config.inference
    if url := served.retrieval_url or served.url:  # whose search is its own affair
        return {"search_server": url.rstrip("/"), "search_settings": ""}
    told = config.retrieval
    found = {"search_server": "", "search_settings": _settings(told)}
    if not (told.passages and Path(told.passages).expanduser().exists()):
        return found
    found["search_passages"] = open_passages(told).hash
    if told.encoder == "transformer" and told.ranking != "bm25":
        found["search_encoder"] = hf.content_hash(told.encoder_path)
    return found


def _settings(told: RetrievalConfig) -> str:
    """The settings that are not the usual ones: a field of a later version is none."""
    usual = RetrievalConfig()
    # On GPUs an index is in float16, on however many.
    given = vars(told) | {"gpus": bool(told.gpus)}
    return ", ".join(
        f"{name}={value!r}"
        for name, value in given.items()
        if name not in (*HARMLESS, *NOTED) and value != getattr(usual, name)
    )
