"""The inference process and the network to it, in virtual time.

The server's routes, its table of models and its start are the real ones, called as ASGI
on an event loop of their own; sockets and signals are not.
"""

import asyncio
import concurrent.futures
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from models.errors import StorageError, UserError
from scope_jax.inference import server
from scope_jax.inference.access import Secrets
from scope_jax.inference.config import ServerSettings
from scope_jax.system import settings as settings_io
from tests.faults.clock import Clock, Process, Thread

FIRST_PORT = 20_000


class Network:
    """Who listens where, and how requests get there.

    Args:
      clock: of the simulation.
      point: (kind, name) -> what is to happen to a request or its answer, or None.
      seconds: how long the next start, request or answer takes, by its kind.
    """

    def __init__(
        self,
        clock: Clock,
        point: Callable[[str, str], Any],
        seconds: Callable[[str], float],
    ):
        self.clock, self.point, self.seconds = clock, point, seconds
        self.servers: list[Server] = []

    def listening(self, port: int) -> "Server | None":
        able = (s for s in self.servers if s.port == port and s.returncode is None)
        return next(able, None)

    @property
    def server(self) -> "Server | None":
        """The one that runs."""
        return next((s for s in self.servers if s.returncode is None), None)

    def free_port(self) -> int:
        return FIRST_PORT + len(self.servers)

    def popen(self, command, *, stdout, env, **_: Any) -> "Server":
        made = Server(self, Path(command[-1]), stdout.name, dict(env))
        self.servers.append(made)
        return made

    def subprocess(self) -> SimpleNamespace:
        """``subprocess`` as the supervisor uses it."""
        return SimpleNamespace(
            Popen=self.popen,
            DEVNULL=None,
            STDOUT=None,
            TimeoutExpired=subprocess.TimeoutExpired,
        )

    def httpx(self) -> SimpleNamespace:
        """``httpx`` as the supervisor uses it: calls that wait."""
        return SimpleNamespace(
            HTTPError=httpx.HTTPError, Client=lambda **_: _Blocking(self), get=self.get
        )

    def get(self, url: str, *, headers=None, timeout: float = 10.0, **_: Any):
        """``httpx.get``."""
        request = httpx.Request("GET", url, headers=headers)
        work = Exchange(self, request, timeout, timeout)
        delay, future = work.begin()
        self.clock.sleep(delay)
        future = future or work.send()
        if not self.clock.block(future.done, work.left()):
            work.give_up()
            raise httpx.ReadTimeout("no answer in time", request=request)
        delay, response = work.end(future.result())
        self.clock.sleep(delay)
        return response

    def transport(self) -> "Transport":
        """For ``httpx.AsyncClient``."""
        return Transport(self)


class _Blocking:
    """``httpx.Client``."""

    def __init__(self, network: Network):
        self.get = network.get

    def __enter__(self) -> "_Blocking":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass


class Transport(httpx.AsyncBaseTransport):
    """Requests of the trainer's event loop."""

    def __init__(self, network: Network):
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions["timeout"]
        work = Exchange(self._network, request, timeout["connect"], timeout["read"])
        delay, future = work.begin()
        await asyncio.sleep(delay)
        try:
            async with asyncio.timeout(work.left()):
                answer = await asyncio.wrap_future(future or work.send())
        except TimeoutError:
            work.give_up()
            raise httpx.ReadTimeout("no answer in time", request=request) from None
        except asyncio.CancelledError:
            work.give_up()
            raise
        delay, response = work.end(answer)
        await asyncio.sleep(delay)
        return response


class Exchange:
    """One request and its answer."""

    def __init__(self, network: Network, request, connect: float, read: float):
        self.network, self.request = network, request
        self._connect, self._read = connect, read
        self._sent = network.clock.now
        self.name = f"{request.method} {request.url.path}"
        self._gone: Callable[[], None] = lambda: None

    def begin(self) -> tuple[float, concurrent.futures.Future | None]:
        """The delay until the request arrives, and a future if it never does."""
        action = self.network.point("request", self.name)
        delay = self.network.seconds("request")
        if action is None:
            return delay, None
        return action(self, delay)

    def send(self) -> concurrent.futures.Future:
        """Hands the request to the server, if one listens."""
        self._sent = self.network.clock.now
        target = self.network.listening(self.request.url.port)
        if target is None or not target.accepts:
            raise httpx.ConnectError("connection refused", request=self.request)
        future, self._gone = target.ask(self.request)
        return future

    def left(self) -> float:
        """Seconds in which an answer has to be there."""
        return max(0.0, self._sent + self._read - self.network.clock.now)

    def give_up(self) -> None:
        """The client closes its connection."""
        self._gone()

    def end(self, answer: httpx.Response) -> tuple[float, httpx.Response]:
        """The delay until the answer is there, and the answer."""
        action = self.network.point("answer", self.name)
        delay = self.network.seconds("answer")
        answer.request = self.request
        return (delay, answer) if action is None else action(self, delay, answer)


