"""Continuous batching: requests come and go, the slots of the sampler stay full.

One thread owns an engine (``rl.engine_thread``). What a request gets depends on the
request, the parameters and the engine's configuration, bit for bit, and on nothing
else: not on its slot, its company, its arrival, or whether its prefix was computed or
found. Three rules make it so. Every program has one shape; prompts are cut into chunks
at absolute positions; and only what prefill computed from whole chunks is ever shared
(a sampled token's cache entry, made by decoding, is recomputed when it comes back as
part of a prompt).

The cache is cut into pages (after arXiv:2309.06180): a sequence takes them as it grows,
not the room of the longest one; a prompt's pages are shared by all that begin with it,
and stay there for the next turn until somebody needs them.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from models.config import DecoderConfig
from models.hf_tokenizer import vocab_rows
from rl import rows
from rl.admission import Admission
from rl.engine_config import EngineConfig
from rl.forks import Forks
from rl.prefilling import Prefiller
from rl.programs import ProgramMemory, Programs
from rl.records import Completion, FinishReason, Request, SamplingParams
from rl.rows import Row
from rl.sampler import Sampler


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
    ):
        """Place ``params`` and allocate the cache.

        Args:
          params: stacked parameters; copied, so the caller may donate its own.
          tokenizer: gives text (``decode``) and the number of ids that may be sampled.
          mesh: the slots are split over all of its devices.

        Raises:
          UserError: when the sizes don't go together.
        """
        devices = mesh.size if mesh else 1
        e = engine_config
        pages = e.pages(devices)
        self.config = e
        self.tokenizer = tokenizer
        self.sampler = Sampler(
            config=config,
            slots=e.slots // devices,
            pages=pages,
            page_size=e.page_size,
            table=e.table,
            decode_steps=e.decode_steps,
            prefill_chunk=e.prefill_chunk,
            prefill_rows=e.prefill_rows,
            max_stop_ids=e.max_stop_ids,
            valid_vocab=min(vocab_rows(tokenizer), config.vocab_size),
            mesh=mesh,
        )
        self._programs = Programs(self.sampler, params["embed"].dtype)
        self._programs.set_params(params)
        self._admission = Admission(
            slots=e.slots // devices,
            pages=pages,
            devices=devices,
            page_size=e.page_size,
            chunk=e.prefill_chunk,
        )
        self._prefiller = Prefiller(self._programs, self._admission)
        self._controls = self.sampler.new_controls()
        self._next_id = 0
        self._running: dict[int, Row] = {}  # slot -> the row in it
        self._live: dict[int, Row] = {}  # id -> row without a completion
        self._cancelled: set[int] = set()
        self._finished: list[tuple[int, Completion]] = []
        self._forks = Forks(self._admission)
        self._decode_tokens = self._decode_steps = self._restarts = 0
        self._seconds = {"prefill": 0.0, "decode": 0.0}

    # -- what a caller does ------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether ``poll`` has nothing to do and nothing to return."""
        return not self._live and not self._finished

    def submit(self, request: Request) -> int:
        """Queue a request; its completion comes from ``poll`` under the returned id."""
        return self._submit(request, keep=False)

    def cancel(self, id: int) -> None:
        """End a request as "cancelled", with what it has; unknown ids are ignored."""
        if id in self._live:
            self._cancelled.add(id)

    def fork(self, source: int | Sequence[int]) -> int:
        """Retain the cache of a request (by id), or of prefix ids prefilled for this.

        Returns a handle for ``release`` and ``Request.fork_of``. Later requests whose
        prompts begin with the retained tokens share them. Where the cache gets full,
        the oldest are given up; a retained prefix saves time and changes no result.
        """
        if isinstance(source, int):
            handle, self._next_id = self._next_id, self._next_id + 1
            if source in self._live:
                self._forks.add(handle, source)
            return handle
        request = Request(ids=tuple(source), sampling=SamplingParams(max_new_tokens=1))
        handle = self._submit(request, keep=True)
        self._forks.add(handle, handle)
        return handle

    def release(self, handle: int) -> None:
        """Give up what ``fork`` retained."""
        self._forks.release(handle)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Submit, poll until all are done, and return completions in order.

        Completions of requests submitted otherwise stay for the next ``poll``.
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
          params: stacked parameters, or None: only give up the memory of the old ones
            and of the cache, until the next call; there must be no request in between.

        Raises:
          RuntimeError: while requests are unfinished: they would mix two models.
        """
        if self._live:
            raise RuntimeError(
                f"{len(self._live)} requests unfinished: poll until idle before "
                "set_params"
            )
        self._programs.set_params(params)
        self._forks.clear()
        self._admission.clear()

    def compile(self) -> dict[str, ProgramMemory]:
        """Compile every program now, so that nothing compiles later.

        Returns:
          what each of them needs on a device, by name.
        """
        self._programs.compile()
        return self._programs.memory()

    def stats(self) -> dict[str, float]:
        """Totals since the start, tokens per second, and what is in flight."""
        tokens = {
            "prefill": self._prefiller.prefill_tokens,
            "decode": self._decode_tokens,
        }
        totals = {
            "perf/cached_tokens": float(self._prefiller.cached_tokens),
            "perf/decode_steps": float(self._decode_steps),
            "perf/restarts": float(self._restarts),
            "perf/waiting": float(len(self._admission.waiting)),
            "perf/running": float(len(self._running)),
        }
        for name, seconds in self._seconds.items():
            totals[f"perf/{name}_tokens"] = float(tokens[name])
            totals[f"perf/{name}_seconds"] = seconds
            rate = tokens[name] / max(seconds, 1e-9)
            totals[f"perf/{name}_tokens_per_second"] = rate
        return totals

    def poll(self) -> list[tuple[int, Completion]]:
        """Advance the work by one decode dispatch; return what has finished.

        What is wrong with a request ends that request, typed; it never raises here.
        """
        self._programs.compile()
        self._expire()
        self._prefill()
        self._decode()
        finished, self._finished = self._finished, []
        return finished

    # -- admission ---------------------------------------------------------------------

    def _submit(self, request: Request, *, keep: bool) -> int:
        id, self._next_id = self._next_id, self._next_id + 1
        reason = rows.refusal(
            request,
            vocab=self.sampler.config.vocab_size,
            max_length=self.config.max_length,
            max_stop_ids=self.config.max_stop_ids,
        )
        if reason:
            if not keep:
                self._finished.append((id, rows.refused(reason)))
            return id
        prompt = np.asarray(request.ids, np.int32)
        self._live[id] = row = Row(id=id, request=request, prompt=prompt, keep=keep)
        self._admission.wait(row)
        return id

    def _expire(self) -> None:
        now = time.monotonic()
        for id, row in list(self._live.items()):
            deadline = row.request.deadline
            if id in self._cancelled or (deadline is not None and now >= deadline):
                if row.slot < 0:
                    self._admission.waiting.remove(row)
                self._finish(row, "cancelled")
        self._cancelled.clear()

    def _admit(self) -> bool:
        """Let rows in; whether there were any."""
        rows = self._admission.admit()
        while not rows and self._admission.waiting and not self._running:
            if not self._forks.give_up():  # the only ones who can be in the way
                break
            rows = self._admission.admit()
        for row in rows:
            self._running[row.slot] = row
            self._control(row)
        self._prefiller.begin(rows)
        return bool(rows)

    def _control(self, row: Row) -> None:
        """Tell the decode loop about a row that is new in its slot."""
        c, s, slot = self._controls, row.request.sampling, row.slot
        length = len(row.prompt)
        c.positions[slot] = length
        c.remaining[slot] = min(s.max_new_tokens, self.config.max_length - length)
        seed = row.request.seed64
        c.seeds[slot] = (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF
        c.temperature[slot], c.min_p[slot] = s.temperature, s.min_p
        c.top_p[slot], c.top_k[slot] = s.top_p, s.top_k
        self._list_pages(row)
        c.stop_ids[slot] = -1
        c.stop_ids[slot, : len(row.request.stop_ids)] = row.request.stop_ids

    def _list_pages(self, row: Row) -> None:
        self._controls.tables[row.slot, : len(row.pages)] = row.pages

    # -- work --------------------------------------------------------------------------

    def _prefill(self) -> None:
        """Let rows in and bring their prompts into the cache."""
        started = time.perf_counter()
        worked = self._admit()
        while pending := [row for row in self._running.values() if not row.ready]:
            worked = True
            self._prefiller.advance(pending, calls=self.config.prefill_calls)
            # Who waited for what was computed can share it now.
            if not all(row.ready for row in pending) or not self._admit():
                break
        for row in list(self._running.values()):
            if row.keep and row.ready:
                self._leave(row)
        if worked:
            self._seconds["prefill"] += time.perf_counter() - started

    def _make_room(self) -> None:
        """Pages for the next dispatch's tokens of every row, the oldest first."""
        c = self._controls
        for row in sorted(self._running.values(), key=lambda row: row.order):
            if not row.ready:  # nor is one that has just been sent back
                continue
            # The last token that a row may sample is not written.
            steps = min(self.config.decode_steps, int(c.remaining[row.slot]) - 1)
            length = int(c.positions[row.slot]) + steps
            while row.slot >= 0 and not self._admission.grow(row, length):
                if not self._forks.give_up(self._admission.device(row)):
                    self._restart_latest(self._admission.device(row))
            if row.slot >= 0:
                self._list_pages(row)

    def _restart_latest(self, device: int) -> None:
        """Send the device's latest row back to wait, so that others get its pages."""
        rows = self._running.values()
        there = (row for row in rows if self._admission.device(row) == device)
        latest = max(there, key=lambda row: row.order)
        del self._running[latest.slot]
        self._admission.again(latest)
        self._restarts += 1

    def _decode(self) -> None:
        """One dispatch of the decode loop for every ready row; retire what is done."""
        started = time.perf_counter()
        self._make_room()
        ready = [row for row in self._running.values() if row.ready]
        if not ready:
            return
        slots = np.asarray([row.slot for row in ready])
        self._controls.active[:] = False
        self._controls.active[slots] = True
        sampled = self._programs.run("decode", self._controls)
        tokens, logprobs = np.asarray(sampled.tokens), np.asarray(sampled.logprobs)
        counts = np.asarray(sampled.counts)
        self._controls.positions[slots] += counts[slots]
        self._controls.remaining[slots] -= counts[slots]
        self._decode_steps += int(counts.max())
        for row in ready:
            self._admission.decoded(row)
            count, before = counts[row.slot], len(row.ids)
            row.ids += tokens[row.slot, :count].tolist()
            row.logprobs += logprobs[row.slot, :count].tolist()
            room = self._controls.remaining[row.slot] > 0
            ending = rows.end(self.tokenizer, row, before, room=room)
            self._decode_tokens += len(row.ids) - before
            if ending:
                self._finish(row, *ending)
        self._seconds["decode"] += time.perf_counter() - started

    def _finish(self, row: Row, reason: FinishReason, stop: str | None = None) -> None:
        """Hand out the row's completion and free its slot."""
        if not row.keep:
            done = rows.completion(self.tokenizer, row, reason, stop)
            self._finished.append((row.id, done))
        self._leave(row)

    def _leave(self, row: Row) -> None:
        del self._live[row.id]
        self._forks.left(row)
        if row.slot >= 0:
            del self._running[row.slot]
            self._admission.leave(row)
