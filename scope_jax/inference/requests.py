"""Bodies of requests as they come in, and clients that go away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from scope_jax.inference.errors import ApiError, read_json

# How many times the longest body is read to its end before it is refused.
DRAINED = 16
# Bytes that are read on the event loop, in about a millisecond.
SMALL = 2**16

T = TypeVar("T")


async def read_body(
    request: HttpRequest,
    parse: Callable[[Any], T],
    *,
    limit: int,
    values: int,
    seconds: float,
) -> T:
    """What a body says; it must come in time and not be too long.

    Args:
      parse: makes it of the body's JSON.
      limit: most bytes.
      values: most values in it.
      seconds: in which all of it must be there.

    Raises:
      ApiError: 400, 408 or 413.
      ClientDisconnect: the client went away.
    """
    chunks, size = [], 0
    why = f"body: more than {limit} bytes: send less at once"
    too_long = ApiError(413, why, code="body_too_large")
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    # Thrown away, so that a client that only sends reads this.
                    chunks.clear()
                    if size > DRAINED * limit:
                        raise too_long
                else:
                    chunks.append(chunk)
    except TimeoutError as error:
        why = f"body: not here after {seconds} s"
        raise ApiError(408, why, code="too_slow") from error
    if size > limit:
        raise too_long
    raw = b"".join(chunks)
    if size < SMALL:
        return parse(read_json(raw))
    return await asyncio.to_thread(_read_long, raw, parse, values)


def _read_long(raw: bytes, parse: Callable[[Any], T], values: int) -> T:
    # Python's reader lets nobody else go on before its end, which 4 MB of text reach in
    # 2 ms, a million lists in 500: counted first, by what stands between them.
    if (commas := raw.count(b",")) >= values:
        why = f"body: {commas + 1} values and commas, more than {values}"
        raise ApiError(413, f"{why}: send less at once", code="body_too_large")
    return parse(read_json(raw))


async def unless_gone(request: HttpRequest, work: Awaitable[Any]) -> Any:
    """The result of ``work``, which is cancelled if the client goes away.

    Raises:
      ClientDisconnect: it went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        # Until its work has left the engine, too.
        await asyncio.wait({task, gone})


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
