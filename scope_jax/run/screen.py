"""A run on a terminal: one screen that is drawn anew as it goes on or is resized."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scope_jax.run import progress
from scope_jax.run.numbers import format_number
from scope_jax.run.printable import one_line

# Seen on a dark and on a light background.
ACCENT, GOOD, BAD, REST = "#2f86d6", "#2f9e4f", "#d1495b", "#98a2ac"
HELDOUT = "eval/sampled/true_score"
STEPS = {"challenger": "Challenger", "tasks": "tasks", "solver": "Solver"}


class LastWarning(logging.Handler):
    """Remembers the last warning, for the screen."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.text, self.when = "", 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record's message."""
        self.text, self.when = one_line(record.getMessage()), time.time()


@dataclass
class State:
    """What the screen shows; whoever works changes it.

    Attributes:
      name: of the run.
      iteration, iterations: the one that is run, and of how many (0: not known).
      stage: one of ``records.STAGES``.
      total, done: steps (or tasks) of the stage.
      began: on the clock of ``time.time()``, when this process began.
      times: when the stage began here, and when each of its steps had ended.
      done_before: steps that were done when it began here.
      records: gives those of the run so far.
      inner: what goes on inside of a step, how far it is, and of how much.
      warning: the last one.
    """

    name: str
    iteration: int
    iterations: int
    stage: str
    total: int
    done: int
    began: float
    records: Callable[[], Sequence[Mapping[str, Any]]]
    warning: LastWarning
    times: list[float] = field(default_factory=list)
    done_before: int = 0
    inner: tuple[str, int, int] = ("", 0, 0)


