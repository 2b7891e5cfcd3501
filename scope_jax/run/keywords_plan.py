"""What BM25 takes: host memory while its index is built, and what is kept of it.

From the number of passages and, where they are there, the words of the first megabytes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrieval import keywords, store
from retrieval.config import RetrievalConfig
from retrieval.lexical import words
from retrieval.rows import USUAL, Passage, passage_of
from scope_jax.config import Config
from scope_jax.run.search_plan import SAMPLE, count_of, passages_to_come

WORDS, DIFFERENT = 102.0, 72.0
"""Words of a passage, and different ones among them, as of the dump of 2018 with titles
(100 words each, and the title); assumed where there is no file."""
VOCABULARY = 1e7
"""Different words of that dump, assumed."""
GROWTH = 0.6
"""Heaps' law: a text of n words has about n ** 0.6 different ones."""


@dataclass(frozen=True, kw_only=True)
class KeywordsPlan:
    """BM25 in the inference process.

    Attributes:
      passages: how many; ``counted``: from a file, otherwise assumed.
      words: of a passage, on average.
      building: bytes of host memory while the index is built.
      mapped: bytes of its files, which are read where they lie.
      held: bytes of host memory while it is searched.
    """

    passages: int
    counted: bool
    words: float
    building: float
    mapped: float
    held: float

    def __str__(self) -> str:
        number = f"{self.passages:,} passages{'' if self.counted else ' (assumed)'}"
        return (
            f"search: {number} of {self.words:.0f} words, BM25: {_gb(self.held)} of "
            f"host memory, and {_gb(self.mapped)} in files, which are mapped; "
            f"{_gb(self.building)} of host memory while its index is built, once"
        )


def plan(config: Config) -> KeywordsPlan | None:
    """What a run's own BM25 takes; None where words rank nothing."""
    served, settings = config.inference, config.retrieval
    if served.url or served.retrieval_url or config.tools:
        return None
    if settings.ranking == "vectors":
        return None
    count, counted = count_of(settings)
    if store.is_needed(settings) and not store.find(settings):
        texts = passages_to_come(settings) or []
    else:
        texts = [words(passage.contents) for passage in _sample(settings)]
    each, different, vocabulary = WORDS, DIFFERENT, VOCABULARY
    if texts:
        total = sum(map(len, texts))
        each = total / len(texts)
        different = sum(len(set(text)) for text in texts) / len(texts)
        known = len({word for text in texts for word in text})
        vocabulary = known * max(count / len(texts), 1.0) ** GROWTH
    pairs, vocabulary = round(count * different), round(vocabulary)
    mapped, held = keywords.bytes_kept(count, pairs, vocabulary)
    return KeywordsPlan(
        passages=count,
        counted=counted,
        words=each,
        building=keywords.bytes_to_build(count, round(count * each), pairs, vocabulary),
        mapped=mapped,
        held=held,
    )


def _sample(settings: RetrievalConfig) -> Iterator[Passage]:
    """Passages in the first megabytes of what is searched; none if that isn't there.

    Rows that are no passages are left out here: opening the file names them.
    """
    file, columns = Path(settings.passages).expanduser(), settings.columns
    if store.is_needed(settings):
        file, columns = store.find(settings).lines, USUAL
    if not settings.passages or not file.is_file():
        return
    with file.open("rb") as stream:
        sample = stream.read(SAMPLE)
    lines = sample.split(b"\n")
    if len(sample) == SAMPLE:
        del lines[-1]  # of which the rest is missing
    for number, line in enumerate(lines):
        try:
            yield passage_of(json.loads(line), number, columns=columns, replace=True)
        except (ValueError, RecursionError):
            continue


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
