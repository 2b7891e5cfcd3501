"""Continuous batching: requests come and go, the slots of the sampler stay full.

One thread owns an engine (``rl.engine_thread``). What a request gets depends on the
request, the parameters and the engine's configuration, bit for bit, and on nothing
else: not on its slot, its company, its arrival, or whether its prefix was computed or
copied. Three rules make it so. Every program has one shape; prompts are cut into chunks
at absolute positions; and only what prefill computed from whole chunks is ever shared
(a sampled token's cache entry, made by decoding, is recomputed when it comes back as
part of a prompt).
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from models.config import DecoderConfig
from models.errors import UserError
from rl.prefixes import PrefixTable
from rl.records import Completion, Request, SamplingParams
from rl.sampler import Sampler
from rl.stopping import decode, find_stop, first_stop


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Sizes of an engine; every program is compiled for exactly these.

    Attributes:
      slots: sequences decoded together, over all devices.
      max_length: longest prompt plus completion, in tokens.
      decode_steps: tokens a slot may gain per dispatch; in between, the host looks for
        stop strings, retires and admits.
      prefill_chunk: tokens a prompt is cut into, at absolute positions; the unit in
        which prefixes are shared.
      prefill_rows: chunks per prefill dispatch and device.
      prefill_calls: most prefill dispatches between two decode dispatches.
      cache_block: positions of the cache read at a time.
      max_stop_ids: most stop ids of a request.
    """

    slots: int = 64
    max_length: int = 1024
    decode_steps: int = 8
    prefill_chunk: int = 64
    prefill_rows: int = 4
    prefill_calls: int = 64
    cache_block: int = 128
    max_stop_ids: int = 8


