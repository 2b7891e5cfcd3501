"""How far an evaluation is: a bar with the time left, or a line now and then."""

import contextlib
import logging
import time
from collections.abc import Iterator

from rich import progress as bars

from scope_jax.run.tracking import console
from scope_jax.selfplay.training import Progress

log = logging.getLogger("scope_jax")

SAY_SECONDS = 30.0
"""Where the output is no terminal: seconds between two lines."""


@contextlib.contextmanager
def shown(title: str, *, bar: bool = True) -> Iterator[Progress]:
    """Something to be told of each piece of work that is done.

    Args:
      title: of the work.
      bar: whether a terminal shows a bar.
    """
    start = last = time.monotonic()
    if bar and console.is_terminal:
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=console) as display:
            task = display.add_task(title, total=None)
            yield lambda done, of: display.update(task, completed=done, total=of)
        return

    def say(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < of and now - last < SAY_SECONDS:
            return
        last = now
        left = (now - start) / done * (of - done)
        log.info("%s %d/%d%s", title, done, of, f"  {left:.0f} s left" * (done < of))

    yield say
