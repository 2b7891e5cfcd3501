"""Continuous batching: requests come and go, the slots of the sampler stay full.

One thread owns an engine (``rl.engine.thread``). What a request gets depends on the
request, the parameters and the engine's configuration, bit for bit, and on nothing
else: not on its slot, the requests beside it, its arrival, or whether its prefix was
computed or found in the cache. Three rules make it so. Every program has one shape;
prompts are cut into chunks at absolute positions; and only what prefill computed from
whole chunks is ever shared (a sampled token's cache entry, made by decoding, is
recomputed when the token comes back as part of a prompt).

The cache is cut into pages (after arXiv:2309.06180): a sequence allocates them as it
grows, instead of room for the longest one; a prompt's pages are shared by all that
begin with it, and stay there for the next turn until the room is needed.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from models import cached_backends
from models.config import DecoderConfig
from models.hf.tokenizer import vocab_rows
from models.lora import LoraConfig
from rl.engine.admission import Admission
from rl.engine.config import EngineConfig
from rl.engine.prefilling import Prefiller
from rl.engine.programs import ProgramMemory, Programs
from rl.engine.sampler import Sampler
from rl.engine.scoring import Scorer, Scores
from rl.engine.sequence import SequenceState, refusal
from rl.engine.work import Work
from rl.records import Completion, FinishReason, Request


class Engine:
    """Samples completions for requests; see the module's docstring for its promise."""

    def __init__(
        self,
        params: Any,
        config: DecoderConfig,
        tokenizer: Any,
        engine_config: EngineConfig,
        *,
        mesh: Mesh | None = None,
        lora: LoraConfig | None = None,
        adapters: int = 0,
        take: bool = False,
    ):
        """Place ``params``; the cache is allocated when it is first needed.

        Args:
          params: stacked parameters; copied, so the caller may donate its own.
          tokenizer: gives text (``decode``) and the number of ids that may be sampled.
          mesh: the slots are split over all of its devices.
          lora, adapters: shape and number of low-rank adapters, see ``set_adapter``.
          take: free the memory of ``params``, which the caller no longer needs.

        Raises:
          UserError: if the sizes don't fit together, or ``engine_config.attention``
            can't run here.
        """
        self.config = engine_config
        self.tokenizer = tokenizer
        devices = mesh.devices.flat if mesh else jax.devices()
        self.sampler = Sampler(
            config=config,
            sizes=engine_config,
            valid_vocab=min(vocab_rows(tokenizer), config.vocab_size),
            mesh=mesh,
            attention=cached_backends.choose(
                engine_config.attention,
                head_dim=config.head_dim,
                page_size=engine_config.page_size,
                dtype=params["embed"].dtype,
                device=devices[0],
            ),
            adapters=adapters,
        )
        self._programs = Programs(self.sampler, params, lora=lora, take=take)
        self.scorer = Scorer(self.sampler, self._programs.whole)
        self._admission = Admission(
            slots=self.sampler.slots,
            pages=self.sampler.pages,
            devices=self.sampler.devices,
            page_size=engine_config.page_size,
            chunk=engine_config.prefill_chunk,
            adapters=adapters,
        )
        self._prefiller = Prefiller(self._programs, self._admission)
        self._controls = self.sampler.new_controls()
        self._next_id = 0
        self._running: dict[int, SequenceState] = {}  # by slot
        self._live: dict[int, SequenceState] = {}  # without a completion, by id
        self._cancelled: set[int] = set()
        self._finished: list[tuple[int, Completion]] = []
        self._work = Work()

    @property
    def attention(self) -> str:
        """How it attends to its cache, and in which numbers, for people."""
        return f"{self.sampler.attention}, in {self.dtype}"

    @property
    def dtype(self) -> str:
        """What parameters and cache are held in."""
        return str(self._programs.dtype)

    # -- what a caller does ------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether ``poll`` has nothing to do and nothing to return."""
        return not self._live and not self._finished

    def submit(self, request: Request) -> int:
        """Queue a request; its completion comes from ``poll`` under the returned id."""
        id, self._next_id = self._next_id, self._next_id + 1
        refused = refusal(
            request,
            vocab=self.sampler.config.vocab_size,
            max_length=self.config.max_length,
            max_stop_ids=self.config.max_stop_ids,
            adapters=self.sampler.adapters,
        )
        if refused:
            self._finished.append((id, refused))
            return id
        prompt = np.asarray(request.ids, np.int32)
        sequence = SequenceState(id=id, request=request, prompt=prompt)
        self._live[id] = sequence
        self._admission.add(sequence)
        return id

    def cancel(self, id: int) -> None:
        """End a request as "cancelled", with what it has; ignore unknown ids."""
        if id in self._live:
            self._cancelled.add(id)

    def sampled(self, id: int) -> tuple[int, ...]:
        """Token ids that an unfinished request has so far; a restart takes them back.

        The same ones come again: what was there may be shown already.
        """
        return tuple(self._live[id].ids) if id in self._live else ()

    def score(self, ids: Sequence[int], temperature: float, **options: int) -> Scores:
        """Log-probs of all of ``ids`` but the first; see ``rl.engine.scoring``."""
        return self.scorer.run(self._programs.whole, ids, temperature, **options)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Submit, poll until all are done, and return completions in order.

        Completions of other requests are kept for the next ``poll``.
        """
        ids = [self.submit(request) for request in requests]
        wanted, found, others = set(ids), {}, []
        while len(found) < len(wanted):
            for id, completion in self.poll():
                if id in wanted:
                    found[id] = completion
                else:
                    others.append((id, completion))
        self._finished += others
        return [found[id] for id in ids]

    def set_params(self, params: Any) -> None:
        """Swap the weights; same shapes, no compilation. Forgets all shared prefixes.

        Args:
          params: stacked parameters, or None: only free the memory of the old ones and
            of the cache, until the next call; there must be no request in between.

        Raises:
          RuntimeError: while requests are unfinished: they would mix two models.
        """
        if self._live:
            raise RuntimeError(
                f"{len(self._live)} requests unfinished: poll until idle before "
                "set_params"
            )
        self._programs.set_params(params)
        for adapter in self._admission.versions:
            self._admission.versions[adapter] += 1
        self._admission.clear()

    def set_adapter(self, number: int, adapter: Any) -> None:
        """Swap one adapter; what it has computed is forgotten, and nothing else.

        Args:
          number: from 1; what ``Request.adapter`` says.
          adapter: as from ``models.lora.scaled``; None: nothing is added to the model.
        """
        if any(s.request.adapter == number for s in self._live.values()):
            raise RuntimeError(f"adapter {number} has unfinished requests")
        self._programs.set_adapter(number, adapter)
        self._admission.forget(number)

    def free_cache(self) -> None:
        """Free the cache's memory until there is work; there must be none now."""
        assert not self._live, "requests are unfinished"
        self._programs.free_cache()
        self._admission.clear()

    @property
    def params(self) -> Any:
        """The model's parameters as they are placed, see ``unstack``."""
        return self._programs.params

    def weights(self, adapter: int = 0) -> tuple[tuple[int, ...], int]:
        """The fingerprint of an adapter (0: the model), and pages of other weights."""
        return self._programs.fingerprint(adapter), self._admission.stale_pages()

    def compile(self) -> dict[str, ProgramMemory]:
        """Compile every program now, so that nothing compiles later.

        Returns:
          what each program needs on a device, by name.
        """
        self._programs.compile()
        return self._programs.memory()

    def stats(self) -> dict[str, float]:
        """Totals since the start, tokens per second, and what is in flight."""
        return self._work.stats(
            prefill_tokens=self._prefiller.prefill_tokens,
            cached_tokens=self._prefiller.cached_tokens,
            waiting=len(self._admission.waiting),
            running=len(self._running),
        )

    def poll(self) -> list[tuple[int, Completion]]:
        """Advance the work by one decode dispatch; return what has finished.

        A bad request ends with a finish reason; it never raises here.
        """
        self._programs.compile()
        self._expire()
        self._prefill()
        self._decode()
        finished, self._finished = self._finished, []
        return finished

    # -- admission ---------------------------------------------------------------------

    def _expire(self) -> None:
        now = time.monotonic()
        for id, sequence in list(self._live.items()):
            deadline = sequence.request.deadline
            if id in self._cancelled or (deadline is not None and now >= deadline):
                if sequence.slot < 0:
                    self._admission.waiting.remove(sequence)
                self._finish(sequence, "cancelled")
        self._cancelled.clear()

    def _admit(self) -> bool:
        """Admit what has room; whether there was anything."""
        admitted = self._admission.admit()
        for sequence in admitted:
            self._running[sequence.slot] = sequence
            sequence.write_controls(self._controls, self.config.max_length)
        self._prefiller.begin(admitted)
        return bool(admitted)

    # -- work --------------------------------------------------------------------------

    def _prefill(self) -> None:
        """Admit sequences and bring their prompts into the cache."""
        started = time.perf_counter()
        worked = self._admit()
        while pending := [s for s in self._running.values() if not s.ready]:
            worked = True
            self._prefiller.advance(pending, calls=self.config.prefill_calls)
            # Whoever waited for what was computed can share it now.
            if not all(s.ready for s in pending) or not self._admit():
                break
        if worked:
            self._work.seconds["prefill"] += time.perf_counter() - started

    def _make_room(self) -> None:
        """Pages for the next dispatch's tokens of every sequence, the oldest first."""
        c = self._controls
        for sequence in sorted(self._running.values(), key=lambda s: s.order):
            if not sequence.ready:  # nor is one that has just been sent back
                continue
            # The last token that a sequence may sample is not written.
            steps = min(self.config.decode_steps, int(c.remaining[sequence.slot]) - 1)
            length = int(c.positions[sequence.slot]) + steps
            while sequence.slot >= 0 and not self._admission.grow(sequence, length):
                self._restart_latest(self._admission.device(sequence))
            if sequence.slot >= 0:
                c.tables[sequence.slot, : len(sequence.pages)] = sequence.pages

    def _restart_latest(self, device: int) -> None:
        """Send the device's latest sequence back, so that others get its pages."""
        running = self._running.values()
        there = (s for s in running if self._admission.device(s) == device)
        latest = max(there, key=lambda s: s.order)
        del self._running[latest.slot]
        self._admission.requeue(latest)
        self._work.restarts += 1

    def _decode(self) -> None:
        """One dispatch of the decode loop; finish the sequences that are done."""
        started = time.perf_counter()
        self._make_room()
        ready = [s for s in self._running.values() if s.ready]
        if not ready:
            return
        c = self._controls
        slots = np.asarray([s.slot for s in ready])
        c.active[:] = False
        c.active[slots] = True
        sampled = self._programs.run("decode", c)
        tokens, logprobs = np.asarray(sampled.tokens), np.asarray(sampled.logprobs)
        counts = np.asarray(sampled.counts)
        c.positions[slots] += counts[slots]
        c.remaining[slots] -= counts[slots]
        self._work.decode_steps += int(counts.max())
        for sequence in ready:
            self._admission.decoded(sequence)
            slot, before = sequence.slot, len(sequence.ids)
            sequence.ids += tokens[slot, : counts[slot]].tolist()
            sequence.logprobs += logprobs[slot, : counts[slot]].tolist()
            room = c.remaining[slot] > 0
            end = sequence.finish_reason(self.tokenizer, before, room=room)
            self._work.decode_tokens += len(sequence.ids) - before
            if end:
                self._work.non_finite += end[0] == "error"
                self._finish(sequence, *end)
        self._work.seconds["decode"] += time.perf_counter() - started

    def _finish(
        self, sequence: SequenceState, reason: FinishReason, stop: str | None = None
    ) -> None:
        """Hand out the completion and free the slot."""
        done = sequence.completion(self.tokenizer, reason, stop)
        self._finished.append((sequence.id, done))
        del self._live[sequence.id]
        if sequence.slot >= 0:
            del self._running[sequence.slot]
            self._admission.release(sequence)