@dataclass
class _Row:
    """A request on its way: waiting, then in a slot, until it has a Completion."""

    id: int
    request: Request
    prompt: np.ndarray
    digests: tuple[bytes, ...]
    keep: bool = False  # a prefix: prefilled and retained, never decoded
    slot: int = -1
    done: int = 0  # prompt tokens in the cache
    ready: bool = False  # the prompt's last hidden state is there too
    cached: int = 0  # prompt tokens that were copied
    source: int | None = None  # slot to copy from, once it is far enough
    wanted: int = 0  # tokens to copy
    whole: bool = False  # copy the unfinished last chunk and the hidden state as well
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


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
          UserError: when the slots cannot be split evenly.
        """
        devices = mesh.size if mesh else 1
        e = engine_config
        if e.slots % devices:
            raise UserError(
                f"slots={e.slots}: not a multiple of {devices} devices: change it"
            )
        unit = math.lcm(e.prefill_chunk, e.cache_block)
        self.config = e
        self.tokenizer = tokenizer
        self.sampler = Sampler(
            config=config,
            slots=e.slots // devices,
            length=-(-e.max_length // unit) * unit,
            decode_steps=e.decode_steps,
            prefill_chunk=e.prefill_chunk,
            prefill_rows=e.prefill_rows,
            copies=4 * e.slots // devices,
            cache_block=e.cache_block,
            max_stop_ids=e.max_stop_ids,
            valid_vocab=min(len(tokenizer), config.vocab_size),
            mesh=mesh,
        )
        self._place = self.sampler.place_params()
        self.set_params(params)
        self._state = self.sampler.new_state(params["embed"].dtype)
        self._programs: dict[str, Any] = {}
        self._controls = self.sampler.new_controls()
        self._prefixes = PrefixTable(
            slots=e.slots, devices=devices, chunk=e.prefill_chunk
        )
        self._next_id = 0
        self._waiting: deque[_Row] = deque()
        self._rows: dict[int, _Row] = {}  # slot -> the row in it
        self._live: dict[int, _Row] = {}  # id -> row without a completion
        self._cancelled: set[int] = set()
        self._finished: list[tuple[int, Completion]] = []
        self._handles: dict[int, int] = {}  # fork handle -> id whose slot it retains
        self._counts = dict.fromkeys(
            ("prefill_tokens", "cached_tokens", "decode_tokens", "decode_steps"), 0
        )
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
        prompts begin with the retained tokens copy them. At most half of the slots are
        retained, the latest; a retained prefix saves time and changes no result.
        """
        if isinstance(source, int):
            handle, self._next_id = self._next_id, self._next_id + 1
            self._handles[handle] = source
            return handle
        request = Request(ids=tuple(source), sampling=SamplingParams(max_new_tokens=1))
        handle = self._submit(request, keep=True)
        self._handles[handle] = handle
        return handle

    def release(self, handle: int) -> None:
        """Give up what ``fork`` retained."""
        self._handles.pop(handle, None)

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
          params: stacked parameters, or None: only give up the memory of the old ones,
            until the next call; there must be no request in between.

        Raises:
          RuntimeError: while requests are unfinished: they would mix two models.
        """
        if getattr(self, "_live", None):
            raise RuntimeError(
                f"{len(self._live)} requests unfinished: poll until idle before "
                "set_params"
            )
        self._params = None  # before the new ones are made: not both in memory
        if params is not None:
            self._params = self._place(params)
        if hasattr(self, "_prefixes"):
            self._prefixes.clear()

    def compile(self) -> None:
        """Compile every program now, so that nothing compiles later."""
        if not self._programs:
            self._programs = self.sampler.compile(self._params, self._state)

    def stats(self) -> dict[str, float]:
        """Totals since the start, tokens per second, and what is in flight."""
        totals = {f"perf/{name}": float(n) for name, n in self._counts.items()}
        for name, seconds in self._seconds.items():
            tokens = self._counts[f"{name}_tokens"]
            totals[f"perf/{name}_seconds"] = seconds
            totals[f"perf/{name}_tokens_per_second"] = tokens / max(seconds, 1e-9)
        totals["perf/waiting"] = float(len(self._waiting))
        totals["perf/running"] = float(len(self._rows))
        return totals

    def poll(self) -> list[tuple[int, Completion]]:
        """Advance the work by one decode dispatch; return what has finished.

        What is wrong with a request ends that request, typed; it never raises here.
        """
        self.compile()
        self._expire()
        self._admit()
        self._prefill()
        self._decode()
        finished, self._finished = self._finished, []
        return finished

    # -- admission ---------------------------------------------------------------------

    def _submit(self, request: Request, *, keep: bool) -> int:
        id, self._next_id = self._next_id, self._next_id + 1
        reason = self._refuse(request)
        if reason:
            empty = Completion(ids=(), logprobs=(), text="", finish_reason=reason)
            if not keep:
                self._finished.append((id, empty))
            return id
        prompt = np.asarray(request.ids, np.int32)
        digests = self._prefixes.digests(prompt)
        row = _Row(id=id, request=request, prompt=prompt, digests=digests, keep=keep)
        self._live[id] = row
        self._waiting.append(row)
        return id

    def _refuse(self, request: Request) -> str | None:
        """Why it cannot run: "error" (malformed), "length" (no room), or None."""
        s = request.sampling
        vocab = self.sampler.config.vocab_size
        if (
            not request.ids
            or not 0 <= min(request.ids) <= max(request.ids) < vocab
            or len(request.stop_ids) > self.config.max_stop_ids
            or not (math.isfinite(s.temperature) and s.temperature >= 0)
            or not 0 < s.top_p <= 1
            or not 0 <= s.min_p <= 1
            or s.top_k < 0
        ):
            return "error"
        if len(request.ids) >= self.config.max_length or s.max_new_tokens < 1:
            return "length"
        return None

    def _expire(self) -> None:
        now = time.monotonic()
        for id, row in list(self._live.items()):
            deadline = row.request.deadline
            if id in self._cancelled or (deadline is not None and now >= deadline):
                if row.slot < 0:
                    self._waiting.remove(row)
                self._finish(row, "cancelled")
        self._cancelled.clear()

    def _admit(self) -> None:
        # Half of the slots at most, the latest: the others must be able to go on.
        excess = max(0, len(self._handles) - self.config.slots // 2)
        retained = set(list(self._handles.values())[excess:])
        while self._waiting:
            row = self._waiting[0]
            choice = self._prefixes.place(
                row.digests, busy=self._rows.keys(), retained=retained
            )
            if choice is None:
                return
            self._waiting.popleft()
            self._start(row, *choice)

    def _start(self, row: _Row, slot: int, source: int | None, chunks: int) -> None:
        """Put a row into a slot, to take ``chunks`` digests' worth from ``source``."""
        chunk = self.config.prefill_chunk
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
        self._rows[slot] = row
        c, s = self._controls, row.request.sampling
        c.positions[slot] = length
        c.remaining[slot] = min(s.max_new_tokens, self.config.max_length - length)
        seed = row.request.seed64
        c.seeds[slot] = (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF
        c.temperature[slot], c.min_p[slot] = s.temperature, s.min_p
        c.top_p[slot], c.top_k[slot] = s.top_p, s.top_k
        c.stop_ids[slot] = -1
        c.stop_ids[slot, : len(row.request.stop_ids)] = row.request.stop_ids

    def _took(self, row: _Row) -> None:
        """What the row wanted from another slot is in its own."""
        row.done = row.cached = row.wanted
        row.ready, row.source = row.whole, None
        self._counts["cached_tokens"] += row.cached
        self._prefixes.progress(row.slot, row.done, row.ready)

    # -- prefill -----------------------------------------------------------------------

    def _prefill(self) -> None:
        """Copy and compute prompts, up to ``prefill_calls`` dispatches."""
        pending = [row for row in self._rows.values() if not row.ready]
        if not pending:
            return
        started = time.perf_counter()
        for _ in range(self.config.prefill_calls):
            self._copy_ready([row for row in pending if row.source is not None])
            pending = [row for row in pending if not row.ready]
            chunks = self._next_chunks(pending)
            if chunks is None:
                break
            self._run("prefill", chunks)
        self._copy_ready([row for row in pending if row.source is not None])
        jax.block_until_ready(self._state.hidden)
        self._seconds["prefill"] += time.perf_counter() - started
        for row in list(self._rows.values()):
            if row.keep and row.ready:
                self._leave(row)

    def _next_chunks(self, pending: list[_Row]) -> Any:
        """The next chunks of prompts that wait for nobody, as many as fit, or None."""
        chunk, capacity = self.config.prefill_chunk, self.config.prefill_rows
        used = [0] * self.sampler.devices
        chunks = self.sampler.new_chunks()
        for row in pending:
            device, slot = divmod(row.slot, self.sampler.slots)
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
                self._counts["prefill_tokens"] += len(part)
                self._prefixes.progress(row.slot, row.done, row.ready)
        return chunks if any(used) else None

    def _copy_ready(self, followers: list[_Row]) -> None:
        """Copy into the rows whose sources have what they want."""
        ready = []
        for row in followers:
            if self._prefixes.holds(row.source, row.wanted, row.whole):
                ready.append(row)
            elif row.source not in self._rows:  # cancelled on the way: compute it
                self._prefixes.hold(row.source, -1)
                row.source, row.wanted = None, 0
        chunk, limit = self.config.prefill_chunk, self.sampler.copies
        moves = [(row, at) for row in ready for at in range(0, row.wanted, chunk)]
        for first in range(0, len(moves), limit):
            copies = self.sampler.new_copies()
            for row, start in moves[first : first + limit]:
                device, slot = divmod(row.slot, self.sampler.slots)
                source = row.source % self.sampler.slots
                at = device * limit + copies.count[device]
                copies.sources[at], copies.targets[at] = source, slot
                copies.starts[at] = start
                copies.count[device] += 1
                if row.whole:
                    copies.hidden_from[row.slot] = source
            self._run("copy", copies)
        for row in ready:
            self._prefixes.hold(row.source, -1)
            self._took(row)

    # -- decode ------------------------------------------------------------------------

    def _decode(self) -> None:
        """One dispatch of the decode loop for every ready row; retire what is done."""
        rows = [row for row in self._rows.values() if row.ready]
        if not rows:
            return
        started = time.perf_counter()
        slots = np.asarray([row.slot for row in rows])
        self._controls.active[:] = False
        self._controls.active[slots] = True
        sampled = self._run("decode", self._controls)
        tokens, logprobs = np.asarray(sampled.tokens), np.asarray(sampled.logprobs)
        counts = np.asarray(sampled.counts)
        self._controls.positions[slots] += counts[slots]
        self._controls.remaining[slots] -= counts[slots]
        self._counts["decode_steps"] += int(counts.max())
        for row in rows:
            self._prefixes.decoded(row.slot)
            count, before = counts[row.slot], len(row.ids)
            row.ids += tokens[row.slot, :count].tolist()
            row.logprobs += logprobs[row.slot, :count].tolist()
            self._retire(row, before)
            self._counts["decode_tokens"] += len(row.ids) - before
        self._seconds["decode"] += time.perf_counter() - started

    def _retire(self, row: _Row, before: int) -> None:
        """Finish the row if one of its tokens from ``before`` on ends it."""
        request = row.request
        by_id = row.ids[-1] in request.stop_ids
        text_ids = row.ids[:-1] if by_id else row.ids
        found = find_stop(self.tokenizer, text_ids, before, request.stop)
        if found:
            end, stop = found
            del row.ids[end:], row.logprobs[end:]
            self._finish(row, "stop", stop)
        elif by_id:
            self._finish(row, "stop")
        elif self._controls.remaining[row.slot] <= 0:
            self._finish(row, "length")

    def _finish(self, row: _Row, reason: str, stop: str | None = None) -> None:
        """Hand out the row's completion and free its slot."""
        by_id = reason == "stop" and stop is None
        text = decode(self.tokenizer, row.ids[:-1] if by_id else row.ids)
        if stop is not None:
            end, stop = first_stop(text, row.request.stop)
            text = text[:end]
        completion = Completion(
            ids=tuple(row.ids),
            logprobs=tuple(row.logprobs),
            text=text,
            finish_reason=reason,
            stop_string=stop,
            prompt_tokens=len(row.prompt),
            cached_tokens=row.cached,
        )
        if not row.keep:
            self._finished.append((row.id, completion))
        self._leave(row)

    def _leave(self, row: _Row) -> None:
        del self._live[row.id]
        if row.slot >= 0:
            del self._rows[row.slot]
            self._prefixes.free(row.slot)
            if row.source is not None:
                self._prefixes.hold(row.source, -1)

    def _run(self, name: str, arguments: Any) -> Any:
        """Dispatch a compiled program on the state."""
        program = self._programs[name]
        self._state, result = program(self._params, self._state, arguments)
        return result
