"""The compiled programs of an engine, with the parameters and the state they run on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from rl.sampler import Sampler, State


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
    """Runs ``sampler``'s programs: they compile once, the state never leaves here."""

    def __init__(self, sampler: Sampler, dtype: Any):
        self.sampler = sampler
        self._make_state = sampler.make_state(dtype)
        self.state: State | None = self._make_state()
        self._place = sampler.place_params()
        self._params = None
        self._compiled: dict[str, Any] = {}

    def set_params(self, params: Any) -> None:
        """Place stacked parameters on every device.

        None only gives up the memory of the old ones, and of the cache.
        """
        self._params = None  # before the new ones are made: not both in memory
        if params is None:
            self.state = None
            return
        self._params = self._place(params)
        if self.state is None:
            self.state = self._make_state()

    def compile(self) -> None:
        """Compile every program, unless that has been done."""
        if not self._compiled:
            self._compiled = self.sampler.compile(self._params, self.state)

    def share(self, other: "Programs") -> None:
        """Take over what ``other``, of an equal sampler, has compiled."""
        self._compiled = other._compiled

    def run(self, name: str, arguments: Any) -> Any:
        """Dispatch a program; return its result, which may still be on its way."""
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
