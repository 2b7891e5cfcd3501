"""Connections that nobody keeps open by being slow."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

LEAST = 1000
"""Bytes of an answer that a client reads in a second, or it counts as gone."""


def patient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, for clients that may be slow for this many seconds.

    A connection is closed where a request's head takes longer, counted from its first
    byte or from the opening of the connection, and where hardly any of an answer is
    read for as long. (The body has its own limit: it is read by the routes.)
    """

    class Protocol(H11Protocol):
        def __init__(self, *arguments: Any, **named: Any):
            super().__init__(*arguments, **named)
            self._head: asyncio.TimerHandle | None = None
            self._unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait_for_head()
            else:
                self._head = _cancelled(self._head)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # The beginning of the next request came with the last one.
            if self.cycle.response_complete and self.conn.trailing_data[0]:
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head, self._unread = _cancelled(self._head), _cancelled(self._unread)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self._unread or self._look_later()

        def resume_writing(self) -> None:
            self._unread = _cancelled(self._unread)
            super().resume_writing()

        def _wait_for_head(self) -> None:
            self._head = self._head or self._end_later()

        def _end_later(self) -> asyncio.TimerHandle:
            return self.loop.call_later(seconds, self.transport.abort)

        def _look_later(self) -> asyncio.TimerHandle:
            """Ends the connection if about as much is unread then; else looks again."""
            most = self.transport.get_write_buffer_size() - LEAST * seconds

            def look() -> None:
                if self.transport.get_write_buffer_size() < most:
                    self._unread = self._look_later()
                else:
                    self.transport.abort()

            return self.loop.call_later(seconds, look)

    return Protocol


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
