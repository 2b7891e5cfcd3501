"""Virtual time: threads and event loops that take turns, drawn by a seed.

One thread runs at a time. Whoever waits (for a time, an event, another thread) hands
over to one of those who can go on, and where nobody can, the clock jumps to the next
deadline. So an hour of waiting costs nothing, and one seed is one order of events.
"""

import asyncio
import concurrent.futures
import heapq
import itertools
import random
import sys
import threading
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

BEGIN = 1_700_000_000.0
"""Seconds since 1970 at which every simulated process begins."""


class Process:
    """What is killed or stopped as a whole; its threads are given no more turns."""

    def __init__(self, name: str):
        self.name, self.alive, self.stopped = name, True, False


class Thread:
    """One thread under the clock; with the interface of ``threading.Thread``."""

    def __init__(self, clock: "Clock", process: Process, target, name="", **_: Any):
        self._clock, self.process, self.name = clock, process, name
        self.ready: Callable[[], bool] = lambda: True
        self.deadline: float | None = None
        self.done = False
        self.gate = threading.Semaphore(0)
        self._target = target

    def start(self) -> None:
        self._clock.threads.append(self)
        self.real = threading.Thread(target=self._run, daemon=True)
        self.real.start()

    def _run(self) -> None:
        self.gate.acquire()
        try:
            self._target()
        finally:
            self.done = True
            self._clock.hand_over()

    def join(self) -> None:
        self._clock.block(lambda: self.done)


class Clock:
    """The time, and whose turn it is.

    Args:
      seed: of the order in which those who can go on do so.
      limit: seconds after which nothing can be waiting for a good reason.
      hung: called, and never returns, where that is so.
    """

    def __init__(self, seed: str, limit: float, hung: Callable[[str], None]):
        self.now, self.limit, self.hung = 0.0, limit, hung
        self.trainer = Process("trainer")
        self._order = random.Random(seed)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.current = Thread(self, self.trainer, None, "main")
        self.current.real = threading.current_thread()
        self.threads = [self.current]

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return BEGIN + self.now

    def sleep(self, seconds: float) -> None:
        self.block(timeout=seconds)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls it at that time, whoever's turn it is then."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._count), call))

    def block(
        self, ready: Callable[[], bool] = lambda: False, timeout: float | None = None
    ) -> bool:
        """Waits; whether ``ready`` was the reason to go on."""
        me = self.current
        me.ready = ready
        me.deadline = None if timeout is None else self.now + timeout
        if self.hand_over():
            me.gate.acquire()
        return ready()

    def hand_over(self) -> bool:
        """Gives the turn to one who can go on, as the last act or before a wait.

        Returns:
          whether that is another; it runs from here on, and may hand back at once.
        """
        me, chosen = self.current, self._next()
        self.current = chosen
        if chosen is not me:
            chosen.gate.release()
        return chosen is not me

    def _next(self) -> Thread:
        while True:
            able = [t for t in self._living() if t.ready()]
            able += [
                t
                for t in self._living()
                if t not in able and t.deadline is not None and t.deadline <= self.now
            ]
            if able:
                return able[0] if len(able) == 1 else self._order.choice(able)
            times = [t.deadline for t in self._living() if t.deadline is not None]
            times += [self._timers[0][0]] if self._timers else []
            if not times or min(times) > self.limit:
                self.hung(
                    f"at {self.now:.0f} s nothing happens any more: {self._who()}"
                )
            self.now = max(self.now, min(times))
            while self._timers and self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()

    def _who(self) -> str:
        """Where every thread is."""
        frames = sys._current_frames()
        said = []
        for thread in self.threads:
            frame = frames[thread.real.ident]
            stack = "".join(traceback.format_stack(frame, 12))
            said.append(f"{thread.process.name}/{thread.name}:\n{stack}")
        return "\n".join(said)

    def _living(self) -> list[Thread]:
        self.threads = [t for t in self.threads if t.process.alive and not t.done]
        return [t for t in self.threads if not t.process.stopped]

    # --- what stands in for the standard library's ------------------------------------

    def threading(self) -> SimpleNamespace:
        """``threading`` as the supervisor uses it."""

        def thread(**given: Any) -> Thread:
            return Thread(self, self.current.process, **given)

        return SimpleNamespace(
            Thread=thread, Event=lambda: Event(self), Lock=threading.Lock
        )

    def executor(self, threads: int) -> "Executor":
        return Executor(self)

    def wait(self, futures: Any, timeout: float | None = None) -> None:
        """``concurrent.futures.wait``."""
        self.block(lambda: all(future.done() for future in futures), timeout)

    def loop(self) -> "Loop":
        return Loop(self)


class Event:
    """``threading.Event``."""

    def __init__(self, clock: Clock):
        self._clock, self._set = clock, False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float | None = None) -> bool:
        return self._clock.block(self.is_set, timeout)


class Executor:
    """``ThreadPoolExecutor``, a thread for each call."""

    def __init__(self, clock: Clock):
        self._clock, self._threads = clock, []

    def submit(self, call: Callable[[], Any]) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        thread = Thread(self._clock, self._clock.current.process, run, "executor")
        self._threads.append(thread)
        thread.start()
        return future

    def shutdown(self) -> None:
        for thread in self._threads:
            thread.join()


class _Selector:
    """Where a loop waits: until its time, or until another thread calls."""

    def __init__(self, loop: "Loop", clock: Clock):
        self._loop, self._clock = loop, clock

    def select(self, timeout: float | None) -> list:
        if timeout is None or timeout > 0:
            self._clock.block(lambda: self._loop.woken, timeout)
        self._loop.woken = False
        return []


class Loop(asyncio.base_events.BaseEventLoop):
    """An event loop in virtual time; what it would do in another thread it does now."""

    def __init__(self, clock: Clock):
        super().__init__()
        self._clock, self.woken = clock, False
        self._selector = _Selector(self, clock)

    def time(self) -> float:
        return self._clock.now

    def _process_events(self, events: list) -> None:
        pass

    def _write_to_self(self) -> None:
        self.woken = True

    def run_in_executor(self, executor: Any, call: Callable, *args: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(call(*args))
        except Exception as error:
            future.set_exception(error)
        return future
