"""From queries to passages, and from passages to the text shown to a model."""

from collections.abc import Callable, Sequence

import numpy as np

from models.control_tokens import encodable
from retrieval import keywords, store
from retrieval.config import RetrievalConfig
from retrieval.encoders import make_encoder
from retrieval.index import open_or_build
from retrieval.passages import Passage, Passages

__all__ = ["Passage", "RetrievalConfig", "Searcher", "format_passages"]


Ranked = list[tuple[int, float]]
"""Numbers of passages with their scores, best first."""
Ranking = Callable[[Sequence[str], int], list[Ranked]]
"""Queries and a number of passages to what is best for each query."""


class Searcher:
    """Searches one corpus; thread-safe; its programs are compiled on construction.

    A query's result doesn't depend on the other queries of the batch.
    """

    def __init__(self, config: RetrievalConfig, *, progress: bool = True):
        """Opens passages and index; builds the index if the corpus is small.

        Raises:
          UserError: see ``open_passages``, ``make_encoder`` and ``open_or_build``.
        """
        self.config = config
        self.passages = open_passages(config)
        limit = config.build_limit
        self._rankings: list[Ranking] = []
        if config.ranking != "bm25":
            self._encoder = make_encoder(config)
            self._index = open_or_build(
                config, self.passages, self._encoder, limit=limit, progress=progress
            )
            self._encoder.warm_up()
            self._rankings.append(self._by_vectors)
        if config.ranking != "vectors":
            words = keywords.open_or_build(
                config, self.passages, limit=limit, progress=progress
            )
            self._rankings.append(words.search)

    def search(
        self, queries: Sequence[str], topk: int | None = None
    ) -> list[list[tuple[Passage, float]]]:
        """Returns the best passages of each query with their scores, best first.

        The scores of a fused ranking are those of reciprocal ranks (``fused``).

        Args:
          queries: any strings; a blank one finds nothing, and is not an error.
          topk: passages per query; None or 0 means ``config.top_k``.
        """
        queries = [encodable(query) for query in queries]
        found: list[list[tuple[Passage, float]]] = [[] for _ in queries]
        asked = [i for i, query in enumerate(queries) if query.strip()]
        if not asked:
            return found
        config, most = self.config, topk or self.config.top_k
        depth = max(most, config.fused_depth) if len(self._rankings) > 1 else most
        texts = [queries[i] for i in asked]
        ranked = [ranking(texts, depth) for ranking in self._rankings]
        for place, *lists in zip(asked, *ranked, strict=True):
            best = lists[0]
            if len(lists) > 1:
                best = fused(lists, constant=config.fused_constant)[:most]
            found[place] = [(self.passages[row], score) for row, score in best]
        return found

    def _by_vectors(self, queries: Sequence[str], k: int) -> list[Ranked]:
        """The passages whose vectors are nearest to each query's."""
        found: list[Ranked] = [[] for _ in queries]
        vectors = self._encoder.encode_queries(queries)
        # A zero vector has no known word; one that is not finite is near nothing.
        known = np.flatnonzero(vectors.any(axis=1) & np.isfinite(vectors).all(axis=1))
        if not len(known):
            return found
        scores, rows = self._index.search(vectors[known], k)
        for place, row, score in zip(known, rows, scores, strict=True):
            pairs = zip(row.tolist(), score.tolist(), strict=True)
            found[place] = [(number, value) for number, value in pairs if number >= 0]
        return found


def fused(rankings: Sequence[Ranked], *, constant: float) -> Ranked:
    """Reciprocal rank fusion: one ranking of several, ties by passage number.

    A passage's score is the sum over rankings of 1 / (constant + rank), ranks from 1,
    where it is in them (Cormack, Clarke and Buettcher, SIGIR 2009; their constant is
    60). The rankings' own scores, which no scale has in common, do not matter.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (number, _) in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (constant + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def open_passages(
    config: RetrievalConfig, *, any_size: bool = False, progress: bool = False
) -> Passages:
    """Opens the corpus; its offset table is saved next to the index.

    What can't be searched where it lies is opened in its store (``retrieval.store``).

    Args:
      any_size: write a store for more passages than ``build_limit``, too.
      progress: whether to show on stderr how far that is.

    Raises:
      UserError: see ``Passages`` and ``store.open_or_write``.
    """
    if store.is_needed(config):
        limit = None if any_size else config.build_limit
        lines = store.open_or_write(config, limit=limit, progress=progress).lines
        return Passages(lines, cache_dir=lines.parent)
    cache_dir = config.index_root() if config.passages else None
    return Passages(
        config.passages,
        cache_dir=cache_dir,
        bad_text=config.bad_text,
        columns=config.columns,
    )


def format_passages(passages: Sequence[Passage]) -> str:
    """Returns passages as text for a model (spec 2.4).

    ``Doc 1 (Title: ...)``, then the text; passages are separated by a blank line.
    """
    blocks = (
        f"Doc {number} (Title: {passage.title})\n{passage.text}\n\n"
        for number, passage in enumerate(passages, start=1)
    )
    return "".join(blocks).strip()
