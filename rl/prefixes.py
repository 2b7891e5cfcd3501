"""Which slot holds which prompt, by content: where a new prompt finds its prefix."""

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass
class _Entry:
    """What is in a slot, or is on its way there.

    Attributes:
      digests: of the prompt's whole chunks, then of the whole prompt while the hidden
        state at its end is the slot's.
      done: prompt tokens computed or copied so far; ``ready``: all, and hidden too.
      owner: id of the request; ``freed``: when it left (-1: the slot is unused).
    """

    digests: tuple[bytes, ...] = ()
    done: int = 0
    ready: bool = False
    owner: int = -1
    freed: int = -1


class PrefixTable:
    """Chooses slots for prompts, so that computed prefixes are copied."""

    def __init__(self, *, slots: int, devices: int, chunk: int):
        self._chunk = chunk
        self._per_device = slots // devices
        self._clock = 0
        self._entries = [_Entry() for _ in range(slots)]
        self._index: dict[bytes, dict[int, None]] = {}
        self._held: Counter[int] = Counter()

    def digests(self, prompt: np.ndarray) -> tuple[bytes, ...]:
        """A running digest at the end of each whole chunk, and one of the prompt."""
        running = hashlib.blake2b(digest_size=16)
        digests = []
        for start in range(0, len(prompt) - self._chunk + 1, self._chunk):
            running.update(prompt[start : start + self._chunk].tobytes())
            digests.append(running.digest())
        running.update(prompt[len(digests) * self._chunk :].tobytes() + b"end")
        return (*digests, running.digest())

    def place(
        self,
        digests: tuple[bytes, ...],
        *,
        busy: Collection[int],
        retained: Collection[int],
    ) -> tuple[int, int | None, int] | None:
        """Choose (slot, slot to copy from, how many digests match), or None: all full.

        The source may be the slot itself, where the prompt extends all that it holds.
        Sources are on the slot's own device; ``retained`` owners keep their slots.
        """
        free = [
            slot
            for slot, entry in enumerate(self._entries)
            if slot not in busy and not self._held[slot] and entry.owner not in retained
        ]
        if not free:
            return None

        def oldest(slots):
            return min(slots, key=lambda slot: (self._entries[slot].freed, slot))

        for count in range(len(digests), 0, -1):
            for source in self._index.get(digests[count - 1], ()):
                holds_no_more = len(self._entries[source].digests) <= count
                if source in free and holds_no_more:
                    return source, source, count
                device = source // self._per_device
                near = [s for s in free if s // self._per_device == device]
                near = [s for s in near if s != source]
                if near:
                    return oldest(near), source, count
        spare = Counter(s // self._per_device for s in free)
        device = min(spare, key=lambda d: (-spare[d], d))
        return oldest([s for s in free if s // self._per_device == device]), None, 0

    def assign(self, slot: int, owner: int, digests: tuple[bytes, ...]) -> None:
        """A request has taken the slot; followers may already name it as a source."""
        self._forget(slot)
        self._entries[slot] = _Entry(digests=digests, owner=owner)
        for digest in digests:
            self._index.setdefault(digest, {})[slot] = None

    def progress(self, slot: int, done: int, ready: bool) -> None:
        """So much of the slot's prompt is in the cache."""
        entry = self._entries[slot]
        entry.done, entry.ready = done, ready

    def holds(self, slot: int, tokens: int, whole: bool) -> bool:
        """Whether the first ``tokens`` (``whole``: and the hidden state) are there."""
        entry = self._entries[slot]
        return entry.ready if whole else entry.done >= tokens

    def hold(self, slot: int, change: int) -> None:
        """Keep the slot from being given away while someone waits to copy from it."""
        self._held[slot] += change

    def decoded(self, slot: int) -> None:
        """The slot's hidden state has moved on: only whole chunks can be shared."""
        entry = self._entries[slot]
        if entry.ready:
            entry.ready = False
            self._keep(slot, len(entry.digests) - 1)

    def free(self, slot: int) -> None:
        """The slot's request has left; what was computed stays until it is taken."""
        entry = self._entries[slot]
        self._clock += 1
        entry.freed = self._clock
        if not entry.ready:
            self._keep(slot, min(len(entry.digests), entry.done // self._chunk))

    def clear(self) -> None:
        """Forget everything: the parameters have changed."""
        for slot in range(len(self._entries)):
            self._forget(slot)
            self._entries[slot] = _Entry()

    def _keep(self, slot: int, count: int) -> None:
        entry = self._entries[slot]
        kept, dropped = entry.digests[:count], entry.digests[count:]
        for digest in dropped:
            self._index[digest].pop(slot, None)
            if not self._index[digest]:
                del self._index[digest]
        entry.digests = kept

    def _forget(self, slot: int) -> None:
        self._keep(slot, 0)
