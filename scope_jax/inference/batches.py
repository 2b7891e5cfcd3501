"""Several completions in one request, each answered as soon as it is ready.

A conversation of a small model is many short requests, whose HTTP costs more than the
model does. `POST /v1/completions/batch` takes the bodies of requests that are ready
together. The answer is a line of JSON for each, in the order in which they end, with
the status and body that the request would have had by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from scope_jax.inference import encoding

Answer = Callable[[Any], Awaitable[tuple[int, Any]]]
"""Body of a request -> status and body of its answer; raises nothing."""


async def lines(bodies: Sequence[Any], answer: Answer) -> AsyncIterator[bytes]:
    """Lines ``{"index", "status", "body"}``, as many at once as are ready.

    Whoever stops reading ends the work on those that are left.

    Args:
      bodies: of the requests.
      answer: to one of them.
    """
    ended: asyncio.Queue[asyncio.Task] = asyncio.Queue()
    tasks = {asyncio.ensure_future(answer(body)): i for i, body in enumerate(bodies)}
    for task in tasks:
        task.add_done_callback(ended.put_nowait)
    left = len(tasks)
    try:
        while left:
            ready = [await ended.get()]
            while not ended.empty():
                ready.append(ended.get_nowait())
            left -= len(ready)
            said = [await line(tasks[task], *task.result()) for task in ready]
            yield b"".join(said)
    finally:
        for task in tasks:
            task.cancel()
        # Until their work has left the engine, too.
        await asyncio.wait(tasks)


async def line(index: int, status: int, body: Any) -> bytes:
    """One answer; without the line breaks that only some programs know."""
    said = await encoding.encoded(body, ascii_only=True)
    return b'{"index":%d,"status":%d,"body":%b}\n' % (index, status, said)
