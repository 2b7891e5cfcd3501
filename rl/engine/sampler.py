"""The device side of generation: static programs, and the state that they advance.

Three programs, each compiled once: prefill (a few chunks of prompts into the cache),
copy (pages, and hidden states of slots), decode (up to ``decode_steps`` tokens for
every active slot in one dispatch). On a mesh, slots and pages are split between the
devices, each of which runs the same programs with its own copy of the parameters; all
numbers of slots and pages in the arguments are the device's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt32

from models import forward
from models.cache import Cache, copy_pages, init_cache
from models.cached_backends import LAYOUTS, Chosen
from models.config import DecoderConfig
from models.unstacked import unstack
from rl.engine.config import EngineConfig
from rl.engine.sampling import position_keys, row_keys, sample


@struct.dataclass
class State:
    """What stays on the device between dispatches (donated to each program).

    Attributes:
      cache: pages of keys and values.
      hidden: per slot, the hidden state after the last token in its pages: the next
        token is drawn from it.
    """

    cache: Cache
    hidden: Float[Array, "B D"]


@struct.dataclass
class Chunks:
    """Arguments of prefill, for R chunks per device; see ``forward.prefill``."""

    tokens: Int[Array, "R C"]
    tables: Int[Array, "R N"]
    slots: Int[Array, " R"]
    starts: Int[Array, " R"]
    last: Int[Array, " R"]
    final: Bool[Array, " R"]
    adapters: Int[Array, " R"]


@struct.dataclass
class Copies:
    """Arguments of copy: ``count`` pages, and where each slot's hidden comes from."""

    sources: Int[Array, " B"]
    targets: Int[Array, " B"]
    count: Int[Array, " 1"]
    hidden_from: Int[Array, " B"]


@struct.dataclass
class Controls:
    """Arguments of decode: what each slot is to do. ``stop_ids`` is padded with -1."""

    active: Bool[Array, " B"]
    tables: Int[Array, "B N"]
    positions: Int[Array, " B"]
    remaining: Int[Array, " B"]
    seeds: UInt32[Array, "B 2"]
    temperature: Float[Array, " B"]
    top_p: Float[Array, " B"]
    top_k: Int[Array, " B"]
    min_p: Float[Array, " B"]
    stop_ids: Int[Array, "B M"]
    adapters: Int[Array, " B"]


