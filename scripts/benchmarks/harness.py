"""What benchmarks share: peers in interpreters of their own, turns, and the report.

Ours and every peer are loaded first and then take turns, so that whatever else the
machine does falls on all of them.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import jax

from benchmarks import notes
from models import hf
from models.config import DecoderConfig
from models.errors import UserError

# What the data sheets promise: bytes/s, and FLOP/s in 16 bits without sparsity.
DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": (3.35e12, 989e12),
    "NVIDIA H200": (4.8e12, 989e12),
    "NVIDIA A100-SXM4-80GB": (2.039e12, 312e12),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found.

    Attributes:
      what: one line: the work of one turn.
      unit: of what a turn does, such as tokens.
      amount: units per turn.
      seconds: of each turn, ours under ``ours``, the peers' under their names.
      notes: anything else worth keeping, JSON.
    """

    what: str
    unit: str
    amount: float
    seconds: Mapping[str, Sequence[float]]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def rates(self) -> dict[str, dict[str, float]]:
        """Units per second of each: median, lowest, highest."""
        return {
            name: {
                "median": self.amount / statistics.median(seconds),
                "lowest": self.amount / max(seconds),
                "highest": self.amount / min(seconds),
            }
            for name, seconds in self.seconds.items()
        }

    def ratios(self) -> dict[str, float]:
        """Our median rate divided by each peer's."""
        rates = self.rates()
        ours = rates.pop("ours")["median"]
        return {name: ours / rate["median"] for name, rate in rates.items()}


class Peer:
    """A script in another interpreter, which works when it is told to.

    It gets its settings as JSON in its only argument and prints one line of JSON when
    it is ready. For every line that it then reads, it does one turn and prints a line
    of JSON with its ``seconds``. A context manager; the script ends with its input.

    Attributes:
      ready: what it said when it was ready.
    """

    def __init__(self, name: str, command: Sequence[str], errors: IO[str]):
        self.name, self._errors = name, errors
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, text=True
            )
        except OSError as error:
            raise UserError(
                f"--peer {name}={command[0]}: cannot be started ({error.strerror}): "
                "give the path of a Python interpreter"
            ) from error
        self.ready = self._read()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def turn(self) -> dict[str, Any]:
        """One turn of the peer's work."""
        with contextlib.suppress(BrokenPipeError):  # then _read says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        try:
            return json.loads(line)
        except ValueError:
            self._errors.seek(0)
            said = (line + self._errors.read()).strip().splitlines() or ["nothing"]
            raise UserError(
                f"--peer {self.name}: its script ended with {said[-1]!r}: install "
                "what it needs in that interpreter"
            ) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="measure this peer too, with this interpreter",
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns that are timed")


@contextlib.contextmanager
def peers(
    asked: Sequence[str], scripts: Mapping[str, str], settings: Mapping[str, Any]
) -> Iterator[list[Peer]]:
    """The peers that were asked for, started and loaded.

    Args:
      asked: ``--peer`` values.
      scripts: name -> script of the peers that this benchmark knows.
      settings: what each script is told, beside its own name as `peer`.

    Raises:
      UserError: for a peer that is not known, or does not start.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for entry in asked:
            name, equals, python = entry.partition("=")
            if not equals or name not in scripts:
                raise UserError(
                    f"--peer {entry}: expected NAME=PYTHON, where NAME is one of "
                    f"{', '.join(scripts)}: as in {next(iter(scripts))}=python3"
                )
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            told = json.dumps({**settings, "peer": name})
            command = [python, scripts[name], told]
            found.append(stack.enter_context(Peer(name, command, errors)))
        yield found


@contextlib.contextmanager
def handed_over(
    config: DecoderConfig, params: Any, work: Any
) -> Iterator[dict[str, str]]:
    """The model as a folder and the work as a JSON file, for peers to read."""
    with tempfile.TemporaryDirectory() as folder:
        model, file = Path(folder) / "model", Path(folder) / "work.json"
        hf.save(model, config, params)
        file.write_text(json.dumps(work))
        yield {"model": str(model), "work": str(file)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until all arrays that ``work`` returns are there, and what it returns."""
    start = time.perf_counter()
    found = jax.block_until_ready(work())
    return time.perf_counter() - start, found


def take_turns(
    ours: Callable[[], float], others: Sequence[Peer], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each turn; a first one of everybody is not counted."""
    seconds: dict[str, list[float]] = {"ours": []}
    seconds |= {peer.name: [] for peer in others}
    for index in range(repeats + 1):
        taken = {"ours": ours()} | {p.name: p.turn()["seconds"] for p in others}
        for name, value in taken.items():
            if index:
                seconds[name].append(value)
    return seconds


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(x for x in lines if x.startswith("model name")).split(": ")[1]
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": version("jax"),
    }


def report(result: Result, file: Path | None) -> None:
    """Prints the result, and writes it to ``file``."""
    said = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "what": result.what,
        "unit": result.unit,
        "amount": result.amount,
        "rates": result.rates(),
        "ratios": result.ratios(),
        "seconds": {name: list(s) for name, s in result.seconds.items()},
        "notes": dict(result.notes),
    }
    print(said["command"])
    print(", ".join(f"{name} {value}" for name, value in said["machine"].items()))
    print(f"{result.what} ({len(result.seconds['ours'])} turns each)")
    for name, rate in said["rates"].items():
        spread = f"{rate['lowest']:,.1f} to {rate['highest']:,.1f}"
        ratio = "" if name == "ours" else f", ours / {name} {said['ratios'][name]:.2f}"
        print(f"  {name}: {rate['median']:,.1f} {result.unit}/s ({spread}){ratio}")
    for name, value in result.notes.items():
        print("\n".join(f"  {line}" for line in notes.lines(name, value)))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(said, indent=2) + "\n")
