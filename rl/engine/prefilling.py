"""Prompts into the cache: what to copy, what to compute, in which dispatch."""

from collections.abc import Sequence

from rl.engine.admission import Admission
from rl.engine.programs import Programs
from rl.engine.sampler import Chunks
from rl.engine.sequence import SequenceState


class Prefiller:
    """Brings the prompts of sequences that have a slot into the cache.

    Attributes:
      prefill_tokens: prompt tokens computed so far.
      cached_tokens: prompt tokens saved: found in the cache.
    """

    def __init__(self, programs: Programs, admission: Admission):
        self._programs, self._admission = programs, admission
        self.prefill_tokens = self.cached_tokens = 0

    def begin(self, sequences: Sequence[SequenceState]) -> None:
        """Copy what newly admitted sequences don't share, and the hidden states.

        Before anything else is computed: what they copy may be overwritten next.
        """
        sampler = self._programs.sampler
        copies, wanted = sampler.new_copies(), False
        for sequence in sequences:
            self.cached_tokens += sequence.cached
            device = self._admission.device(sequence)
            if sequence.page_from is not None:
                at = device * sampler.slots + copies.count[device]
                copies.sources[at] = sequence.page_from
                own = sequence.pages[sequence.done // sampler.sizes.page_size]
                copies.targets[at] = own
                copies.count[device] += 1
                wanted = True
            if sequence.hidden_from is not None:
                source = sequence.hidden_from % sampler.slots
                copies.hidden_from[sequence.slot] = source
                wanted = True
        if wanted:
            self._programs.run("copy", copies)

    def advance(self, pending: Sequence[SequenceState], *, calls: int) -> None:
        """Compute prompts, in at most ``calls`` prefill dispatches.

        Args:
          pending: sequences that are not ready, in order of admission.
        """
        for _ in range(calls):
            chunks = self._next_chunks([s for s in pending if not s.ready])
            if chunks is None:
                break
            self._programs.run("prefill", chunks)
        self._programs.wait()

    def _next_chunks(self, pending: Sequence[SequenceState]) -> Chunks | None:
        """The next chunks of prompts, as many as fit, or None."""
        sampler = self._programs.sampler
        chunk, capacity = sampler.sizes.prefill_chunk, sampler.sizes.prefill_rows
        used = [0] * sampler.devices
        chunks = sampler.new_chunks()
        for sequence in pending:
            device, slot = divmod(sequence.slot, sampler.slots)
            while not sequence.ready and used[device] < capacity:
                before = sequence.done
                part = sequence.prompt[before : before + chunk]
                at = device * capacity + used[device]
                chunks.tokens[at, : len(part)] = part
                chunks.tables[at, : len(sequence.pages)] = sequence.pages
                chunks.slots[at], chunks.starts[at] = slot, before
                chunks.adapters[at] = sequence.request.adapter
                chunks.last[at] = len(part) - 1
                sequence.done += len(part)
                sequence.ready = sequence.done == len(sequence.prompt)
                chunks.final[at] = sequence.ready
                used[device] += 1
                self.prefill_tokens += len(part)
                self._admission.progress(sequence, before)
        return chunks if any(used) else None