@struct.dataclass
class Sampled:
    """Result of decode: the first ``counts`` tokens of each slot are real."""

    tokens: Int[Array, "B T"]
    logprobs: Float[Array, "B T"]
    counts: Int[Array, " B"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """What the programs are compiled for.

    Attributes:
      config: the decoder.
      sizes: of the engine, over all devices.
      valid_vocab: ids from here on are never sampled.
      mesh: the slots are split over all of its devices.
      attention: over the cache, from ``cached_backends.choose``.
      adapters: how many low-rank adapters are among the parameters.
    """

    config: DecoderConfig
    sizes: EngineConfig
    valid_vocab: int
    mesh: Mesh | None = None
    attention: Chosen = "blocks"
    adapters: int = 0

    @property
    def devices(self) -> int:
        """How many devices share the slots."""
        return self.mesh.size if self.mesh else 1

    @property
    def slots(self) -> int:
        """Slots of each device."""
        return self.sizes.slots // self.devices

    @property
    def pages(self) -> int:
        """Pages of each device's cache."""
        return self.sizes.pages(self.devices)

    def place_params(self) -> Callable[[Any], Any]:
        """A jitted function from stacked parameters to copies on every device."""
        devices = self.mesh.devices.flat if self.mesh else jax.devices()
        on_cpu = next(iter(devices)).platform == "cpu"

        def place(params):
            params = unstack(params, self.config, weights_first=on_cpu)
            # A copy, as the trainer will donate its own buffers to the next update.
            return jax.tree.map(jnp.copy, params)

        return jax.jit(place, out_shardings=self.everywhere())

    def everywhere(self) -> NamedSharding | None:
        """The sharding of what every device has a copy of."""
        return self._sharding(PartitionSpec())

    def make_state(self, dtype: Any) -> Callable[[], State]:
        """A jitted function that makes an empty cache."""
        pages, slots = self.pages * self.devices, self.sizes.slots
        size, layout = self.sizes.page_size, LAYOUTS[self.attention]

        def make() -> State:
            return State(
                cache=init_cache(self.config, pages, size, dtype, layout),
                hidden=jnp.zeros((slots, self.config.hidden_size), dtype),
            )

        return jax.jit(make, out_shardings=self._sharding(self._split()))

    def new_chunks(self) -> Chunks:
        """Prefill arguments, in NumPy, all of which are padding."""
        rows = self.sizes.prefill_rows * self.devices
        return Chunks(
            tokens=np.zeros((rows, self.sizes.prefill_chunk), np.int32),
            tables=np.full((rows, self.sizes.table), self.pages, np.int32),
            slots=np.full(rows, self.slots, np.int32),
            starts=np.zeros(rows, np.int32),
            last=np.zeros(rows, np.int32),
            final=np.zeros(rows, bool),
            adapters=np.zeros(rows, np.int32),
        )

    def new_copies(self) -> Copies:
        """Copy arguments, in NumPy, that copy nothing."""
        slots = self.sizes.slots
        own = np.arange(self.slots, dtype=np.int32)
        return Copies(
            sources=np.zeros(slots, np.int32),
            targets=np.zeros(slots, np.int32),
            count=np.zeros(self.devices, np.int32),
            hidden_from=np.tile(own, self.devices),
        )

    def new_controls(self) -> Controls:
        """Decode arguments, in NumPy, with no active slot."""
        slots = self.sizes.slots
        return Controls(
            active=np.zeros(slots, bool),
            tables=np.full((slots, self.sizes.table), self.pages, np.int32),
            positions=np.zeros(slots, np.int32),
            remaining=np.zeros(slots, np.int32),
            seeds=np.zeros((slots, 2), np.uint32),
            temperature=np.ones(slots, np.float32),
            top_p=np.ones(slots, np.float32),
            top_k=np.zeros(slots, np.int32),
            min_p=np.zeros(slots, np.float32),
            stop_ids=np.full((slots, self.sizes.max_stop_ids), -1, np.int32),
            adapters=np.zeros(slots, np.int32),
        )

    def programs(self) -> dict[str, tuple[Any, Any]]:
        """Prefill, copy and decode, jitted, each with arguments of their shapes."""
        return {
            "prefill": (self._jit(self.prefill), self.new_chunks()),
            "copy": (self._jit(self.copy), self.new_copies()),
            "decode": (self._jit(self.decode), self.new_controls()),
        }

    def compile(self, params: Any, state: State) -> dict[str, Any]:
        """Compile every program for placed ``params`` ahead of its use."""
        return {
            name: program.lower(params, state, arguments).compile()
            for name, (program, arguments) in self.programs().items()
        }

    def prefill(self, params: Any, state: State, chunks: Chunks) -> tuple[State, None]:
        """Write chunks of prompts; keep the hidden state of those that end a prompt."""
        c, cache = chunks, state.cache
        cache, hidden = forward.prefill(
            params,
            self.config,
            cache,
            c.tokens,
            c.tables,
            c.starts,
            c.last,
            select=self.select(c.adapters),
        )
        ends = jnp.where(c.final, c.slots, self.slots)
        hidden = state.hidden.at[ends].set(hidden, mode="drop")
        return State(cache=cache, hidden=hidden), None

    def copy(self, _: Any, state: State, copies: Copies) -> tuple[State, None]:
        """Copy pages of the cache, and hidden states from slot to slot."""
        cache = copy_pages(state.cache, copies.sources, copies.targets, copies.count[0])
        return State(cache=cache, hidden=state.hidden[copies.hidden_from]), None

    def decode(
        self, params: Any, state: State, controls: Controls
    ) -> tuple[State, Sampled]:
        """Sample up to ``decode_steps`` tokens per slot, fewer when all are done."""
        c, config = controls, self.config
        base_keys, select = row_keys(c.seeds), self.select(c.adapters)
        shape = (self.slots, self.sizes.decode_steps)
        sampled = Sampled(
            tokens=jnp.zeros(shape, jnp.int32),
            logprobs=jnp.zeros(shape, jnp.float32),
            counts=jnp.zeros(self.slots, jnp.int32),
        )

        def unfinished(carry):
            step, _, active, _ = carry
            return (step < self.sizes.decode_steps) & jnp.any(active)

        def body(carry):
            step, state, active, sampled = carry
            positions = c.positions + step
            logits = forward.unembed(params, config, state.hidden)
            keys = position_keys(base_keys, positions)
            tokens, logprobs = sample(
                logits, keys, c.temperature, c.top_p, c.top_k, c.min_p, self.valid_vocab
            )
            sampled = Sampled(
                tokens=sampled.tokens.at[:, step].set(tokens),
                logprobs=sampled.logprobs.at[:, step].set(logprobs),
                counts=sampled.counts + active,
            )
            stopped = jnp.any(tokens[:, None] == c.stop_ids, axis=1)
            stopped |= ~jnp.isfinite(logprobs)
            active = active & ~stopped & (sampled.counts < c.remaining)
            cache, hidden = forward.decode_step(
                params,
                config,
                state.cache,
                tokens,
                c.tables,
                positions,
                active,
                attention=self.attention,
                select=select,
            )
            hidden = jnp.where(active[:, None], hidden, state.hidden)
            return step + 1, State(cache=cache, hidden=hidden), active, sampled

        with jax.named_scope("decode"):
            start = (jnp.int32(0), state, c.active, sampled)
            _, state, _, sampled = jax.lax.while_loop(unfinished, body, start)
        return state, sampled

    def select(self, adapters: Int[Array, " B"]) -> Bool[Array, "B A"] | None:
        """Which adapter each row has; none for a row of the model itself."""
        if not self.adapters:
            return None
        return adapters[:, None] == jnp.arange(1, self.adapters + 1)

    def _split(self) -> PartitionSpec:
        return PartitionSpec(self.mesh.axis_names) if self.mesh else PartitionSpec()

    def _sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        return NamedSharding(self.mesh, spec) if self.mesh else None

    def _jit(self, program):
        if self.mesh:
            split = self._split()
            program = jax.shard_map(
                program,
                mesh=self.mesh,
                in_specs=(PartitionSpec(), split, split),
                out_specs=(split, split),
                check_vma=False,  # loop bounds differ between devices, by design
            )
        return jax.jit(program, donate_argnums=1)
