"""Prompts into the cache: what to copy, what to compute, in which dispatch."""

from collections.abc import Collection, Sequence

from rl.prefixes import PrefixTable
from rl.programs import Programs
from rl.rows import Row
from rl.sampler import Chunks


class Prefiller:
    """Brings the prompts of rows that have a slot into the cache.

    Attributes:
      prefill_tokens: prompt tokens computed so far.
      cached_tokens: prompt tokens saved: copied, or found where they were.
    """

    def __init__(self, programs: Programs, prefixes: PrefixTable):
        self._programs, self._prefixes = programs, prefixes
        self.prefill_tokens = self.cached_tokens = 0

    def begin(self, row: Row, slot: int, source: int | None, chunks: int) -> None:
        """Put a row into a slot, to take ``chunks`` digests' worth from ``source``."""
        chunk = self._programs.sampler.prefill_chunk
        length = len(row.prompt)
        # The last token is always computed, or copied with its hidden state.
        row.whole = chunks == len(row.digests)
        row.wanted = length if row.whole else min(chunks, (length - 1) // chunk) * chunk
        row.slot = slot
        in_place = source == slot
        self._prefixes.assign(slot, row.id, row.digests)
        if row.wanted and not in_place:
            row.source = source
            self._prefixes.hold(source, 1)
        elif row.wanted:
            self._took(row)

    def leave(self, row: Row) -> None:
        """Free the row's slot; what was computed can still be copied from it."""
        self._prefixes.free(row.slot)
        if row.source is not None:
            self._prefixes.hold(row.source, -1)

    def advance(
        self, pending: Sequence[Row], *, in_work: Collection[int], calls: int
    ) -> None:
        """Copy and compute prompts, in at most ``calls`` prefill dispatches.

        Args:
          pending: rows that are not ready, in the order in which they came.
          in_work: slots whose rows go on: other sources will hold no more than now.
        """
        pending = list(pending)
        for _ in range(calls):
            self._copy_ready(pending, in_work)
            pending = [row for row in pending if not row.ready]
            chunks = self._next_chunks(pending)
            if chunks is None:
                break
            self._programs.run("prefill", chunks)
        self._copy_ready(pending, in_work)
        self._programs.wait()

    def _next_chunks(self, pending: Sequence[Row]) -> Chunks | None:
        """The next chunks of prompts that wait for nobody, as many as fit, or None."""
        sampler = self._programs.sampler
        chunk, capacity = sampler.prefill_chunk, sampler.prefill_rows
        used = [0] * sampler.devices
        chunks = sampler.new_chunks()
        for row in pending:
            device, slot = divmod(row.slot, sampler.slots)
            while row.source is None and not row.ready and used[device] < capacity:
                part = row.prompt[row.done : row.done + chunk]
                at = device * capacity + used[device]
                chunks.tokens[at, : len(part)] = part
                chunks.slots[at], chunks.starts[at] = slot, row.done
                chunks.last[at] = len(part) - 1
                row.done += len(part)
                row.ready = row.done == len(row.prompt)
                chunks.final[at] = row.ready
                used[device] += 1
                self.prefill_tokens += len(part)
                self._prefixes.progress(row.slot, row.done, row.ready)
        return chunks if any(used) else None

    def _copy_ready(self, pending: Sequence[Row], in_work: Collection[int]) -> None:
        """Copy into the rows whose sources have what they want."""
        ready = []
        for row in pending:
            if row.source is None:
                continue
            if self._prefixes.holds(row.source, row.wanted, row.whole):
                ready.append(row)
            elif row.source not in in_work:  # cancelled on the way: compute it
                self._prefixes.hold(row.source, -1)
                row.source, row.wanted = None, 0
        sampler = self._programs.sampler
        chunk, limit = sampler.prefill_chunk, sampler.copies
        moves = [(row, at) for row in ready for at in range(0, row.wanted, chunk)]
        for first in range(0, len(moves), limit):
            copies = sampler.new_copies()
            for row, start in moves[first : first + limit]:
                device, slot = divmod(row.slot, sampler.slots)
                source = row.source % sampler.slots
                at = device * limit + copies.count[device]
                copies.sources[at], copies.targets[at] = source, slot
                copies.starts[at] = start
                copies.count[device] += 1
                if row.whole:
                    copies.hidden_from[row.slot] = source
            self._programs.run("copy", copies)
        for row in ready:
            self._prefixes.hold(row.source, -1)
            self._took(row)

    def _took(self, row: Row) -> None:
        """What the row wanted from another slot is in its own."""
        row.done = row.cached = row.wanted
        row.ready, row.source = row.whole, None
        self.cached_tokens += row.cached
        self._prefixes.progress(row.slot, row.done, row.ready)
