"""Settings of the search: passages, encoder, index, and how many to return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from models.errors import UserError
from models.ranges import NOT_NEGATIVE, Count, CountOrZero, check_fields


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
    index: str = "Flat"
    """What searches the vectors, as FAISS's factory string: `Flat` is exact; `HNSW32`,
    `IVF4096,Flat`, `SQfp16`, `IVF4096,PQ64,RFlat` and others are faster or smaller and
    find most of the same passages (docs/performance.md). They are made from the Flat
    one."""
    index_parameters: str = ""
    """How hard another index than Flat searches, as FAISS names it: `nprobe=64`,
    `efSearch=128`. Empty: an IVF index looks into 1 of 32 of its lists, HNSW at 64."""
    gpus: CountOrZero = 0
    """GPUs of the inference process over which a Flat index is split, in float16; needs
    faiss-gpu. 0: search on the CPU."""
    build_limit: CountOrZero = 100_000
    """Largest number of passages for which the index is built on first use; for more,
    run scripts/build_index.py first."""
    top_k: Count = 3
    """Passages per query, unless a request gives another number."""
    max_passage_tokens: Count = 180
    """Passages are truncated to this many tokens for a transformer encoder, including
    the prefix."""
    max_query_tokens: Count = 256
    """Queries are truncated to this many tokens for a transformer encoder, including
    the prefix."""
    passage_prefix: str = "passage: "
    """Put before each passage for a transformer encoder; empty for MiniLM."""
    query_prefix: str = "query: "
    """Put before each query for a transformer encoder; empty for MiniLM."""
    passage_batch: Count = 32
    """Batch size of a transformer encoder for passages; short batches are padded."""
    query_batch: Count = 8
    """Batch size of a transformer encoder for queries; short batches are padded."""
    lexical_dim: Count = 4096
    """Width of lexical vectors; words whose hashes collide share a coordinate."""
    title_weight: Annotated[float, NOT_NEGATIVE] = 0.3
    """Weight of a passage's whole title, relative to its words, in lexical vectors."""

    def __post_init__(self):
        check_fields(self)
        if self.index == "Flat" and self.index_parameters:
            raise UserError(
                f"index_parameters={self.index_parameters}: a Flat index compares with "
                "every vector and has none: set index, or leave it empty"
            )
        if self.gpus and self.index != "Flat":
            raise UserError(
                f"gpus={self.gpus}: only a Flat index goes onto GPUs, and index="
                f"{self.index!r}: set one of them to its default"
            )

    def index_root(self) -> Path:
        """Folder for everything that is computed from the passages."""
        if self.index_dir:
            return Path(self.index_dir).expanduser()
        return Path(self.passages + ".index").expanduser()
