"""Searches of many requests joined into few calls of the searcher."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scope_jax.inference.errors import ApiError

SearchFunction = Callable[[list[str], int], Sequence[Sequence[Any]]]


@dataclass
class _Waiting:
    queries: list[str]
    topk: int
    future: asyncio.Future


class SearchBatcher:
    """Runs ``search(queries, topk)`` in a worker thread, one call at a time.

    While a call runs, requests gather; the next call takes as many of them as fit in
    ``batch`` queries. Nothing waits for a batch to fill.

    Args:
      search: one list of results per query, best first.
      batch: queries of one call; a request with more goes alone.
      max_queue: requests that may wait; what comes above it is refused.
    """

    def __init__(self, search: SearchFunction, *, batch: int, max_queue: int):
        self.search, self.batch, self.max_queue = search, batch, max_queue
        self.calls = 0
        self.queries = 0
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task | None = None

    async def __call__(self, queries: list[str], topk: int) -> list[Sequence[Any]]:
        """The results of one request.

        Raises:
          ApiError: 503 when ``max_queue`` requests are waiting: what clients of
            Search-R1's format send again, which a 429 is not.
        """
        if len(self._waiting) >= self.max_queue:
            raise ApiError(
                503,
                f"{self.max_queue} searches are waiting: try again",
                code="queue_full",
                retry_after=1,
            )
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(queries, topk, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while taken := self._take():
            # A call for each number of results: what an approximate index finds among
            # its first depends on how many it is asked for.
            for topk in sorted({waiting.topk for waiting in taken}):
                await self._call([one for one in taken if one.topk == topk], topk)

    def _take(self) -> list[_Waiting]:
        taken, size = [], 0
        while self._waiting:
            following = self._waiting[0]
            if taken and size + len(following.queries) > self.batch:
                break
            self._waiting.popleft()
            # Its client went away while it waited.
            if following.future.cancelled():
                continue
            taken.append(following)
            size += len(following.queries)
        return taken

    async def _call(self, taken: list[_Waiting], topk: int) -> None:
        queries = [q for waiting in taken for q in waiting.queries]
        try:
            found = iter(await asyncio.to_thread(self.search, queries, topk))
        except Exception as error:
            for waiting in taken:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        self.calls += 1
        self.queries += len(queries)
        for waiting in taken:
            own = [next(found) for _ in waiting.queries]
            if not waiting.future.done():
                waiting.future.set_result(own)
