"""Settings of the search: passages, encoder, index, and how many to return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.ranges import at_least


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Search over passages (spec 2.2, 2.3)."""

    passages: str = ""
    """JSON-lines file; each line's `contents` is a title line, then the text."""
    bad_text: Literal["refuse", "replace"] = "refuse"
    """Passages with half a surrogate pair, which JSON can hold and nothing can write:
    `refuse` names the line; `replace` puts a question mark in its place."""
    encoder: Literal["lexical", "transformer"] = "lexical"
    """`lexical`: hashed words weighted by rarity, without a model, for small corpora;
    `transformer`: a BERT-type model (E5, MiniLM, bge)."""
    encoder_path: str = ""
    """Hugging Face folder or hub name of the transformer encoder."""
    index_dir: str = ""
    """Folder of one index. Empty: `FILE.index/` next to the passages, with one index
    for each pair of passages and encoder."""
    build_limit: int = 100_000
    """Largest number of passages for which the index is built on first use; for more,
    run scripts/build_index.py first."""
    top_k: int = 3
    """Passages per query, unless a request gives another number."""
    max_passage_tokens: int = 180
    """Passages are truncated to this many tokens for a transformer encoder, including
    the prefix."""
    max_query_tokens: int = 256
    """Queries are truncated to this many tokens for a transformer encoder, including
    the prefix."""
    passage_prefix: str = "passage: "
    """Put before each passage for a transformer encoder; empty for MiniLM."""
    query_prefix: str = "query: "
    """Put before each query for a transformer encoder; empty for MiniLM."""
    passage_batch: int = 32
    """Batch size of a transformer encoder for passages; short batches are padded."""
    query_batch: int = 8
    """Batch size of a transformer encoder for queries; short batches are padded."""
    lexical_dim: int = 4096
    """Width of lexical vectors; words whose hashes collide share a coordinate."""
    title_weight: float = 0.3
    """Weight of a passage's whole title, relative to its words, in lexical vectors."""

    def __post_init__(self):
        at_least(1, self, "top_k", "max_passage_tokens", "max_query_tokens")
        at_least(1, self, "passage_batch", "query_batch", "lexical_dim")
        at_least(0, self, "build_limit")

    def index_root(self) -> Path:
        """Folder for everything that is computed from the passages."""
        if self.index_dir:
            return Path(self.index_dir).expanduser()
        return Path(self.passages + ".index").expanduser()
