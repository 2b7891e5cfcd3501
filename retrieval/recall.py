"""How much of what a flat index finds another index finds."""

from dataclasses import dataclass

import numpy as np

from retrieval.config import RetrievalConfig
from retrieval.encoders import Encoder
from retrieval.index import VECTORS, Index, exact, folder_of, open_or_build
from retrieval.passages import Passages

QUERIES = 1000


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The mean share of the flat index's best passages that are found.

    Attributes:
      queries: how many titles were asked for.
      shares: number of passages -> share.
    """

    queries: int
    shares: dict[int, float]

    def __str__(self) -> str:
        each = ", ".join(f"{share:.3f} of {k}" for k, share in self.shares.items())
        return f"recall against Flat, {self.queries:,} titles as queries: {each}"


def measure(
    index: Index, config: RetrievalConfig, passages: Passages, encoder: Encoder
) -> Recall | None:
    """Compares an index with the flat one of the same passages.

    Returns:
      None where there is no flat index any more.
    """
    basis = folder_of(exact(config), passages, encoder)
    if not (basis / "index.json").is_file() or not (basis / VECTORS).is_file():
        return None
    count = min(QUERIES, len(passages))
    chosen = np.random.default_rng(0).choice(len(passages), count, replace=False)
    titles = [passages[int(i)].title or passages[int(i)].text[:80] for i in chosen]
    queries = encoder.encode_queries(titles)
    queries = queries[queries.any(axis=1)]  # a title may have no known word
    flat = open_or_build(exact(config), passages, encoder)
    numbers = sorted({min(k, len(passages)) for k in (config.top_k, 10)})
    best, found = (one.search(queries, numbers[-1])[1] for one in (flat, index))
    shares = {
        k: float(
            np.mean(
                [
                    len({*a[:k]} & {*b[:k]}) / k
                    for a, b in zip(best.tolist(), found.tolist(), strict=True)
                ]
            )
        )
        for k in numbers
    }
    return Recall(queries=len(queries), shares=shares)
