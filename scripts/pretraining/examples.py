"""Transcripts as token ids with loss weights, and packed into batches for training."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

from pretraining import tokenizer as small_tokenizer
from pretraining.transcripts import JOBS
from pretraining.wording import Transcript, scored
from scope_jax.small_world.world import RELATIONS, World


@dataclasses.dataclass(frozen=True)
class Example:
    """One encoded transcript: what is trained, and which tokens follow for sure."""

    job: int
    ids: np.ndarray
    weight: np.ndarray
    key: np.ndarray


class ExampleEncoder:
    """Turns transcripts into token ids, loss weights and key positions."""

    def __init__(
        self,
        world: World,
        tokenizer: PreTrainedTokenizerFast,
        *,
        verdict_weight: float = 1.0,
        value_weight: float = 1.0,
        relation_weight: float = 1.0,
    ):
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.encode_special_tokens = True
        token_id = tokenizer.convert_tokens_to_ids
        self._start = token_id(small_tokenizer.START)
        self._end = token_id(small_tokenizer.END)
        self._names = {token_id(entity.name) for entity in world.entities}
        self._phrases = {
            token_id(f"'s {name} is ") for found in RELATIONS.values() for name in found
        }
        self._verdict_weight = verdict_weight
        self._value_weight = value_weight
        self._relation_weight = relation_weight
        self._encode = functools.lru_cache(maxsize=4096)(self._ids)
        yes, no = (set(self._ids(scored("A", met))) for met in (True, False))
        self._verdicts = yes ^ no

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def __call__(self, transcript: Transcript) -> Example:
        """Encodes ``transcript``; ids equal the chat template's."""
        ids: list[int] = []
        loss: list[bool] = []
        for index, message in enumerate(transcript.messages):
            role, content = message["role"], message["content"]
            if role == "tool":
                role = "user"
                content = f"<tool_response>\n{content}\n</tool_response>"
            trained = index in transcript.trained
            head = [self._start, *self._encode(f"{role}\n")]
            body = [*self._ids(content), self._end]
            tail = self._encode("\n")
            ids += [*head, *body, *tail]
            loss += [False] * len(head) + [trained] * len(body) + [False] * len(tail)
        job, places = transcript.job, range(len(ids))
        key = np.array([loss[at] and self._is_key(job, ids, at) for at in places])
        weight = np.asarray(loss, np.float32)
        if job == "recite":
            weight = weight * key
        else:
            weight = weight * np.where(key, self._value_weight, 1.0)
        if job == "challenger":
            asked = [token in self._phrases for token in ids]
            weight = weight * np.where(asked, self._relation_weight, 1.0)
        if job in ("grader", "gate_entity", "gate_source"):
            verdict = [
                loss[at] and (ids[at] in self._verdicts or self._decides(job, ids, at))
                for at in places
            ]
            weight = weight * np.where(verdict, self._verdict_weight, 1.0)
        return Example(
            list(JOBS).index(job), np.int32(ids), weight.astype(np.float32), key
        )

    def _decides(self, job: str, ids: Sequence[int], at: int) -> bool:
        """Whether the token decides the verdict that follows.

        At the entity gate that is the first one of the thought, at the grader the value
        that it reads, or that there is none.
        """
        if job == "grader":
            return ids[at - 1] in self._phrases
        return job == "gate_entity" and self._start in ids[max(at - 3, 0) : at - 1]

    def _is_key(self, job: str, ids: Sequence[int], at: int) -> bool:
        """Whether the token follows from context and script, not from chance."""
        if job == "challenger":  # what it asks for is its choice, a value is not
            return ids[at - 1] in self._phrases and ids[at] in self._names
        if ids[at - 1] in self._phrases:  # the value, or that there is none
            return True
        if job in ("solver", "recite"):
            return False
        if self._decides(job, ids, at):
            return True
        return ids[at] in self._names or ids[at] in self._verdicts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed rows [B, T] and, flat and padded to a number, the trained tokens [P]."""

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    index: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    key: np.ndarray
    job: np.ndarray


def pack(examples: Callable[[], Example], rows: int, length: int) -> Batch:
    """Fills ``rows`` of ``length`` with examples, first fit, until several fail to."""
    shape = (rows, length)
    tokens = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    segments = np.zeros(shape, np.int32)
    fill = np.zeros(rows, int)
    index, target, weight, key, job = [], [], [], [], []
    capacity = rows * length // 4
    misses = 0
    while misses < 4:
        example = examples()
        size = len(example.ids)
        fitting = np.flatnonzero(fill + size <= length)
        trained = np.flatnonzero(example.weight[1:]) + 1
        if not len(fitting) or len(index) + len(trained) > capacity:
            misses += 1
            continue
        row = fitting[0]
        start = fill[row]
        span = slice(start, start + size)
        tokens[row, span] = example.ids
        positions[row, span] = np.arange(size)
        segments[row, span] = segments[row].max() + 1
        fill[row] += size
        index += list(row * length + start + trained - 1)
        target += list(example.ids[trained])
        weight += list(example.weight[trained])
        key += list(example.key[trained])
        job += [example.job] * len(trained)

    def padded(values, dtype) -> np.ndarray:
        out = np.zeros(capacity, dtype)
        out[: len(values)] = values
        return out

    return Batch(
        tokens,
        positions,
        segments,
        padded(index, np.int32),
        padded(target, np.int32),
        padded(weight, np.float32),
        padded(key, bool),
        padded(job, np.int32),
    )
