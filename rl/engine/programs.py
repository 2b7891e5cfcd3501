"""The compiled programs of an engine, with the parameters and the state they run on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from models.fingerprint import fingerprint
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

    def __init__(self, sampler: Sampler, params: Any):
        self.sampler = sampler
        self.dtype = params["embed"].dtype
        self._make_state = sampler.make_state(self.dtype)
        self._place = sampler.place_params()
        self._fingerprint = jax.jit(fingerprint)
        self._compiled: dict[str, Any] = {}
        self.state: State | None = None
        self.set_params(params)

    def set_params(self, params: Any) -> None:
        """Place stacked parameters on every device.

        None only frees the memory of the old ones, and of the cache.
        """
        self._params = None  # before the new ones are made: not both in memory
        if params is None:
            self.state = None
            return
        self._params = self._place(params)
        if self.state is None:
            self.state = self._make_state()

    @property
    def params(self) -> Any:
        """The placed parameters."""
        return self._params

    def fingerprint(self) -> tuple[int, ...]:
        """Of the parameters that the programs run on, see ``models.fingerprint``."""
        return tuple(np.asarray(self._fingerprint(self._params)).tolist())

    def compile(self) -> None:
        """Compile every program, unless that has been done."""
        if not self._compiled:
            self._compiled = self.sampler.compile(self._params, self.state)

    def run(self, name: str, arguments: Any) -> Any:
        """Dispatch a program; return its result, which may not be computed yet."""
        program = self._compiled[name]
        self.state, result = program(self._params, self.state, arguments)
        return result

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
