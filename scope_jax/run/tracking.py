"""What a run writes and shows while it runs: metrics, TensorBoard, a screen.

``metrics.jsonl`` is the record: one JSON object per line, in the order of the run. When
a stage resumes, its lines after the point of resumption are dropped, so that the file
of an interrupted run equals that of an uninterrupted one; what the file was before lies
beside it as ``metrics.jsonl.before``. TensorBoard files are a copy of it. Nothing here
changes what is computed. Wall-clock figures are named ``time/..`` or
``perf/..``, so that they can be left out where two runs are compared.
"""

import bisect
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.logging import RichHandler

from models import storage
from scope_jax.config import TrackingConfig
from scope_jax.run import progress, records
from scope_jax.run.numbers import format_number
from scope_jax.run.printable import Formatter
from scope_jax.run.screen import HELDOUT, LastWarning, Screen, State
from scope_jax.run.trackers import Copies
from scope_jax.system.files import Appending, replacing

console = Console(stderr=True)
log = logging.getLogger("scope_jax")
last_warning = LastWarning()

_NOISY = ("jax", "absl", "orbax", "httpx", "httpcore", "uvicorn", "tensorboardX")
_NOISY += ("faiss",)


def setup_logging(*, verbose: bool = False) -> None:
    """Clear log lines on stderr; libraries speak only from warnings on."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(
            console=console,
            show_path=False,
            show_level=False,
            log_time_format="%H:%M:%S",
        )
        handler.setFormatter(Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler, last_warning]
    root.setLevel(logging.INFO)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # XLA's C++ side: errors only; read when its library is loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def read(run_dir: Path) -> list[dict[str, Any]]:
    """All records of a run, without a last line whose writing was interrupted.

    Raises:
      DamagedError: another line is damaged.
    """
    return records.read(Path(run_dir) / records.NAME).records


class Tracker:
    """Metrics of one run.

    Args:
      run_dir: run folder; ``metrics.jsonl`` and ``tb/`` are inside.
      config: what is written and shown.
      began: when the run was started first (seconds since 1970); None: with the first
        record.
      iterations: of the run, for the time that it still takes; 0: not known.
      copied: whether the metrics go to W&B and the like too, where ``config`` says so.

    Raises:
      DamagedError: a line of the metrics that are there is damaged.
      StorageError: here and in all methods: the disk refuses a write.
    """

    def __init__(
        self,
        run_dir: Path,
        config: TrackingConfig | None = None,
        *,
        began: float | None = None,
        iterations: int = 0,
        copied: bool = False,
    ):
        self._began, self._iterations = began, iterations
        self._opened = time.time()
        self.config = config or TrackingConfig()
        self.run_dir = Path(run_dir)
        self._path = self.run_dir / records.NAME
        self._boards: dict[str, Any] = {}
        found = records.read(self._path)
        tb = self.run_dir / "tb"
        if not self._path.exists() and any(tb.glob("*/*")):
            aside = storage.set_aside(tb, "before")  # the only copy there is
            log.warning("%s: missing: tb/ is kept as %s", self._path, aside.name)
        self._copies = Copies(self.config if copied else None, self.run_dir, began)
        self._copied = False
        self._file: Appending | None = None
        self._restart(found.records, same=found.whole and found.checked)

    def log(
        self, metrics: Mapping[str, float], *, iteration: int, stage: str, step: int
    ) -> None:
        """Adds one record, behind those of the steps before.

        Args:
          metrics: flat, slash names; NaN is written as null.
          iteration: from 1.
          stage: one of ``records.STAGES``.
          step: the stage's step (or batch) that the metrics belong to.
        """
        record: dict[str, Any] = {"iteration": iteration, "stage": stage, "step": step}
        measured = dict(metrics) | self._goodput(metrics)
        record |= {name: number(value) for name, value in sorted(measured.items())}
        record["time/unix"] = round(time.time(), 3)
        place = bisect.bisect(
            self.records, records.position(record), key=records.position
        )
        count = sum(r["stage"] == stage for r in self.records[:place]) + 1
        if place < len(self.records):  # a step of an earlier stage is made again
            kept = self.records
            self._restart([*kept[:place], record, *kept[place:]])
            self._copies.log(record, count)
            return
        self._file.append(records.line(record))
        self._copies.log(record, count)
        self.records.append(record)
        self._board([record])

    def _goodput(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The share of wall time so far that went into steps that count.

        What does not count: starts, idle time between them, checkpoints and exports,
        and steps that were lost and made again.
        """
        if not (own := _seconds(metrics)):
            return {}
        counted = own + sum(map(_seconds, self.records))
        first = min((r["time/unix"] - _seconds(r) for r in self.records[:1]), default=0)
        began = self._began or first or time.time() - own
        return {"perf/goodput": counted / max(time.time() - began, counted)}

    def rewind(self, iteration: int, stage: str, step: int) -> None:
        """Drops a stage's records after a step that it resumes from.

        Those of other stages stay: where they are of later ones, these are finished.

        Args:
          step: last step whose record stays; 0 drops all of this stage.
        """
        kept = [
            record
            for record in self.records
            if (record["iteration"], record["stage"]) != (iteration, stage)
            or record["step"] <= step
        ]
        if len(kept) < len(self.records):
            self._restart(kept)

    def close(self) -> None:
        """Closes the files."""
        for writer in (self._file, *self._boards.values()):
            if writer is not None:
                writer.close()
        self._boards.clear()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._copies.close()
        self.close()

    def of(self, iteration: int, stage: str) -> list[dict[str, Any]]:
        """Records of one stage of one iteration."""
        return [
            r
            for r in self.records
            if r["iteration"] == iteration and r["stage"] == stage
        ]

    @contextmanager
    def stage(
        self, iteration: int, stage: str, *, total: int, done: int = 0
    ) -> Iterator["StageProgress"]:
        """Shows the progress of a stage: a screen on a terminal, lines elsewhere.

        Args:
          total: steps (or tasks) of the stage; ``done`` of them are there already.
        """
        state = State(
            name=self.run_dir.name,
            iteration=iteration,
            iterations=self._iterations,
            stage=stage,
            total=total,
            done=done,
            began=self._opened,
            records=lambda: self.records,
            warning=last_warning,
            times=[time.time()],
            done_before=done,
        )
        screen = Screen(state)
        shown = self.config.progress and console.is_terminal
        with screen.live(console) if shown else nullcontext():
            yield StageProgress(screen, shown=shown)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Shows on a terminal that something takes time that has no steps."""
        if not (self.config.progress and console.is_terminal):
            yield
            return
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.TimeElapsedColumn(),
        )
        with bars.Progress(*columns, console=console, transient=True) as display:
            display.add_task(what, total=None)
            yield

    def _restart(self, kept: list[dict[str, Any]], *, same: bool = False) -> None:
        """Makes the files hold exactly these records.

        Args:
          same: whether ``metrics.jsonl`` holds them already.
        """
        self.close()
        if not same:
            self._copy()
            data = records.lines(kept)
            with replacing(self._path, needed=len(data)) as temporary:
                temporary.write_bytes(data)
        self._file = Appending(self._path)
        shutil.rmtree(self.run_dir / "tb", ignore_errors=True)
        self.records = list(kept)
        self._board(self.records)

    def _copy(self) -> None:
        """Keeps the metrics as they were found; once, before the first change."""
        if self._copied or not self._path.exists():
            return
        copy = self._path.with_name(f"{self._path.name}.before")
        with replacing(copy, needed=self._path.stat().st_size) as temporary:
            shutil.copyfile(self._path, temporary)
        self._copied = True

    def _board(self, new: Sequence[dict[str, Any]]) -> None:
        """Copies the last records to TensorBoard, one curve per stage."""
        if not self.config.tensorboard:
            return
        from scope_jax.run.board import Board, Point

        steps = Counter(record["stage"] for record in self.records)
        points: dict[str, list[Point]] = {}
        for record in reversed(new):
            stage, unix = record["stage"], record.get("time/unix") or time.time()
            metrics = {
                name: value
                for name, value in record.items()
                if "/" in name and value is not None and name != "time/unix"
            }
            points.setdefault(stage, []).append(Point(metrics, steps[stage], unix))
            steps[stage] -= 1
        for stage, found in points.items():
            if stage not in self._boards:
                folder = self.run_dir / "tb" / stage
                self._boards[stage] = Board(folder, found[-1].unix)
            self._boards[stage].add(found[::-1])


class StageProgress:
    """How far a stage is: on the screen of a terminal, or one line per step."""

    def __init__(self, screen: Screen, *, shown: bool):
        self._screen, self._shown = screen, shown

    def advance(self, metrics: Mapping[str, Any], n: int = 1) -> None:
        """One step (or ``n`` tasks) done, with its metrics, which are logged before."""
        state = self._screen.state
        state.done += n
        state.times.append(time.time())
        state.inner = ("", 0, 0)
        if not self._shown:
            name = f"iteration {state.iteration} {state.stage}"
            parts = [f"{name} {state.done}/{state.total}", *_summary(state, metrics)]
            if left := self._screen.left():
                parts.append(left)
            log.info("%s", "  ".join(parts))

    def inside(self, what: str, done: int, total: int) -> None:
        """Work inside the current step, such as ``inside("rollouts", 3, 16)``."""
        self._screen.state.inner = (what, done, total)


def _summary(state: State, metrics: Mapping[str, Any]) -> list[str]:
    """What a step's line says: the numbers that are watched, and words."""
    words = [f"{name} {v}" for name, v in metrics.items() if isinstance(v, str)]
    numbers = {k: number(v) for k, v in metrics.items() if not isinstance(v, str)}
    shown = progress.watched(state.stage, [numbers])
    speed = numbers.get("perf/tokens_per_second")
    heldout = None if state.stage == "evaluation" else numbers.get(HELDOUT)
    return [
        *words,
        *(f"{label} {format_number(each[-1])}" for label, each in shown),
        *([f"held-out {format_number(heldout)}"] if heldout is not None else []),
        *([f"{format_number(round(speed))} tokens/s"] if speed is not None else []),
    ]


def _seconds(record: Mapping[str, Any]) -> float:
    """What a step took: the sum of its laps, or the time of the whole batch."""
    laps = {
        name: value or 0.0
        for name, value in record.items()
        if name.startswith("time/") and name != "time/unix"
    }
    return laps.get("time/batch", sum(laps.values()))


def number(value: Any) -> float | int | None:
    """A metric's value as JSON has it; what is not finite is None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or value is None:
        return None if value is None else int(value)
    return value if isinstance(value, int) or math.isfinite(value) else None
