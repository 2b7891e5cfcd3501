"""HTTP as the client needs it: JSON there and back, over connections that stay open."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx

from scope_jax.inference.answers import BadAnswer, body_of, read_error


class Failed(Exception):
    """An answer that is no success: its status, a line for a person, a code."""

    def __init__(self, status: int, message: str, code: str | None):
        super().__init__(f"{status}: {message}")
        self.status, self.message, self.code = status, message, code


class Transport:
    """Requests from one event loop after another; any number at once.

    Args:
      concurrency: requests that are under way at once, by ``turn``.
    """

    def __init__(self, concurrency: int):
        self._concurrency = concurrency
        self._tls: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = asyncio.Semaphore(concurrency)
        self._idle: list[httpx.AsyncClient] = []

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of ``concurrency``; held while a request is under way."""
        self._enter_loop()
        async with self._turns:
            yield

    async def ask(
        self, url: str, body: Any, seconds: float, headers: dict[str, str]
    ) -> Any:
        """The JSON of a successful answer; a GET without a body, else a POST.

        Args:
          seconds: until all of the answer is there. httpx's own timeout is for each
            piece of it, and some proxies send spaces while they wait.

        Raises:
          Failed: no success.
          BadAnswer: no JSON.
          httpx.RequestError: no connection, or no answer in time.
        """
        method = "GET" if body is None else "POST"
        options = {"timeout": httpx.Timeout(seconds, connect=30), "headers": headers}
        try:
            async with self._connection() as http, asyncio.timeout(seconds):
                response = await http.request(method, url, json=body, **options)
        except TimeoutError:
            raise httpx.ReadTimeout(f"not whole after {seconds:g} s") from None
        if not response.is_success:
            raise Failed(response.status_code, *read_error(response))
        return body_of(response)

    async def ask_lines(
        self, url: str, body: Any, seconds: float, headers: dict[str, str]
    ) -> AsyncIterator[Any]:
        """The JSON of each line of an answer, as it comes; otherwise as ``ask``.

        Args:
          seconds: until the next piece of the answer.
        """
        options = {"timeout": httpx.Timeout(seconds, connect=30), "headers": headers}
        async with (
            self._connection() as http,
            http.stream("POST", url, json=body, **options) as response,
        ):
            if not response.is_success:
                await response.aread()
                raise Failed(response.status_code, *read_error(response))
            rest = b""
            async for piece in response.aiter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield _json(line)
            if rest:
                raise BadAnswer("the last line has no end")

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        if self._loop is asyncio.get_running_loop():
            for http in self._idle:
                await http.aclose()
        self._idle, self._loop = [], None

    def _enter_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Connections of an earlier loop died with it.
            self._loop, self._idle = loop, []
            self._turns = asyncio.Semaphore(self._concurrency)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        """A connection for the caller alone.

        Each is an httpx client of its own: the pool of a single one looks at all its
        connections for every request, which with 500 of them is slower than the server.
        """
        self._enter_loop()
        loop = self._loop
        # The one that was used last is the least likely to have been closed.
        http = self._idle.pop() if self._idle else self._open()
        try:
            yield http
        finally:
            if self._loop is loop:
                self._idle.append(http)

    def _open(self) -> httpx.AsyncClient:
        if self._tls is None:
            # Shared: making one takes longer than a request.
            self._tls = httpx.create_ssl_context(trust_env=False)
        limits = httpx.Limits(keepalive_expiry=240)
        # Environment proxies are for the world, not for a trusted network.
        return httpx.AsyncClient(limits=limits, verify=self._tls, trust_env=False)


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise BadAnswer("JSON that is nested too deep") from None
    except ValueError as error:
        raise BadAnswer(f"a line that is no JSON ({error}): {line[:60]!r}") from None
