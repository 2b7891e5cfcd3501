"""Runs of arms: the commands of each, and playing them, one per device at a time."""

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import UserError
from scope_jax.config import Config
from scope_jax.system.files import read_json, write_text

SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm with one seed.

    Attributes:
      arm, seed: which.
      folder: of the run.
      config: its settings.
      options: of ``train.py`` and ``eval.py``: the configuration, without the folder.
    """

    arm: str
    seed: int
    folder: Path
    config: Config = field(repr=False)
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the run's folder, log and summary."""
        return f"{self.arm}_{self.seed}"

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.folder.with_name(f"{self.name}.log")

    @property
    def started(self) -> Path:
        """When it was started, and resumed, with which code."""
        return self.folder.with_name(f"{self.name}.started.json")

    def commands(
        self, device: str | None, count: int, split: str
    ) -> tuple[list[str], list[str]]:
        """Training, and the evaluation of every Solver behind it.

        Args:
          device: number of the GPU that both processes use; None leaves it to the
            configuration.
          count, split: of held-out tasks.
        """
        common = ["--run", str(self.folder), *self.options]
        common += ["--evaluation.count", "0"]  # behind it, by the other script
        if device is not None:
            common += ["--placement.trainer.devices", device]
            common += ["--placement.inference.devices", device]
        train = [sys.executable, str(SCRIPTS / "train.py"), *common]
        score = [sys.executable, str(SCRIPTS / "eval.py"), *common]
        return train, [*score, "--count", str(count), "--split", split]

    def starts(self) -> list[dict]:
        """Every start of its training so far."""
        if not self.started.is_file():
            return []
        return read_json(self.started)


class Players:
    """Plays commands in processes of their own, which end when this one is told to.

    Args:
      environment: of the commands, beside this process's.
      cores: processor cores that each may use; None leaves it to the system.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, cores: int | None = None
    ):
        self._environment = os.environ | dict(environment or {})
        self._cores = cores
        self._running: set[subprocess.Popen] = set()
        self._stopping = threading.Event()

    def play(self, run: Run, command: Sequence[str]) -> None:
        """Runs a command to its end.

        Raises:
          UserError: it failed, with the last that it printed.
        """
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                self._limited(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
            self._running.add(process)
            try:
                code = process.wait()
            finally:
                self._running.discard(process)
        if code:
            with run.log.open("rb") as written:
                written.seek(begin)
                said = written.read().decode("utf-8", "replace").strip()
            last = said.rsplit("\n", 1)[-1]
            raise UserError(f"{run.name}: exit code {code}: {last}: see {run.log}")

    def play_all(
        self,
        runs: Sequence[Run],
        devices: Sequence[str | None],
        one: Callable[[Run, str | None], None],
    ) -> list[str]:
        """Calls ``one`` for every run, in order, on the next device that is free.

        Returns:
          why runs failed; the others are played all the same.
        """
        waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        for run in runs:
            waiting.put(run)
        failures: list[str] = []

        def work(device: str | None) -> None:
            while not self._stopping.is_set():
                try:
                    run = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    one(run, device)
                except UserError as error:
                    if not self._stopping.is_set():
                        failures.append(str(error))
                        print(f"failed: {error}", file=sys.stderr, flush=True)

        threads = [threading.Thread(target=work, args=(device,)) for device in devices]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._stopping.set()
            for process in list(self._running):
                process.terminate()
            for thread in threads:
                thread.join()
            raise
        return failures

    def _limited(self, command: Sequence[str]) -> list[str]:
        if self._cores is None:
            return list(command)
        mine = sorted(os.sched_getaffinity(0))[: self._cores]
        if len(mine) < self._cores:
            raise UserError(f"{self._cores} cores are needed: {len(mine)} are here")
        # XLA and the inference process take what they are given.
        return ["taskset", "-c", ",".join(map(str, mine)), *command]


def note_start(run: Run, commit: str) -> None:
    """Notes that a run's training starts now."""
    starts = [*run.starts(), {"unix": round(time.time(), 3), "commit": commit}]
    write_text(run.started, json.dumps(starts) + "\n")


def commit() -> str:
    """The commit of this code, ``-dirty`` with changes that are in none."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip() or "unknown"


def devices(wanted: str) -> list[str | None]:
    """Devices to play on, one run at a time on each.

    Args:
      wanted: ``auto`` for all GPUs that are visible, else one after another on the
        CPU; or numbers such as ``0,1``; or ``cpu``.

    Raises:
      UserError: not of this form.
    """
    if wanted == "cpu" or (wanted == "auto" and "cpu" in _platforms()):
        return [None]
    if wanted != "auto":
        if not re.fullmatch(r"\d+(,\d+)*", wanted):
            raise UserError(f"--devices {wanted}: write auto, cpu, or numbers: 0,1,2")
        return list(wanted.split(","))
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return list(visible.split(","))
    if not shutil.which("nvidia-smi"):
        return [None]
    told = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
        capture_output=True,
        text=True,
    )
    return [*told.stdout.split()] if told.returncode == 0 else [None]


def _platforms() -> list[str]:
    return os.environ.get("JAX_PLATFORMS", "").split(",")
