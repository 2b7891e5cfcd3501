"""From text to vectors: the encoders with which an index can be built."""

import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
from tokenizers import Tokenizer

from models import encoder as bert
from models.errors import UserError
from models.hf.encoders import load_encoder
from models.word_cache import keep_words_only
from retrieval.config import RetrievalConfig
from retrieval.lexical import LexicalEncoder

SHORTEST = 32


class Encoder(Protocol):
    """What an index needs of an encoder; vectors are float32 [n, dim], L2-normalised.

    ``fingerprint`` differs between encoders that give the same passages different
    vectors. ``fit`` learns from all passages before any is encoded; ``state`` and
    ``restore`` save that with the index and load it again.
    """

    name: str
    fingerprint: str
    dim: int

    def fit(self, passages: Iterable[str]) -> None: ...  # noqa: D102
    def state(self) -> dict[str, np.ndarray]: ...  # noqa: D102
    def restore(self, state: dict[str, np.ndarray]) -> None: ...  # noqa: D102
    def warm_up(self) -> None: ...  # noqa: D102
    def encode_passages(self, contents: Sequence[str]) -> np.ndarray: ...  # noqa: D102
    def encode_queries(self, queries: Sequence[str]) -> np.ndarray: ...  # noqa: D102


def make_encoder(config: RetrievalConfig) -> Encoder:
    """Returns the encoder named by ``config.encoder``.

    Raises:
      UserError: if a transformer encoder has no path or can't be loaded.
    """
    if config.encoder == "lexical":
        return LexicalEncoder(config.lexical_dim, config.title_weight)
    if not config.encoder_path:
        raise UserError(
            "retrieval.encoder_path='': a transformer encoder needs a path: give a "
            "Hugging Face folder or hub name, for example intfloat/e5-base-v2"
        )
    return TransformerEncoder(config)


class TransformerEncoder:
    """A BERT-type encoder with a bounded number of compiled programs.

    A text's vector doesn't depend on the other texts of the batch: its program depends
    only on its length, and every program has a fixed batch size.
    """

    name = "transformer"

    def __init__(self, config: RetrievalConfig):
        from models.hf import content_hash

        bert_config, params, tokenizer = load_encoder(config.encoder_path)
        self.config, self.dim = config, bert_config.hidden_size
        self._params = params
        self._tokenizer = plain_tokenizer(tokenizer)
        longest = max(config.max_passage_tokens, config.max_query_tokens)
        if longest > bert_config.max_position:
            raise UserError(
                f"retrieval.max_passage_tokens or max_query_tokens={longest}: exceeds "
                f"the encoder's limit of {bert_config.max_position}: lower it"
            )
        self.fingerprint = (
            f"transformer-1 {content_hash(config.encoder_path)} {bert_config.pooling} "
            f"{config.max_passage_tokens} {config.passage_prefix!r}"
        )
        self._embed = jax.jit(partial(bert.embed, config=bert_config))
        self._programs: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()
        # For queries, few lengths, since all are compiled ahead. For passages, small
        # steps: there are many, so that padding costs more than compiling.
        step = SHORTEST
        limit = config.max_passage_tokens
        self._passage_lengths = [*range(step, limit, step), limit]
        limit = config.max_query_tokens
        doubling = [step << i for i in range(16) if step << i < limit]
        self._query_lengths = [*doubling, limit]

    def fit(self, passages: Iterable[str]) -> None:
        """Does nothing: the model is already trained."""

    def state(self) -> dict[str, np.ndarray]:
        """Empty: ``fit`` learns nothing."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Does nothing: there is no state."""

    def warm_up(self) -> None:
        """Compiles the programs for queries of every length."""
        for length in self._query_lengths:
            self._program(self.config.query_batch, length)

    def encode_passages(self, contents: Sequence[str]) -> np.ndarray:
        """Vectors of passages given as title, newline, text."""
        config = self.config
        texts = [config.passage_prefix + text for text in contents]
        return self._encode(texts, self._passage_lengths, config.passage_batch)

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray:
        """Vectors of queries."""
        config = self.config
        texts = [config.query_prefix + text for text in queries]
        return self._encode(texts, self._query_lengths, config.query_batch)

    def _program(self, rows: int, length: int) -> Any:
        """The compiled program for ids and mask of shape [rows, length]."""
        with self._lock:
            if (rows, length) not in self._programs:
                ids = jax.ShapeDtypeStruct((rows, length), np.int32)
                lowered = self._embed.lower(self._params, ids=ids, mask=ids)
                self._programs[rows, length] = lowered.compile()
            return self._programs[rows, length]

    def _encode(self, texts: list[str], lengths: list[int], batch: int) -> np.ndarray:
        encoded = self._tokenizer.encode_batch(texts)
        limit = lengths[-1]
        # Truncated as in the reference implementation: the last token is kept.
        rows = [
            e.ids if len(e.ids) <= limit else [*e.ids[: limit - 1], e.ids[-1]]
            for e in encoded
        ]
        vectors = np.zeros((len(rows), self.dim), np.float32)
        bucket = [next(n for n in lengths if n >= len(row)) for row in rows]
        for length in lengths:
            members = [i for i, chosen in enumerate(bucket) if chosen == length]
            for at in range(0, len(members), batch):
                chunk = members[at : at + batch]
                ids = np.zeros((batch, length), np.int32)
                mask = np.zeros((batch, length), np.int32)
                for slot, index in enumerate(chunk):
                    ids[slot, : len(rows[index])] = rows[index]
                    mask[slot, : len(rows[index])] = 1
                out = self._program(batch, length)(self._params, ids=ids, mask=mask)
                vectors[chunk] = np.asarray(out)[: len(chunk)]
        return vectors


def plain_tokenizer(tokenizer: Any) -> Tokenizer:
    """A copy that neither truncates nor pads; other threads can't change its state."""
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return keep_words_only(copy)
