"""Who comes in next, and where: slots to be decoded in, pages for what is cached.

Who has most in the cache comes first: the next turn of a conversation before a new one,
or by its time others would have taken its pages. Now and then the oldest comes in, so
that nobody waits for ever. A prompt whose beginning is just being computed for another
waits for that. Pages are taken as rows grow; where there are none left, the latest row
goes back to wait and starts again: what it gets is a function of its request, so it
loses time and nothing else.
"""

from collections import Counter, deque
from collections.abc import Iterable

from rl.pages import PagePool, digests_of
from rl.rows import Row

# How many rows may be let in before the oldest that waits. It alone: if all came in who
# waited that long, a long queue would keep every next turn out until it is empty.
PATIENCE = 64


class Admission:
    """Slots and pages of all devices, and the rows that wait for them.

    Attributes:
      waiting: rows without a slot, in the order in which they came.
    """

    def __init__(
        self, *, slots: int, pages: int, devices: int, page_size: int, chunk: int
    ):
        """Everything is free.

        Args:
          slots, pages: of each device.
        """
        self.waiting: deque[Row] = deque()
        self._slots, self._page_size, self._chunk = slots, page_size, chunk
        self._pools = [
            PagePool(pages, chunks=page_size // chunk) for _ in range(devices)
        ]
        self._free = [
            list(range(device * slots, (device + 1) * slots))[::-1]
            for device in range(devices)
        ]
        # Per device: digests of prompts on their way; rows whose last hidden state is
        # still that of their prompt's end, by the digest of that prompt.
        self._coming: list[Counter[bytes]] = [Counter() for _ in range(devices)]
        self._ends: list[dict[bytes, Row]] = [{} for _ in range(devices)]
        self._admitted = 0
        self._passed = 0  # rows let in since the oldest was

    def clear(self) -> None:
        """Forget what is in the pages; there must be no row in a slot."""
        for pool in self._pools:
            pool.clear()

    def wait(self, row: Row) -> None:
        """A new row, with its digests."""
        row.digests = digests_of(row.prompt, self._chunk)
        self.waiting.append(row)

    def admit(self) -> list[Row]:
        """Give slots and pages to rows that wait, while there are both.

        Their ``done`` tokens are found in the cache already, or to be copied.
        """
        if not self.waiting or not any(self._free):
            return []
        oldest = min(self.waiting, key=lambda row: row.id)
        patient = self._passed >= PATIENCE
        order = sorted(
            self.waiting,
            key=lambda row: (
                not patient or row is not oldest,
                -max(pool.match(row.digests[:-1])[1] for pool in self._pools),
            ),
        )
        admitted: list[Row] = []
        full: set[int] = set()  # devices that keep their room for who came first
        for row in order:
            if all(d in full for d, free in enumerate(self._free) if free):
                break
            device = self._choose(row, full)
            if device is None or device in full:
                continue
            if self._place(row, device):
                admitted.append(row)
            elif patient and row is oldest:
                break  # nobody before it any more, on no device
            else:
                full.add(device)
        if admitted:
            came = oldest.slot >= 0
            self._passed = 0 if came else self._passed + len(admitted)
            self.waiting = deque(row for row in self.waiting if row.slot < 0)
        return admitted

    def progress(self, row: Row, before: int) -> None:
        """The row's prompt is in the cache from ``before`` up to ``done``."""
        device = self.device(row)
        pool = self._pools[device]
        for chunk in range(before // self._chunk, row.done // self._chunk):
            pool.computed(row.pages[chunk // pool.chunks], row.digests[chunk])
        if row.ready:
            self._came(row)
            self._ends[device].setdefault(row.digests[-1], row)

    def decoded(self, row: Row) -> None:
        """The row's hidden state has moved on from its prompt's end."""
        ends = self._ends[self.device(row)]
        if ends.get(row.digests[-1]) is row:
            del ends[row.digests[-1]]

    def grow(self, row: Row, length: int) -> bool:
        """Take pages until the row has room for ``length`` tokens; False: none left."""
        wanted = -(-length // self._page_size) - len(row.pages)
        pages = self._pools[self.device(row)].take(max(wanted, 0))
        if pages is None:
            return False
        row.pages += pages
        return True

    def leave(self, row: Row) -> None:
        """Take slot and pages back; what was computed can still be found in them."""
        device = self.device(row)
        if row.ready:
            self.decoded(row)
        else:
            self._came(row)
        self._pools[device].give(row.pages)
        self._free[device].append(row.slot)
        row.slot, row.pages = -1, []

    def again(self, row: Row) -> None:
        """Take slot and pages back, and let the row wait, before its equals."""
        self.leave(row)
        row.restart()
        self.waiting.appendleft(row)

    def retain(self, row: Row) -> tuple[int, list[int]]:
        """Keep the pages with whole chunks of the row's prompt: (device, pages)."""
        device = self.device(row)
        whole = row.done // self._chunk * self._chunk
        pages = row.pages[: -(-whole // self._page_size)]
        self._pools[device].share(pages)
        return device, pages

    def release(self, device: int, pages: Iterable[int]) -> None:
        """Give up what ``retain`` kept."""
        self._pools[device].give(list(pages))

    def device(self, row: Row) -> int:
        """The device of the row's slot."""
        return row.slot // self._slots

    def _came(self, row: Row) -> None:
        coming = self._coming[self.device(row)]
        for digest in row.digests:
            coming[digest] -= 1
            if not coming[digest]:
                del coming[digest]

    def _choose(self, row: Row, full: set[int]) -> int | None:
        """The device with most of the prompt; None: it is being computed there.

        A row waits for room where its prompt is; others go where there is room.
        """
        best, chosen, coming = (), None, False
        for device, free in enumerate(self._free):
            if not free:
                continue
            _, count = self._pools[device].match(row.digests[:-1])
            whole = row.digests[-1] in self._ends[device]
            rank = (whole, count, device not in full, len(free), -device)
            if rank > best:  # no rank is empty
                best, chosen = rank, device
                coming = not whole and self._coming[device][row.digests[count]] > 0
        return None if coming else chosen

    def _place(self, row: Row, device: int) -> bool:
        pool, size = self._pools[device], self._page_size
        length = len(row.prompt)
        source = self._ends[device].get(row.digests[-1])
        if source:
            found, row.done = source.pages, length
        else:
            found, count = pool.match(row.digests[:-1])
            # The last token is always computed, or copied with its hidden state.
            row.done = min(count, (length - 1) // self._chunk) * self._chunk
        shared = found[: row.done // size]
        pool.share(shared)
        wanted = -(-length // size) - len(shared)
        # A page for each row that is there, or they would soon throw the new one out.
        spare = self._slots - len(self._free[device])
        own = pool.take(wanted) if wanted + spare <= pool.unused else None
        if own is None:
            pool.give(shared)
            row.done = 0
            return False
        row.slot, row.pages = self._free[device].pop(), shared + own
        row.cached, row.ready = row.done, source is not None
        row.page_from = found[len(shared)] if row.done % size else None
        row.hidden_from = source.slot if source else None
        row.order, self._admitted = self._admitted, self._admitted + 1
        if not row.ready:
            self._coming[device].update(row.digests)
        return True
