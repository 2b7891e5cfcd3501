"""Code of the user's: a reward or a tool, named in the configuration as FILE.py:NAME.

It runs in a thread of its own with an event loop of its own, so that code which blocks
stops neither the run's requests nor the look at the clock. There is one such thread in
a process, and one module of a file: a reward and a tool share what they keep. Whatever
goes wrong in it is one line and ends the run after a checkpoint: with exit code 2 where
the file is at fault, with 1 where a call has taken too long, which the same command may
mend.
"""

import asyncio
import hashlib
import importlib.util
import inspect
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from models.errors import UserError, first_line
from scope_jax.method.types import OWN_CODE
from scope_jax.system.stopping import Stopped

CONCURRENT = 64
"""Calls of a function that are begun at the same time; the others wait."""
_LOCK = threading.Lock()
_LOOPS: list[asyncio.AbstractEventLoop] = []  # one, once there was a call


def file_of(value: str) -> Path:
    """The file of FILE.py:NAME."""
    return Path(OWN_CODE.fullmatch(value)[1]).expanduser()  # type: ignore[index]


def load(
    setting: str, value: str, arguments: tuple[str, ...]
) -> Callable[..., Awaitable[Any]]:
    """The function that a setting names.

    Args:
      setting: for messages.
      value: FILE.py:NAME.
      arguments: that it will be called with, by name.

    Raises:
      UserError: there is no such file or function, the file can't be imported, or the
        function is not async or takes other arguments.
    """
    where, file = f"{setting}={value}", file_of(value)
    name = value.rpartition(":")[2]
    form = f"async def {name}({', '.join(arguments)})"
    if not file.is_file():
        raise UserError(f"{where}: no such file: name one that has `{form}`")
    try:
        module = _module(file)
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: {_said(error, file)}: correct the file") from error
    function = getattr(module, name, None)
    if function is None:
        raise UserError(f"{where}: the file has no {name}: write `{form}`")
    if not inspect.iscoroutinefunction(function):
        raise UserError(f"{where}: is no async function: write `{form}`")
    try:
        inspect.signature(function).bind(**dict.fromkeys(arguments))
    except TypeError as error:
        raise UserError(
            f"{where}: can't be called with {', '.join(arguments)} ({error}): write "
            f"`{form}`"
        ) from error
    return function


