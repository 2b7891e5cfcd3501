"""How much of a piece of work a device waits for the host, from a profiler trace."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax


def host_gaps(work: Callable[[], Any]) -> float | None:
    """Share of the time in which nothing runs on the first device.

    From the first to the last thing that it does for ``work``; None where the profiler
    saw nothing. On a CPU the device is XLA's own threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work()
        file = next(Path(folder).rglob("*.xplane.pb"))
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        on_device = [plane for plane in planes if plane.name.startswith("/device:")]
        events = [
            (event.start_ns, event.start_ns + event.duration_ns)
            for plane in on_device[:1] or planes
            for line in plane.lines
            if (line.name.startswith("Stream") if on_device else "XLA" in line.name)
            for event in line.events
            if not event.name.startswith(("Threadpool", "end: "))
        ]
    return idle_share(events)


def idle_share(events: Iterable[tuple[float, float]]) -> float | None:
    """The part of the span of (start, end) pairs that none of them covers."""
    ordered = sorted(events)
    if not ordered:
        return None
    (first, last), idle = ordered[0], 0.0
    for start, end in ordered[1:]:
        idle += max(0.0, start - last)
        last = max(last, end)
    return idle / (last - first)
