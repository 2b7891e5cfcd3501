"""Prompts into the cache: what to copy, what to compute, in which dispatch."""

from collections.abc import Sequence

from rl.admission import Admission
from rl.programs import Programs
from rl.rows import Row
from rl.sampler import Chunks


class Prefiller:
    """Brings the prompts of rows that have a slot into the cache.

    Attributes:
      prefill_tokens: prompt tokens computed so far.
      cached_tokens: prompt tokens saved: found in the cache.
    """

    def __init__(self, programs: Programs, admission: Admission):
        self._programs, self._admission = programs, admission
        self.prefill_tokens = self.cached_tokens = 0

    def begin(self, rows: Sequence[Row]) -> None:
        """Copy what rows that were just let in don't share, and the hidden states.

        Before anything else is computed: what they copy may be given to others next.
        """
        sampler = self._programs.sampler
        copies, wanted = sampler.new_copies(), False
        for row in rows:
            self.cached_tokens += row.cached
            device = self._admission.device(row)
            if row.page_from is not None:
                at = device * sampler.slots + copies.count[device]
                copies.sources[at] = row.page_from
                copies.targets[at] = row.pages[row.done // sampler.page_size]
                copies.count[device] += 1
                wanted = True
            if row.hidden_from is not None:
                copies.hidden_from[row.slot] = row.hidden_from % sampler.slots
                wanted = True
        if wanted:
            self._programs.run("copy", copies)

    def advance(self, pending: Sequence[Row], *, calls: int) -> None:
        """Compute prompts, in at most ``calls`` prefill dispatches.

        Args:
          pending: rows that are not ready, in the order in which they came.
        """
        for _ in range(calls):
            chunks = self._next_chunks([row for row in pending if not row.ready])
            if chunks is None:
                break
            self._programs.run("prefill", chunks)
        self._programs.wait()

    def _next_chunks(self, pending: Sequence[Row]) -> Chunks | None:
        """The next chunks of prompts, as many as fit, or None."""
        sampler = self._programs.sampler
        chunk, capacity = sampler.prefill_chunk, sampler.prefill_rows
        used = [0] * sampler.devices
        chunks = sampler.new_chunks()
        for row in pending:
            device, slot = divmod(row.slot, sampler.slots)
            while not row.ready and used[device] < capacity:
                part = row.prompt[row.done : row.done + chunk]
                at = device * capacity + used[device]
                chunks.tokens[at, : len(part)] = part
                chunks.tables[at, : len(row.pages)] = row.pages
                chunks.slots[at], chunks.starts[at] = slot, row.done
                chunks.last[at] = len(part) - 1
                before, row.done = row.done, row.done + len(part)
                row.ready = row.done == len(row.prompt)
                chunks.final[at] = row.ready
                used[device] += 1
                self.prefill_tokens += len(part)
                self._admission.progress(row, before)
        return chunks if any(used) else None