def _module(file: Path) -> ModuleType:
    """The file as a module; the one that there is, unless the file has changed."""
    data, place = file.read_bytes(), file.resolve()
    digest = hashlib.sha256(os.fsencode(place) + b"\0" + data).hexdigest()
    name = f"own_{place.stem}_{digest[:16]}"
    with _LOCK:
        if name in sys.modules:
            return sys.modules[name]
        loader = SourceFileLoader(name, str(file))
        spec = importlib.util.spec_from_file_location(name, file, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        if (folder := str(file.parent.absolute())) not in sys.path:
            sys.path.append(folder)  # it may import its neighbours
        sys.modules[name] = module  # dataclasses look there
        try:
            # What was hashed: a compiled file beside it may be of an older text.
            exec(loader.source_to_code(data, str(file)), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def _said(error: BaseException, file: Path) -> str:
    """An exception as one line, with the last line of the file that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    names = file.name, file.resolve().name  # it may have been imported as the other
    lines = [f.lineno for f in frames if Path(f.filename).name in names]
    if isinstance(error, SyntaxError) and not lines:
        lines = [error.lineno]
    place = f" ({file.name}, line {lines[-1]})" if lines else ""
    text = f"{type(error).__name__}: {first_line(error)[:200]}"
    return f"{text.removesuffix(': ' + type(error).__name__)}{place}"


class OwnCode:
    """A function of the user's, called under a limit of time.

    Args:
      setting, value, arguments: see ``load``.
      limit: seconds of a call, from when it begins, without those that the judge takes.
      limit_setting: for messages.
    """

    def __init__(
        self,
        setting: str,
        value: str,
        arguments: tuple[str, ...],
        *,
        limit: float,
        limit_setting: str,
    ):
        self.where, self._file = f"{setting}={value}", file_of(value)
        self._function = load(setting, value, arguments)
        self._limit, self._limit_setting = limit, limit_setting
        self._turns: tuple[Any, asyncio.Semaphore] | None = None

    async def __call__(self, **arguments: Any) -> Any:
        """What the function returns.

        Args:
          judge: if given, an async function of this event loop, for which the user's
            code gets one of its own.

        Raises:
          Stopped: it raised, or took longer than the limit.
        """
        here = asyncio.get_running_loop()
        if self._turns is None or self._turns[0] is not here:
            self._turns = here, asyncio.Semaphore(CONCURRENT)
        async with self._turns[1]:
            call = _Call(here)
            if "judge" in arguments:
                arguments["judge"] = call.asking(arguments["judge"])
            work = call.run(self._function, arguments)
            result = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(work, _running())
            )
            await self._within_limit(call, result)
        error = result.exception()
        if call.judge_error is not None:
            raise call.judge_error  # whatever the user's code has made of it
        if error is not None:
            raise self.failed(_said(error, self._file))
        return result.result()

    async def _within_limit(self, call: "_Call", result: asyncio.Future) -> None:
        """Waits for the end of a call that has begun, or for its limit."""
        waiting = asyncio.ensure_future(call.begun.wait())
        await asyncio.wait({waiting, result}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        while not result.done():
            left = self._limit - call.seconds()
            if left <= 0:
                raise Stopped(
                    f"error: {self.where}: a call has taken more than "
                    f"{self._limit:g} s ({self._limit_setting}): make it faster or "
                    "raise the limit; the same command goes on",
                    1,
                    at_once=True,
                )
            await asyncio.wait({result}, timeout=max(left, 0.01))

    def failed(self, why: str) -> Stopped:
        """The end of a run whose own code is wrong."""
        return Stopped(
            f"error: {self.where}: {why}: correct the file, and begin another run "
            "(--run, --fresh)",
            2,
            at_once=True,
        )


def _running() -> asyncio.AbstractEventLoop:
    """The event loop of the user's code, in a thread that nobody waits for."""
    with _LOCK:
        if not _LOOPS:
            loop = asyncio.new_event_loop()
            loop.set_default_executor(_Daemons())
            threading.Thread(
                target=loop.run_forever, name="own code", daemon=True
            ).start()
            _LOOPS.append(loop)
        return _LOOPS[0]


@dataclass(eq=False)
class _Call:
    """One call: when it began, and what the judge took of its time.

    Attributes:
      here: the run's event loop, to which all fields but the end belong.
      begun: set when the user's code gets to run.
    """

    here: asyncio.AbstractEventLoop
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    judge_error: BaseException | None = None
    _start: float = 0.0
    _end: float = 0.0
    _asked: int = 0
    _since: float = 0.0
    _judge_seconds: float = 0.0

    async def run(self, function: Callable, arguments: dict[str, Any]) -> Any:
        """Runs the user's code, in its own thread."""
        start = time.monotonic()

        def begin() -> None:
            self._start = start
            self.begun.set()

        self.here.call_soon_threadsafe(begin)
        try:
            return await function(**arguments)
        except (asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # by us
            # Of the user's code, they would end the event loop or pass for ours.
            raise RuntimeError(type(error).__name__).with_traceback(
                error.__traceback__
            ) from error
        finally:
            # Its result is handed over after all others that can run now.
            self._end = time.monotonic()

    def seconds(self) -> float:
        """How long the user's code has run, without the time that a judge was asked."""
        now = self._end or time.monotonic()
        asking = now - self._since if self._asked else 0.0
        return now - self._start - self._judge_seconds - asking

    def asking(self, judge: Callable[..., Awaitable[str]]) -> Callable[..., Any]:
        """The judge as the user's code asks it, from another event loop."""

        async def ask(*args: Any, **options: Any) -> str:
            self._since = self._since if self._asked else time.monotonic()
            self._asked += 1
            try:
                return await judge(*args, **options)
            except BaseException as error:
                self.judge_error = self.judge_error or error
                raise
            finally:
                self._asked -= 1
                if not self._asked:
                    self._judge_seconds += time.monotonic() - self._since

        async def from_outside(*args: Any, **options: Any) -> str:
            work = ask(*args, **options)
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(work, self.here)
            )

        return from_outside


class _Daemons(ThreadPoolExecutor):
    """For ``asyncio.to_thread`` in the user's code: the process waits for no thread."""

    def submit(self, fn: Callable, /, *args: Any, **options: Any) -> Future:  # type: ignore[override]
        """Runs a function in a thread of its own."""
        future: Future = Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **options))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="own code", daemon=True).start()
        return future
