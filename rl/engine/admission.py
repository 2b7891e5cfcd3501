"""Which sequence is admitted next, and where: slots to decode in, pages to cache in.

Whoever has most in the cache comes first: the next turn of a conversation before a new
one, or others would have taken its pages by the time it is admitted. Now and then the
oldest is admitted, so that no sequence starves. A prompt whose beginning is just being
computed for another waits for that. Pages are allocated as sequences grow; where there
are none left, the latest sequence goes back to the queue and starts again: what it gets
is a function of its request, so it loses time and nothing else.
"""

from collections import Counter, deque

from rl.engine.pages import PagePool, digests_of
from rl.engine.sequence import SequenceState

# How many sequences may be admitted before the oldest that waits. It alone: if all were
# admitted who waited that long, a long queue would keep every next turn out until it is
# empty.
STARVATION_LIMIT = 64


class Admission:
    """Slots and pages of all devices, and the sequences that wait for them.

    Attributes:
      waiting: sequences without a slot, in order of arrival.
      versions: by adapter, of the weights that compute what is put into pages from
        now on; 0 is the model itself.
    """

    def __init__(
        self,
        *,
        slots: int,
        pages: int,
        devices: int,
        page_size: int,
        chunk: int,
        adapters: int = 0,
    ):
        """Everything is free.

        Args:
          slots, pages: of each device.
          adapters: how many there are.
        """
        self.waiting: deque[SequenceState] = deque()
        self.versions = dict.fromkeys(range(adapters + 1), 0)
        self._slots, self._page_size, self._chunk = slots, page_size, chunk
        self._pools = [
            PagePool(pages, chunks=page_size // chunk) for _ in range(devices)
        ]
        self._free = [
            list(range(device * slots, (device + 1) * slots))[::-1]
            for device in range(devices)
        ]
        # Per device: digests of prompts that are being computed; and sequences whose
        # last hidden state is still that of their prompt's end, by the prompt's digest.
        self._pending: list[Counter[bytes]] = [Counter() for _ in range(devices)]
        self._ends: list[dict[bytes, SequenceState]] = [{} for _ in range(devices)]
        self._admitted = 0
        self._since_oldest = 0  # sequences admitted since the oldest was

    def clear(self) -> None:
        """Forget what is in the pages; there must be no sequence in a slot."""
        for pool in self._pools:
            pool.clear()

    def forget(self, adapter: int) -> None:
        """Another adapter's weights take its place; no sequence of it is in a slot."""
        self.versions[adapter] += 1
        for pool in self._pools:
            pool.forget(adapter)

    def stale_pages(self) -> int:
        """Pages that would be shared although older weights have computed them."""
        return sum(pool.stale(self.versions) for pool in self._pools)

    def add(self, sequence: SequenceState) -> None:
        """Queue a new sequence, and work out its digests."""
        adapter = sequence.request.adapter
        sequence.digests = digests_of(sequence.prompt, self._chunk, adapter)
        self.waiting.append(sequence)

    def admit(self) -> list[SequenceState]:
        """Give slots and pages to waiting sequences, while there are both.

        Their ``done`` tokens are in the cache already, or are to be copied.
        """
        if not self.waiting or not any(self._free):
            return []
        oldest = min(self.waiting, key=lambda sequence: sequence.id)
        overdue = self._since_oldest >= STARVATION_LIMIT
        order = sorted(
            self.waiting,
            key=lambda sequence: (
                not overdue or sequence is not oldest,
                -max(pool.match(sequence.digests[:-1])[1] for pool in self._pools),
            ),
        )
        admitted: list[SequenceState] = []
        full: set[int] = set()  # devices whose room is kept for an earlier sequence
        for sequence in order:
            if all(d in full for d, free in enumerate(self._free) if free):
                break
            device = self._choose_device(sequence, full)
            if device is None or device in full:
                continue
            if self._place(sequence, device):
                admitted.append(sequence)
            elif overdue and sequence is oldest:
                break  # none may overtake it any more, on no device
            else:
                full.add(device)
        if admitted:
            self._since_oldest += len(admitted)
            if oldest.slot >= 0:
                self._since_oldest = 0
            self.waiting = deque(s for s in self.waiting if s.slot < 0)
        return admitted

    def progress(self, sequence: SequenceState, before: int) -> None:
        """The prompt is in the cache from ``before`` up to ``done``."""
        device = self.device(sequence)
        pool, adapter = self._pools[device], sequence.request.adapter
        version = self.versions[adapter]
        for chunk in range(before // self._chunk, sequence.done // self._chunk):
            page = sequence.pages[chunk // pool.chunks]
            pool.record(page, sequence.digests[chunk], adapter, version)
        if sequence.ready:
            self._no_longer_pending(sequence)
            self._ends[device].setdefault(sequence.digests[-1], sequence)

    def decoded(self, sequence: SequenceState) -> None:
        """The hidden state has moved on from the prompt's end."""
        ends = self._ends[self.device(sequence)]
        if ends.get(sequence.digests[-1]) is sequence:
            del ends[sequence.digests[-1]]

    def grow(self, sequence: SequenceState, length: int) -> bool:
        """Allocate pages up to ``length`` tokens; False: there are not enough."""
        wanted = -(-length // self._page_size) - len(sequence.pages)
        pages = self._pools[self.device(sequence)].allocate(max(wanted, 0))
        if pages is None:
            return False
        sequence.pages += pages
        return True

    def release(self, sequence: SequenceState) -> None:
        """Free slot and pages; what was computed can still be found in them."""
        device = self.device(sequence)
        if sequence.ready:
            self.decoded(sequence)
        else:
            self._no_longer_pending(sequence)
        self._pools[device].free(sequence.pages)
        self._free[device].append(sequence.slot)
        sequence.slot, sequence.pages = -1, []

    def requeue(self, sequence: SequenceState) -> None:
        """Free slot and pages, and let the sequence wait, ahead of its equals."""
        self.release(sequence)
        sequence.restart()
        self.waiting.appendleft(sequence)

    def device(self, sequence: SequenceState) -> int:
        """The device of the sequence's slot."""
        return sequence.slot // self._slots

    def _no_longer_pending(self, sequence: SequenceState) -> None:
        pending = self._pending[self.device(sequence)]
        for digest in sequence.digests:
            pending[digest] -= 1
            if not pending[digest]:
                del pending[digest]

    def _choose_device(self, sequence: SequenceState, full: set[int]) -> int | None:
        """The device with most of the prompt; None: it is being computed there.

        A sequence waits for room where its prompt is; others go where there is room.
        """
        best, chosen, pending = (), None, False
        for device, free in enumerate(self._free):
            if not free:
                continue
            _, count = self._pools[device].match(sequence.digests[:-1])
            whole = sequence.digests[-1] in self._ends[device]
            rank = (whole, count, device not in full, len(free), -device)
            if rank > best:  # no rank is empty
                best, chosen = rank, device
                next_digest = sequence.digests[count]
                pending = not whole and self._pending[device][next_digest] > 0
        return None if pending else chosen

    def _place(self, sequence: SequenceState, device: int) -> bool:
        """Give slot and pages of a device; False: it has too few pages."""
        pool, size = self._pools[device], self._page_size
        length = len(sequence.prompt)
        source = self._ends[device].get(sequence.digests[-1])
        if source:
            found, done = source.pages, length
        else:
            found, count = pool.match(sequence.digests[:-1])
            # The last token is always computed, or copied with its hidden state.
            done = min(count, (length - 1) // self._chunk) * self._chunk
        shared = found[: done // size]
        pool.share(shared)
        wanted = -(-length // size) - len(shared)
        # One page to spare per running sequence: they would soon push the new one out.
        spare = self._slots - len(self._free[device])
        own = pool.allocate(wanted) if wanted + spare <= pool.unused else None
        if own is None:
            pool.free(shared)
            return False
        sequence.slot, sequence.pages = self._free[device].pop(), shared + own
        sequence.done = sequence.cached = done
        sequence.ready = source is not None
        sequence.page_from = found[len(shared)] if done % size else None
        sequence.hidden_from = source.slot if source else None
        sequence.order, self._admitted = self._admitted, self._admitted + 1
        if not sequence.ready:
            self._pending[device].update(sequence.digests)
        return True
