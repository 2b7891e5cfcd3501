"""The compiled programs of an engine, with the parameters and the state they run on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from models.fingerprint import fingerprint
from models.lora import LoraConfig
from rl.engine.adapters import Adapters
from rl.engine.sampler import Sampler, State


@dataclass(frozen=True, kw_only=True)
class ProgramMemory:
    """What one compiled program needs on each device, in bytes.

    Attributes:
      arguments: parameters, state and controls; donated state counts here.
      temporary: alive only while it runs.
    """

    arguments: int
    temporary: int


def describe(memory: Mapping[str, ProgramMemory]) -> str:
    """One line: what the programs hold together, and what each adds while it runs."""
    held = max(program.arguments for program in memory.values()) / 2**20
    added = (f"{name} {m.temporary / 2**20:,.0f} MB" for name, m in memory.items())
    return f"{held:,.0f} MB of parameters and cache; while it runs, {', '.join(added)}"


class Programs:
    """Runs ``sampler``'s programs: compiled once, with a state that stays in here."""

    def __init__(
        self,
        sampler: Sampler,
        params: Any,
        *,
        lora: LoraConfig | None = None,
        take: bool = False,
    ):
        self.sampler = sampler
        self.dtype = params["embed"].dtype
        self._make_state = sampler.make_state(self.dtype)
        self._place = sampler.place_params()
        self._fingerprint = jax.jit(fingerprint)
        self._compiled: dict[str, Any] = {}
        self._adapters = Adapters(sampler, lora, self.dtype) if lora else None
        self._state: State | None = None
        self.set_params(params, take=take)

    def set_params(self, params: Any, *, take: bool = False) -> None:
        """Place stacked parameters on every device.

        None only frees the memory of the old ones, and of the cache.

        Args:
          take: free the memory of ``params``, which the caller no longer needs.
        """
        self._params = None  # before the new ones are made: not both in memory
        if params is None:
            self._state = None
            return
        self._params = self._place(params)
        if take:
            jax.block_until_ready(self._params)
            jax.tree.map(lambda x: x.delete(), params)

    def set_adapter(self, number: int, adapter: Any) -> None:
        """Put an adapter, scaled, into its place; None empties it."""
        self._adapters.put(number, adapter)

    def free_cache(self) -> None:
        """Free the cache's memory until the next dispatch."""
        self._state = None

    @property
    def params(self) -> Any:
        """The placed parameters, without adapters."""
        return self._params

    @property
    def state(self) -> State:
        """The cache, which is allocated when it is needed."""
        if self._state is None:
            self._state = self._make_state()
        return self._state

    def fingerprint(self, adapter: int = 0) -> tuple[int, ...]:
        """Of the parameters, or of an adapter, see ``models.fingerprint``."""
        if adapter:
            return self._adapters.fingerprint(adapter)
        return tuple(np.asarray(self._fingerprint(self._params)).tolist())

    def compile(self) -> None:
        """Compile every program, unless that has been done."""
        if not self._compiled:
            self._compiled = self.sampler.compile(self.whole, self.state)

    def run(self, name: str, arguments: Any) -> Any:
        """Dispatch a program; return its result, which may not be computed yet."""
        program = self._compiled[name]
        self._state, result = program(self.whole, self.state, arguments)
        return result

    @property
    def whole(self) -> Any:
        """The placed parameters, with all adapters among them."""
        if self._adapters is None:
            return self._params
        return self._adapters.attached(self._params)

    def wait(self) -> None:
        """Return when everything dispatched so far is done."""
        jax.block_until_ready(self.state.hidden)

    def memory(self) -> Mapping[str, ProgramMemory]:
        """What each compiled program needs, by name."""
        sizes = {}
        for name, program in self._compiled.items():
            analysis = program.memory_analysis()
            sizes[name] = ProgramMemory(
                arguments=analysis.argument_size_in_bytes,
                temporary=analysis.temp_size_in_bytes,
            )
        return sizes