class Screen:
    """The screen of one stage; a rich renderable."""

    def __init__(self, state: State, clock: Callable[[], float] = time.time):
        self.state, self._clock = state, clock

    def live(self, console: Console) -> Live:
        """It, drawn four times a second; what is logged scrolls by above it."""
        return Live(self, console=console, refresh_per_second=4, transient=True)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Lines that fit the width."""
        width = max(options.max_width, 20)
        yield Group(*self._lines(width))

    def _lines(self, width: int) -> list[RenderableType]:
        state = self.state
        lines: list[RenderableType] = [
            _ends(self._path(), self._clocks(width), width),
            self._bar(width),
        ]
        if state.inner[0]:
            lines.append(_bar(f"  {state.inner[0]}", *state.inner[1:], width, "dim"))
        lines += self._numbers(width)
        lines += [_cut(text, width) for text in (self._work(), self._scores()) if text]
        if state.warning.text:
            when = time.strftime("%H:%M:%S", time.localtime(state.warning.when))
            lines.append(_cut(Text(f"! {when} {state.warning.text}", BAD), width))
        return lines

    def _path(self) -> Text:
        state = self.state
        of = f"/{state.iterations}" if state.iterations else ""
        text = Text(f"{state.name}  iteration {state.iteration}{of}  ", "bold")
        names = [*STEPS, *(["evaluation"] if state.stage == "evaluation" else [])]
        for place, name in enumerate(names):
            if place:
                text.append(" > ", "dim")
            done = place < names.index(state.stage)
            style = f"bold {ACCENT}" if name == state.stage else GOOD if done else "dim"
            text.append(STEPS.get(name, name), style)
        return text

    def _clocks(self, width: int) -> Text:
        passed = progress.duration(self._clock() - self.state.began)
        left = self.left()
        told = f"{passed} passed" if width >= 100 else passed
        return Text(f"{told}, {left}" if left else told)

    def left(self) -> str:
        """The time left in words: of the run, or of the stage while that is all known.

        Empty before anything is known.
        """
        state = self.state
        done, total = state.done - state.done_before, state.total - state.done_before
        stage = progress.stage_left(state.times, done, total)
        if stage is not None and state.times:
            stage = max(stage - (self._clock() - state.times[-1]), 0.0)
        if state.iterations and state.stage != "evaluation":
            run = progress.run_left(
                state.records(), state.iteration, state.stage, stage, state.iterations
            )
            if run is not None:
                return f"{progress.duration(run)} left"
        return "" if stage is None else f"{progress.duration(stage)} left of this stage"

    def _bar(self, width: int) -> RenderableType:
        state = self.state
        unit = "tasks" if state.stage == "tasks" else "step"
        return _bar(unit, state.done, state.total, width, "")

    def _numbers(self, width: int) -> list[RenderableType]:
        own = [r for r in self.state.records() if r["stage"] == self.state.stage]
        shown = progress.watched(self.state.stage, own)
        columns = 2 if width >= 100 else 1
        each = (width - 3 * (columns - 1)) // columns
        cells = []
        for label, values in shown:
            text = Text.assemble((f"{label:<16}", "dim"))
            text.append(f"{format_number(float(f'{values[-1]:.4g}')):>8}  ", "bold")
            text.append(progress.spark(values, each - 26), ACCENT)
            cells.append(_cut(text, each))
        if columns == 1:
            return cells
        grid = Table.grid(padding=(0, 3, 0, 0))
        for _ in range(columns):
            grid.add_column(width=each, no_wrap=True)
        for place in range(0, len(cells), columns):
            grid.add_row(*cells[place : place + columns])
        return [grid] if cells else []

    def _work(self) -> Text | None:
        last = (self.state.records() or [{}])[-1]
        parts = []
        if (speed := last.get("perf/tokens_per_second")) is not None:
            parts.append(f"{format_number(round(speed))} tokens/s")
        busy = [
            f"{name} {100 * share:.0f}%"
            for name, key in (("policy", "rollout"), ("judge", "judge"))
            + (("previous Solver", "solver"),)
            if (share := last.get(f"perf/{key}_busy_share")) is not None
        ]
        if busy:
            parts.append(f"engines busy: {', '.join(busy)}")
        return Text("  ".join(parts), "dim") if parts else None

    def _scores(self) -> Text | None:
        """The last score on held-out tasks, and the one before all training."""
        known = [r for r in self.state.records() if r.get(HELDOUT) is not None]
        if not known or self.state.stage == "evaluation":
            return None
        text = Text(f"held-out tasks: true score {_score(known[-1])}")
        base = next((r for r in known if r["stage"] == "evaluation"), None)
        if base is not None and base is not known[-1]:  # the first that is evaluated
            text.append(f" (base model {_score(base)})", "dim")
        return text


def _score(record: Mapping[str, Any]) -> str:
    error = record.get(f"{HELDOUT}_stderr")
    shown = "" if error is None else f" ± {1.96 * error:.3f}"
    return f"{record[HELDOUT]:.3f}{shown}"


def _bar(what: str, done: int, total: int, width: int, style: str) -> RenderableType:
    label = Text(f"{what} {done}/{total} ", style or "bold")
    grid = Table.grid()
    room = max(min(width - label.cell_len - 6, 80), 4)
    grid.add_column(no_wrap=True)
    grid.add_column(width=room)
    grid.add_column(no_wrap=True)
    bar = ProgressBar(
        total=max(total, 1),
        completed=done,
        width=room,
        style=REST,
        complete_style=ACCENT,
    )
    grid.add_row(label, bar, f" {100 * done // max(total, 1):>3}%")
    return grid


def _ends(left: Text, right: Text, width: int) -> RenderableType:
    """One text on the left and one on the right; on two lines where both don't fit."""
    if left.cell_len + right.cell_len + 2 > width:
        return Group(_cut(left, width), _cut(right, width))
    gap = width - left.cell_len - right.cell_len
    return Text.assemble(left, " " * gap, right, no_wrap=True, overflow="crop")


def _cut(text: Text, width: int) -> Text:
    """On one line, its end left out where it is too long."""
    text = text.copy()
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text
