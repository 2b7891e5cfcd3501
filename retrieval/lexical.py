"""A text encoder without weights: hashed words and word pairs, weighted by rarity.

For corpora of up to some hundred thousand passages, small worlds and tests. A vector is
the sum of signed unit vectors, one for each feature of the text, at the coordinate that
the feature's hash names; feature weights are inverse document frequencies (IDF), learnt
from the passages and kept with the index. Features that no passage has are dropped from
queries, since at best they would add the noise of colliding hashes.

On 10,033 Wikipedia summaries at dim 4096, for 400 random ones: the bare title finds its
passage first in 99%, a question of a dozen words around it in 97%; six consecutive
words of the text find it first in 67% and among the first three in 88%.
"""

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

WORD = re.compile(r"\w+")
# Word pairs tell "North Bridge" from a bridge in the north; rarer than words, they
# would outweigh them without this factor.
PAIR_WEIGHT = 0.5
# Longest title, in words, that is also one feature of its own: a query that holds the
# words in a row finds that passage before all that merely speak of it.
TITLE_WORDS = 6
# Weights enter the product of query and passage once and a half: half of the norm of a
# passage would else come from its few rarest words, which no query may mention.
PASSAGE_POWER = 0.5
# Changes whenever the vectors do, so that no index of an older encoder is searched.
VERSION = "lexical-1"


@functools.lru_cache(maxsize=1 << 20)
def _hash(feature: str) -> int:
    """A 63-bit hash that is the same in every process and on every machine."""
    digest = hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 1


def words(text: str) -> list[str]:
    """The words of a text, without case, accents and punctuation."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if not unicodedata.combining(c))
    return WORD.findall(text.casefold())


def text_features(tokens: Sequence[str]) -> Counter[int]:
    """How often each word and each pair of neighbours occurs, by hash."""
    pairs = (f"{a} {b}" for a, b in pairwise(tokens))
    return Counter([*map(_hash, tokens), *map(_hash, pairs)])


def _title_feature(tokens: Sequence[str]) -> int:
    return _hash("title: " + " ".join(tokens))


class LexicalEncoder:
    """Encodes passages and queries as L2-normalised float32 vectors.

    Attributes:
      dim: width of the vectors.
      fingerprint: changes when vectors of the same passages would.
    """

    name = "lexical"

    def __init__(self, dim: int, title_weight: float):
        self.dim, self.title_weight = dim, title_weight
        self.fingerprint = f"{VERSION} dim={dim} title={title_weight}"
        self._weights: dict[int, float] = {}

    def fit(self, passages: Iterable[str]) -> None:
        """Learns how rare each feature is (smoothed, never 0: log(1 + n / df))."""
        frequency: Counter[int] = Counter()
        pairs: set[int] = set()
        titles: set[tuple[str, ...]] = set()
        total = 0
        for contents in passages:
            title, text = _split(contents)
            total += 1
            titles.add(tuple(title))
            features = text_features(title + text)
            pairs.update(features.keys() - set(map(_hash, title + text)))
            frequency.update(features.keys())
        self._weights = {
            feature: float(np.log1p(total / count))
            * (PAIR_WEIGHT if feature in pairs else 1.0)
            for feature, count in frequency.items()
        }
        for title in sorted(titles):
            # Titles of common words ("The World"), which more than about sqrt(n)
            # passages have, name their passage less surely.
            rarity = sum(self._weights[_hash(word)] for word in title)
            weight = min(float(np.log1p(total)), 2 * rarity)
            self._weights[_title_feature(title)] = weight

    def state(self) -> dict[str, np.ndarray]:
        """What ``fit`` learnt, as arrays."""
        return {
            "features": np.fromiter(self._weights, np.int64, len(self._weights)),
            "weights": np.fromiter(
                self._weights.values(), np.float64, len(self._weights)
            ),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts back what ``state`` returned."""
        features, weights = state["features"].tolist(), state["weights"].tolist()
        self._weights = dict(zip(features, weights, strict=True))

    def warm_up(self) -> None:
        """Nothing to compile."""

    def encode_passages(self, contents: Sequence[str]) -> np.ndarray:
        """Vectors [n, dim] of passages given as title, newline, text."""
        rows = np.zeros((len(contents), self.dim))
        for row, passage in zip(rows, contents, strict=True):
            title, text = _split(passage)
            # Title words count once more than the text's.
            features = text_features(title + text)
            features.update(text_features(title))
            row += self._vector(features, PASSAGE_POWER)
            coordinate, sign = self._place(np.int64(_title_feature(title)))
            row[coordinate] += sign * self.title_weight * np.linalg.norm(row)
        return _normalised(rows)

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        """Vectors [n, dim] of queries; zero for one without any known word."""
        rows = np.zeros((len(queries), self.dim))
        for row, query in zip(rows, queries, strict=True):
            tokens = words(query)
            features = text_features(tokens)
            for length in range(1, TITLE_WORDS + 1):
                for start in range(len(tokens) - length + 1):
                    features[_title_feature(tokens[start : start + length])] = 1
            row += self._vector(features, 1.0)
        return _normalised(rows)

    def _place(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates and signs of features."""
        return (hashes >> 1) % self.dim, np.where(hashes & 1, 1.0, -1.0)

    def _vector(self, features: Counter[int], power: float) -> np.ndarray:
        """The vector [dim] of counted features, unknown ones left out."""
        known = {f: n for f, n in features.items() if f in self._weights}
        hashes = np.fromiter(known, np.int64, len(known))
        counts = np.fromiter(known.values(), np.float64, len(known))
        weights = np.fromiter((self._weights[f] for f in known), np.float64, len(known))
        coordinates, signs = self._place(hashes)
        # Counts grow slowly: a word said five times isn't five times the topic.
        values = weights**power * (1 + np.log(counts)) * signs
        return np.bincount(coordinates, values, minlength=self.dim)


def _split(contents: str) -> tuple[list[str], list[str]]:
    """The words of title and text."""
    title, _, text = contents.partition("\n")
    return words(title), words(text)


def _normalised(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(norms, 1e-12)).astype(np.float32)
