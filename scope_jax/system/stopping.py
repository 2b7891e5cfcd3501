"""How a run ends before its end: on a signal, or when what it needs stays away.

A signal (Ctrl-C is SIGINT; Slurm and Kubernetes send SIGTERM) is a note that the run
looks at between awaits and between steps. It is no exception out of nowhere: that could
end up in a callback of the garbage collector, which prints it and goes on, or in the
middle of a save. The second signal ends the process at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("scope_jax")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_SECONDS = 0.2
"""How often one who waits looks whether to stop."""


class Stopped(BaseException):
    """The run ends here, whole, and the same command goes on with it.

    No ``Exception``: nothing but the end of a run has a use for it.

    Args:
      message: one line.
      code: the script's exit code: 128 and the signal's number, 1, or 2 where a file of
        the user's is at fault.
      at_once: end the process without waiting for its threads, of which one may never
        end.
    """

    def __init__(self, message: str, code: int, *, at_once: bool = False):
        super().__init__(message, code)
        self.message, self.code, self.at_once = message, code, at_once

    def __reduce__(self):
        return partial(type(self), at_once=self.at_once), (self.message, self.code)

    def __str__(self) -> str:
        return self.message


class _Notes:
    """What has been received; signals are one process's, so there is one of these."""

    received: signal.Signals | None = None
    deferred = 0
    nothing_to_save = 0
    at_once = False


_notes = _Notes()


def catch_signals(*, what: str = "saves a checkpoint and ends") -> None:
    """From now on SIGINT and SIGTERM are notes; call it once, in the main thread.

    They are read by a thread, so that the second one ends the process even while the
    main thread is inside of a compiled program.

    Args:
      what: the process does on the first one, for the person who sent it.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        # Python's own handler would raise; the number goes through the socket.
        signal.signal(number, lambda *_: None)

    def read() -> None:
        with reader, writer:
            while got := reader.recv(1):
                number = signal.Signals(got[0])
                if number not in SIGNALS:
                    continue
                if _notes.received or _notes.at_once:
                    _end_at_once(number, f"{number.name}: ended at once")
                _notes.received = number
                if _notes.nothing_to_save:
                    _end_at_once(number, _stopped_by(number))
                log.warning("%s: %s; once more ends it at once", number.name, what)

    threading.Thread(target=read, name="signals", daemon=True).start()


def end_at_once_on_signals() -> None:
    """The same for a script that has nothing to save: the first one ends it."""
    catch_signals(what="ends")
    _notes.at_once = True


def _end_at_once(number: signal.Signals, why: str) -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h")  # a progress bar hid the cursor
    os.write(2, f"{why}\n".encode())
    os._exit(128 + number)


def _stopped_by(number: signal.Signals) -> str:
    return f"stopped by {number.name}: the same command goes on from here"


def requested() -> bool:
    """Whether the process has been asked to end."""
    return _notes.received is not None


def check() -> None:
    """Raises if the process has been asked to end, unless that is deferred.

    Raises:
      Stopped: with the signal's exit code.
    """
    number = _notes.received
    if number and not _notes.deferred:
        raise Stopped(_stopped_by(number), 128 + number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """``check`` raises nothing inside: for what several processes do in lockstep."""
    _notes.deferred += 1
    try:
        yield
    finally:
        _notes.deferred -= 1


@contextlib.contextmanager
def nothing_to_save(*, alone: bool) -> Iterator[None]:
    """Inside, the first signal ends the process at once, too.

    For loading and compiling: one call takes many seconds and looks at no notes, and
    what a killed process leaves behind is what this one would.

    Args:
      alone: no other process of the run waits for this one; else this does nothing.
    """
    check()
    _notes.nothing_to_save += alone
    try:
        yield
    finally:
        _notes.nothing_to_save -= alone


def is_deferred() -> bool:
    """Whether nobody may stop now."""
    return _notes.deferred > 0


def result(future: "Future[T]") -> T:
    """A future's result, waited for with an eye on signals.

    Raises:
      Stopped: the process has been asked to end.
    """
    while not future.done():
        check()
        wait([future], POLL_SECONDS)
    return future.result()


async def watched(work: Coroutine[Any, Any, T], look: Callable[[], None] = check) -> T:
    """The result of ``work``, with an eye on all that may end it before.

    Args:
      work: is cancelled if ``look`` raises.
      look: is called every ``POLL_SECONDS``.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            look()
            await asyncio.wait({task}, timeout=POLL_SECONDS)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
