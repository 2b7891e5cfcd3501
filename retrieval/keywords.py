"""BM25: passages ranked by the words that they share with a query, by `bm25s`.

    score(q, p) = sum over the words w of q of
        log(1 + (N - n(w) + 0.5) / (n(w) + 0.5))
        * f(w, p) / (f(w, p) + k1 * (1 - b + b * |p| / mean |p|))

for N passages, n(w) of them with w, f(w, p) times in p (Robertson and Zaragoza 2009, in
Lucene's form). Words are those of ``lexical.words``, of title and text alike. bm25s
(arXiv 2407.03618) keeps all scores of single words, memory-mapped here; a query's are
summed in its words' order, so that they don't depend on other queries.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from models.errors import UserError, first_line
from retrieval.config import RetrievalConfig
from retrieval.index import draft_of
from retrieval.lexical import words
from retrieval.passages import Passages

VERSION = "bm25-1"
ABOUT = "index.json"
PASSAGE_BYTES, WORD_BYTES, PAIR_BYTES = 72, 9, 36
"""While an index is built, see ``bytes_to_build``."""
VOCABULARY_BYTES = 210
"""Of a word of the vocabulary, while an index is built and while it is open."""

TIMES = 4
"""How often a word of a query is read at most, however often the query has it."""


class Keywords:
    """A BM25 index; ``search`` is thread-safe.

    Args:
      scores: the opened index of bm25s.
    """

    def __init__(self, scores: Any):
        self._scores = scores

    def search(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """Numbers and scores of each query's best passages, ties by number.

        Passages without a word of the query are not among them.
        """
        return [self._best(words(query), k) for query in queries]

    def _best(self, query: list[str], k: int) -> list[tuple[int, float]]:
        known = self._scores.get_tokens_ids(query)
        if not known:
            return []
        scores = self._sums(known)
        k = min(k, len(scores))
        least = max(np.partition(scores, len(scores) - k)[len(scores) - k], 0.0)
        rows = np.flatnonzero((scores >= least) & (scores > 0))
        order = np.lexsort((rows, -scores[rows]))[:k]
        return [(int(row), float(scores[row])) for row in rows[order]]

    def _sums(self, query: list[int]) -> np.ndarray:
        """All passages' scores, float32, as bm25s sums them in a query's order.

        It reads all passages of a word again for each time that the query has it. Here
        the last time that is read stands for all that follow. Up to ``TIMES`` each is
        added in its place, as sums in another order differ in their last bits, and
        passages of the same words then change places.
        """
        kept = self._scores.scores
        scores = np.zeros(kept["num_docs"], np.float32)
        left, seen = Counter(query), Counter[int]()
        for word in query:
            seen[word] += 1
            if seen[word] > TIMES:
                continue
            times = left[word] if seen[word] == TIMES else 1
            left[word] -= times
            its = slice(kept["indptr"][word], kept["indptr"][word + 1])
            values = kept["data"][its]
            if times > 1:
                values = np.float32(times) * values
            np.add.at(scores, kept["indices"][its], values)
        return scores


def folder_of(config: RetrievalConfig, passages: Passages) -> Path:
    """Where the index of these passages is, or would be."""
    told = f"{VERSION} {passages.hash} {config.bm25_k1} {config.bm25_b}"
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    return config.beside("bm25") / key


def bytes_to_build(passages: int, words: int, pairs: int, vocabulary: int) -> int:
    """Host memory that building an index takes at most, beyond the passages' file.

    - For each passage its list (72), with a pointer for each of its words, and a
      sixteenth of room to grow (9).
    - For each pair of a passage and a different word in it: score, passage and word in
      4 bytes each, both of these as one number to sort by and their order in 8 each,
      and what is kept of it, sorted (36).
    - For each word of the vocabulary its text, its number, and its places in two
      dictionaries and in what it is counted in (210, measured: 185 to 215).

    Args:
      passages: how many.
      words: of all passages together.
      pairs: the sum over passages of the number of different words.
      vocabulary: different words of all passages.
    """
    texts = PASSAGE_BYTES * passages + WORD_BYTES * words + PAIR_BYTES * pairs
    return texts + VOCABULARY_BYTES * vocabulary


def bytes_kept(passages: int, pairs: int, vocabulary: int) -> tuple[int, int]:
    """What an open index takes: of its files, which are mapped, and of host memory.

    In files, score and passage of each pair, and 8 bytes for where each word's begin.
    In memory, the vocabulary (210 a word, measured: 190 to 215), and for a query the
    scores of all passages, a copy that is sorted, and what is looked for in both.
    """
    mapped = 8 * pairs + 8 * (vocabulary + 1)
    return mapped, VOCABULARY_BYTES * vocabulary + 10 * passages


def open_or_build(
    config: RetrievalConfig,
    passages: Passages,
    *,
    limit: int | None = None,
    progress: bool = True,
) -> Keywords:
    """Opens the index of these passages, or builds it.

    Args:
      limit: largest number of passages for which it is built; None means any.
      progress: whether to show a progress bar on stderr while building.

    Raises:
      UserError: there is none and there are more passages than ``limit``, or the
        folder is damaged or can't be written.
    """
    # Its import computes something with JAX, which settles JAX's devices: not before
    # a program has chosen them.
    import bm25s

    folder = folder_of(config, passages)
    if not (folder / ABOUT).is_file():
        if limit is not None and len(passages) > limit:
            raise UserError(
                f"{passages.path}: has no BM25 index, and {len(passages):,} passages "
                f"exceed retrieval.build_limit={limit:,}: run scripts/build_index.py "
                "with these settings first"
            )
        _build(folder, config, passages, progress)
    try:
        about = json.loads((folder / ABOUT).read_text())
        found = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        shape = (found.scores["num_docs"], len(found.scores["data"]))
        if shape != (len(passages), about["scores"]):
            raise ValueError(f"has {shape} passages and scores")
    except Exception as error:  # bm25s, NumPy and json raise different types
        raise UserError(
            f"{folder}: damaged index ({first_line(error)[:120]}): delete the folder, "
            "and it is built again"
        ) from error
    return Keywords(found)


def _build(
    folder: Path, config: RetrievalConfig, passages: Passages, progress: bool
) -> None:
    import bm25s

    vocabulary: dict[str, int] = {}
    rows = []
    for passage in track(
        passages,
        "index (BM25)",
        total=len(passages),
        console=Console(stderr=True),
        disable=not progress,
    ):
        found = words(passage.contents)
        rows.append([vocabulary.setdefault(word, len(vocabulary)) for word in found])
    if not vocabulary:
        raise UserError(f"{passages.path}: has no words: BM25 finds nothing in it")
    index = bm25s.BM25(method="lucene", k1=config.bm25_k1, b=config.bm25_b)
    index.index((rows, vocabulary), show_progress=False)
    with draft_of(folder) as draft:
        index.save(draft, show_progress=False)
        about = {"passages": passages.hash, "scores": len(index.scores["data"])}
        (draft / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
