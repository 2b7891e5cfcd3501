"""What a search needs to know: passages, encoder, index, and how many to return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Search over passages (spec 2.2, 2.3)."""

    passages: str = ""
    """JSON-lines file; each line's `contents` is a title line, then the text."""
    encoder: Literal["lexical", "transformer"] = "lexical"
    """`lexical`: hashed words weighted by rarity, no weights, for small corpora;
    `transformer`: a BERT-type model (E5, MiniLM, bge)."""
    encoder_path: str = ""
    """Hugging Face folder or hub name of the transformer encoder."""
    index_dir: str = ""
    """Folder of one index. Empty: `FILE.index/` beside the passages, which holds one
    index for each pair of passages and encoder."""
    build_limit: int = 100_000
    """Up to so many passages the index is built on first use; for more, run
    scripts/build_index.py before."""
    top_k: int = 3
    """Passages per query where a request names no number."""
    max_passage_tokens: int = 180
    """A transformer encoder reads so many tokens of a passage, prefix included."""
    max_query_tokens: int = 256
    """A transformer encoder reads so many tokens of a query, prefix included."""
    passage_prefix: str = "passage: "
    """Written before each passage for a transformer encoder; empty for MiniLM."""
    query_prefix: str = "query: "
    """Written before each query for a transformer encoder; empty for MiniLM."""
    passage_batch: int = 32
    """Passages that a transformer encoder encodes at once (fixed rows of a program)."""
    query_batch: int = 8
    """Queries that a transformer encoder encodes at once (fixed rows of a program)."""
    lexical_dim: int = 4096
    """Width of lexical vectors: words share a coordinate where their hashes collide."""
    title_weight: float = 0.3
    """Weight of a passage's whole title against its words in lexical vectors."""

    def __post_init__(self):
        for name in ("top_k", "passage_batch", "query_batch", "lexical_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")

    def index_root(self) -> Path:
        """Folder under which everything made from the passages is written."""
        if self.index_dir:
            return Path(self.index_dir).expanduser()
        return Path(self.passages + ".index").expanduser()
