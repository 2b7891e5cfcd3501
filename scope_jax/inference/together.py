"""The client's side of batches: what is asked at the same moment is sent together.

Conversations wait for the same answers and go on in the same moment, so that their next
requests are ready together. An HTTP request costs the trainer more than a small model's
turn does; one for many costs as much as one for each.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from scope_jax.inference.answers import BadAnswer

MOST_ITEMS = 64
"""Of one batch. Two fill the slots of a large engine."""

Item = TypeVar("Item")
Send = Callable[[Sequence[Item]], AsyncIterator[tuple[int, Any]]]
"""Sends items; yields the index of one and its answer, or the error that it has."""


class Together(Generic[Item]):
    """Collects what is asked before the event loop's next turn.

    Args:
      send: sends a batch. What it raises is the error of all that have no answer yet.
      weight: of an item.
      most: largest weight of a batch of several items.
      kind: of an item; only equal ones go together.
    """

    def __init__(
        self,
        send: Send,
        *,
        weight: Callable[[Item], int] = lambda item: 0,
        most: int,
        kind: Callable[[Item], int] = lambda item: 0,
    ):
        self._send, self._weight, self._most, self._kind = send, weight, most, kind
        self._waiting: list[tuple[Item, asyncio.Future]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task] = set()

    async def ask(self, item: Item) -> Any:
        """The answer to one item; raises its error."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # What an earlier loop left behind died with it.
            self._loop, self._waiting, self._running = loop, [], set()
        future = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._begin)
        self._waiting.append((item, future))
        return await future

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []
        kinds: dict[int, list[tuple[Item, asyncio.Future]]] = {}
        for one in waiting:
            kinds.setdefault(self._kind(one[0]), []).append(one)
        for same in kinds.values():
            batch: list[tuple[Item, asyncio.Future]] = []
            total = 0
            for item, future in same:
                weight = self._weight(item)
                full = len(batch) == MOST_ITEMS or total + weight > self._most
                if batch and full:
                    self._start(batch)
                    batch, total = [], 0
                batch.append((item, future))
                total += weight
            self._start(batch)

    def _start(self, batch: list[tuple[Item, asyncio.Future]]) -> None:
        futures = [future for _, future in batch]
        work = self._play([item for item, _ in batch], futures)
        # A task that nobody holds would be thrown away while it runs.
        self._running.add(play := asyncio.create_task(work))
        play.add_done_callback(self._running.discard)
        given_up = partial(_given_up, play, futures)
        for future in futures:
            future.add_done_callback(given_up)

    async def _play(self, items: list[Item], futures: list[asyncio.Future]) -> None:
        error: Exception = BadAnswer("it ended before all were answered")
        try:
            async for index, answer in self._send(items):
                if futures[index].done():
                    continue
                if isinstance(answer, Exception):
                    futures[index].set_exception(answer)
                else:
                    futures[index].set_result(answer)
        except Exception as raised:
            error = raised
        for future in futures:
            if not future.done():
                future.set_exception(error)


def _given_up(
    play: asyncio.Task, futures: Sequence[asyncio.Future], future: asyncio.Future
) -> None:
    """Ends a batch for whose answers nobody waits any longer: the server stops, too."""
    if future.cancelled() and all(one.done() for one in futures):
        play.cancel()
