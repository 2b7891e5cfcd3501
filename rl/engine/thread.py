"""One thread that owns an engine; all other threads get futures.

``complete`` may be called from any thread, and asyncio callers wrap its future. The
thread sleeps on a queue while there is nothing to do.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rl.engine.engine import Engine
from rl.records import Completion, Request


@dataclass(frozen=True)
class _Message:
    """A request, a call, the cancellation of ``future``, or (without any) the end."""

    future: Future | None = None
    request: Request | None = None
    call: Callable[[Engine], Any] | None = None
    when_idle: bool = False
    watch: Callable[[tuple[int, ...]], None] | None = None


class EngineClosed(RuntimeError):
    """The thread was ended on purpose, before this request was done."""


class EngineThread:
    """Runs ``engine.poll`` while there is work; nothing else may touch the engine."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._backlog: deque[_Message] = deque()
        self._futures: dict[int, Future] = {}
        self._ids: dict[Future, int] = {}
        self._watched: dict[int, Callable[[tuple[int, ...]], None]] = {}
        self._ended: RuntimeError | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def complete(
        self,
        request: Request,
        *,
        watch: Callable[[tuple[int, ...]], None] | None = None,
    ) -> "Future[Completion]":
        """Sample a completion; cancelling the future cancels the request.

        Args:
          watch: told on the engine's thread, after each dispatch before the last, all
            token ids sampled so far; it must be quick and must not raise.
        """
        future: Future = Future()
        self._send(_Message(future, request=request, watch=watch))
        future.add_done_callback(self._cancelled)
        return future

    def call(self, fn: Callable[[Engine], Any], *, when_idle: bool = False) -> Future:
        """Run ``fn(engine)`` on the owner thread; the future has its result or error.

        Args:
          when_idle: wait until all earlier requests are done, and make later ones wait
            for this; used to swap weights.
        """
        future: Future = Future()
        self._send(_Message(future, call=fn, when_idle=when_idle))
        return future

    def close(self) -> None:
        """Stop the thread; unfinished requests fail with `EngineClosed`."""
        self._inbox.put(_Message())
        self._thread.join()

    def _send(self, message: _Message) -> None:
        with self._lock:
            if self._ended is None:
                self._inbox.put(message)
                return
        message.future.set_exception(self._ended)

    def _cancelled(self, future: Future) -> None:
        if future.cancelled():
            self._inbox.put(_Message(future))

    def _run(self) -> None:
        error: RuntimeError = EngineClosed("engine closed")
        try:
            while self._receive():
                for id, completion in self._engine.poll():
                    future = self._futures.pop(id)
                    del self._ids[future]
                    self._watched.pop(id, None)
                    if future.set_running_or_notify_cancel():
                        future.set_result(completion)
                for id, watch in self._watched.items():
                    watch(self._engine.sampled(id))
        except BaseException as failure:
            error = RuntimeError(f"engine failed: {type(failure).__name__}: {failure}")
            error.__cause__ = failure
        with self._lock:
            self._ended = error
        self._drain()
        # A cancellation repeats the future of its request, which may be told only once.
        asked = [m.future for m in self._backlog if m.request or m.call]
        for future in (*self._futures.values(), *asked):
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _drain(self) -> None:
        """Take in all messages; cancellations take effect at once."""
        while not self._inbox.empty():
            message = self._inbox.get()
            if message.future in self._ids and message.future.cancelled():
                self._engine.cancel(self._ids[message.future])
            else:
                self._backlog.append(message)

    def _receive(self) -> bool:
        """Act on messages, sleeping while there is no work; False at the end."""
        while True:
            if self._engine.idle and not self._backlog:
                self._backlog.append(self._inbox.get())
            self._drain()
            if any(message.future is None for message in self._backlog):
                return False
            while self._backlog:
                if self._backlog[0].when_idle and not self._engine.idle:
                    break
                self._act(self._backlog.popleft())
            if not self._engine.idle:
                return True

    def _act(self, message: _Message) -> None:
        future = message.future
        try:
            if message.request is not None and not future.cancelled():
                id = self._engine.submit(message.request)
                self._futures[id], self._ids[future] = future, id
                if message.watch:
                    self._watched[id] = message.watch
            elif message.call and future.set_running_or_notify_cancel():
                future.set_result(message.call(self._engine))
        except Exception as error:
            future.set_exception(error)
