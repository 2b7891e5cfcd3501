"""Settings of the search: passages, encoder, index, and how many to return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from models.errors import UserError
from models.ranges import NOT_NEGATIVE, Count, CountOrZero, Share, check_fields
from retrieval.rows import Columns


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Search over passages (spec 2.2, 2.3)."""

    passages: str = ""
    """Your text: JSON lines (`contents`, or `title` and `text`), also `.gz` or `.zst`;
    Parquet; CSV; a folder of .txt and .md files (docs/your-text.md)."""
    id_column: str = ""
    """Column with each text's name. Empty: `id`, else `_id`."""
    title_column: str = ""
    """Column with each text's title. Empty: `title`."""
    text_column: str = ""
    """Column with the text. Empty: `contents` (title line, then text), else `text`."""
    cut_tokens: CountOrZero = 0
    """Texts with more tokens (of the transformer encoder; words for a lexical one) are
    cut into passages of at most so many. 0: no text is cut."""
    cut_overlap: CountOrZero = 0
    """Most tokens at the end of a passage that the next one repeats, where a paragraph
    had to be cut inside."""
    cut_by: Literal["paragraphs", "tokens"] = "paragraphs"
    """`paragraphs`: whole ones, as many as fit into a passage; only a longer one is cut
    inside. `tokens`: every passage is as long as it may be."""
    store: Literal["needed", "always"] = "needed"
    """Which text is copied into a store, without its duplicates: what is no plain JSON
    lines or has to be cut, or all. In plain JSON lines a passage is its line, for those
    who have an index of them."""
    bad_text: Literal["refuse", "replace"] = "refuse"
    """Passages with half a surrogate pair, which JSON can hold and nothing can write:
    `refuse` names the line; `replace` puts a question mark in its place."""
    encoder: Literal["lexical", "transformer"] = "lexical"
    """`lexical`: hashed words weighted by rarity, without a model, for small corpora;
    `transformer`: a BERT-type model without a layer behind its pooling (E5, MiniLM,
    bge)."""
    encoder_path: str = ""
    """Hugging Face folder or hub name of the transformer encoder."""
    index_dir: str = ""
    """Folder of one index. Empty: `FILE.index/` next to the passages, with one index
    for each pair of passages and encoder."""
    ranking: Literal["vectors", "bm25", "fused"] = "vectors"
    """`vectors`: by the encoder; `bm25`: by words, without an encoder; `fused`: by a
    passage's ranks in both."""
    bm25_k1: Annotated[float, NOT_NEGATIVE] = 1.2
    """BM25: how slowly more of the same word stops to count."""
    bm25_b: Share = 0.75
    """BM25: how far a passage's length counts; 0 for not at all."""
    fused_depth: Count = 100
    """Best passages of each ranking that are fused."""
    fused_constant: Annotated[float, NOT_NEGATIVE] = 60.0
    """What is added to each rank before 1 is divided by it: the larger, the less the
    first ranks count."""
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
        vectors = {"index": self.index != "Flat", "gpus": bool(self.gpus)}
        unread = [name for name, given in vectors.items() if given]
        if self.ranking == "bm25" and unread:
            raise UserError(
                f"{unread[0]}={getattr(self, unread[0])}: is about vectors, and "
                "ranking='bm25' uses none: leave it out, or set ranking to fused"
            )
        if self.cut_overlap and self.cut_overlap >= self.cut_tokens:
            raise UserError(
                f"cut_overlap={self.cut_overlap}: is not less than cut_tokens="
                f"{self.cut_tokens}: lower the first or raise the second"
            )

    @property
    def columns(self) -> Columns:
        """Which column of a row has what."""
        return Columns(self.id_column, self.title_column, self.text_column)

    def index_root(self) -> Path:
        """Folder for everything that is computed from the passages."""
        if self.index_dir:
            return Path(self.index_dir).expanduser()
        return Path(self.passages.rstrip("/") + ".index").expanduser()

    def beside(self, name: str) -> Path:
        """Folder for what is no index of vectors: not in ``index_dir``, beside it."""
        if self.index_dir:
            return Path(f"{self.index_dir.rstrip('/')}.{name}").expanduser()
        return self.index_root() / name
