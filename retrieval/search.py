"""From queries to passages, and from passages to the text shown to a model."""

from collections.abc import Sequence

import numpy as np

from models.control_tokens import encodable
from retrieval.config import RetrievalConfig
from retrieval.encoders import make_encoder
from retrieval.index import open_or_build
from retrieval.passages import Passage, Passages

__all__ = ["Passage", "RetrievalConfig", "Searcher", "format_passages"]


class Searcher:
    """Searches one corpus; thread-safe; its programs are compiled on construction.

    A query's result doesn't depend on the other queries of the batch.
    """

    def __init__(self, config: RetrievalConfig, *, progress: bool = True):
        """Opens passages and index; builds the index if the corpus is small.

        Raises:
          UserError: see ``Passages``, ``make_encoder`` and ``open_or_build``.
        """
        self.config = config
        self.passages = open_passages(config)
        self._encoder = make_encoder(config)
        self._index = open_or_build(
            config,
            self.passages,
            self._encoder,
            limit=config.build_limit,
            progress=progress,
        )
        self._encoder.warm_up()

    def search(
        self, queries: Sequence[str], topk: int | None = None
    ) -> list[list[tuple[Passage, float]]]:
        """Returns the best passages of each query with their scores, best first.

        Args:
          queries: any strings; a blank one finds nothing, and is not an error.
          topk: passages per query; None or 0 means ``config.top_k``.
        """
        queries = [encodable(query) for query in queries]
        found: list[list[tuple[Passage, float]]] = [[] for _ in queries]
        asked = [i for i, query in enumerate(queries) if query.strip()]
        if not asked:
            return found
        vectors = self._encoder.encode_queries([queries[i] for i in asked])
        # A zero vector has no known word; one that is not finite is near nothing.
        known = np.flatnonzero(vectors.any(axis=1) & np.isfinite(vectors).all(axis=1))
        if not len(known):
            return found
        scores, rows = self._index.search(vectors[known], topk or self.config.top_k)
        for place, row, score in zip(known, rows, scores, strict=True):
            found[asked[place]] = [
                (self.passages[int(i)], float(s))
                for i, s in zip(row, score, strict=True)
                if i >= 0
            ]
        return found


def open_passages(config: RetrievalConfig) -> Passages:
    """Opens the corpus; its offset table is saved next to the index.

    Raises:
      UserError: see ``Passages``.
    """
    cache_dir = config.index_root() if config.passages else None
    return Passages(config.passages, cache_dir=cache_dir, bad_text=config.bad_text)


def format_passages(passages: Sequence[Passage]) -> str:
    """Returns passages as text for a model (spec 2.4).

    ``Doc 1 (Title: ...)``, then the text; passages are separated by a blank line.
    """
    blocks = (
        f"Doc {number} (Title: {passage.title})\n{passage.text}\n\n"
        for number, passage in enumerate(passages, start=1)
    )
    return "".join(blocks).strip()