class Server(Process):
    """The inference process, with the interface of ``subprocess.Popen``."""

    def __init__(self, network: Network, file: Path, log: str, env: dict[str, str]):
        super().__init__("server")
        self.network, self._file, self._log, self._env = network, file, log, env
        self.port = self.returncode = None
        self.accepts = False
        self._asked: dict[concurrent.futures.Future, None] = {}
        Thread(network.clock, self, self._main, "main").start()

    # --- as its parent sees it --------------------------------------------------------

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self.network.clock.block(lambda: self.returncode is not None, timeout):
            raise subprocess.TimeoutExpired("server", timeout)
        return self.returncode

    def kill(self) -> None:
        self._end(-9)

    def terminate(self) -> None:
        if self.returncode is None and self.accepts:
            self._loop.call_soon_threadsafe(self._ending.set)
        elif self.returncode is None:  # as every program that handles no signal
            self.network.clock.later(0.0, lambda: self.stopped or self._end(-15))

    def _end(self, code: int) -> None:
        if self.returncode is not None:
            return
        self.returncode, self.alive, self.accepts = code, False, False
        for future in self._asked:
            if not future.done():
                future.set_exception(httpx.ReadError("connection lost"))

    # --- inside -----------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self.network.clock.sleep(self.network.seconds("start"))
            code = self._serve()
        except (UserError, StorageError) as error:
            self._say("error: " + " ".join(str(error).split()))
            code = 2 if isinstance(error, UserError) else 1
        except Exception:
            self._say(traceback.format_exc())
            code = 1
        self._end(code)

    def _say(self, text: str) -> None:
        with open(self._log, "a") as log:
            log.write(f"{text}\n")

    def _serve(self) -> int:
        settings = settings_io.load(ServerSettings, self._file)
        given = Secrets.from_environment(self._env)
        self._loop = self.network.clock.loop()
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            return runner.run(self._lifetime(settings, given))

    def bound(self, host: str, port: int) -> Any:
        """``server.bind``."""
        self.port = port or self.network.free_port()
        return SimpleNamespace(getsockname=lambda: (host, self.port))

    async def _lifetime(self, settings: ServerSettings, given: Secrets) -> int:
        self._ending = asyncio.Event()
        process = server._Process(settings, given, self._say)
        process.server = _Uvicorn(self._ending)
        self._app = process.app.starlette(process.lifespan)
        async with process.lifespan(self._app):
            self.accepts = True
            await self._ending.wait()
            self.accepts = False
        if process.failure is not None:
            raise process.failure
        return 0

    def ask(self, request: httpx.Request) -> tuple[concurrent.futures.Future, Any]:
        """A future of the answer, and what tells the server that its client left."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._asked[future] = None
        left = asyncio.Event()

        def begin() -> None:
            self._asking = asyncio.ensure_future(self._answer(request, future, left))

        self._loop.call_soon_threadsafe(begin)

        def gone() -> None:
            self._asked.pop(future, None)
            if self.alive:
                self._loop.call_soon_threadsafe(left.set)

        return future, gone

    async def _answer(self, request, future, left) -> None:
        url = request.url
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": url.path,
            "raw_path": url.raw_path,
            "query_string": url.query,
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", self.port),
        }
        bodies = [{"type": "http.request", "body": request.content, "more_body": False}]
        status, shown, parts = 500, [], []

        async def receive() -> dict:
            if bodies:
                return bodies.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            nonlocal status, shown
            if message["type"] == "http.response.start":
                status, shown = message["status"], message["headers"]
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, send)
        self._asked.pop(future, None)
        if not future.done():
            answer = httpx.Response(status, headers=shown, content=b"".join(parts))
            future.set_result(answer)


class _Uvicorn:
    """What ends the server when it is told to."""

    def __init__(self, ending: asyncio.Event):
        self._ending = ending

    @property
    def should_exit(self) -> bool:
        return self._ending.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._ending.set()
