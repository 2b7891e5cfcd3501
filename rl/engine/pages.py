"""The pages of one device's cache: who uses them, and what the unused ones still hold.

Prompts are known by content: a running digest at the end of each whole chunk. An unused
page keeps what was computed in it until its turn comes, the longest unused first, to be
handed out again.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def digests_of(prompt: np.ndarray, chunk: int, adapter: int = 0) -> tuple[bytes, ...]:
    """A running digest at the end of each whole chunk, and one of the whole prompt.

    Those of another adapter are others: what it has computed is of other weights.
    """
    running = hashlib.blake2b(digest_size=16, salt=adapter.to_bytes(8, "little"))
    digests = []
    for start in range(0, len(prompt) - chunk + 1, chunk):
        running.update(prompt[start : start + chunk].tobytes())
        digests.append(running.digest())
    running.update(prompt[len(digests) * chunk :].tobytes() + b"end")
    return (*digests, running.digest())


class PagePool:
    """Allocates pages, counts their users, and finds computed prefixes in them.

    Attributes:
      size: number of pages.
      chunks: chunks per page.
    """

    def __init__(self, size: int, *, chunks: int):
        self.size, self.chunks = size, chunks
        self.clear()

    def clear(self) -> None:
        """Forget all content and all users."""
        self._empty = list(range(self.size))[::-1]
        self._idle: dict[int, None] = {}  # unused, with content, the oldest first
        self._users = [0] * self.size
        self._content: list[list[bytes]] = [[] for _ in range(self.size)]
        self._index: dict[bytes, int] = {}  # digest -> the page in which its chunk ends
        # Of the weights that computed the content: the adapter, and its version.
        self._version = [(0, 0)] * self.size

    @property
    def unused(self) -> int:
        """How many pages ``allocate`` could return now."""
        return len(self._empty) + len(self._idle)

    def match(self, digests: Sequence[bytes]) -> tuple[list[int], int]:
        """Pages that hold the first chunks of a prompt, and how many chunks they hold.

        Args:
          digests: of its whole chunks.
        """
        pages: list[int] = []
        for count, digest in enumerate(digests):
            page = self._index.get(digest)
            if page is None:
                return pages, count
            # It also holds the earlier chunks of the same page: the last one counts.
            pages[count // self.chunks :] = [page]
        return pages, len(digests)

    def allocate(self, count: int) -> list[int] | None:
        """``count`` pages without content, or None if there are fewer."""
        if count > self.unused:
            return None
        while len(self._empty) < count:
            page = next(iter(self._idle))
            del self._idle[page]
            for digest in self._content[page]:
                del self._index[digest]
            self._content[page] = []
            self._empty.append(page)
        pages = [self._empty.pop() for _ in range(count)]
        for page in pages:
            self._users[page] = 1
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Count one more user of each page."""
        for page in pages:
            self._idle.pop(page, None)
            self._users[page] += 1

    def free(self, pages: Sequence[int]) -> None:
        """Count one user less; a prompt's last pages are the first to be reused."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page] == 0:
                if self._content[page]:
                    self._idle[page] = None
                else:
                    self._empty.append(page)

    def stale(self, versions: Mapping[int, int]) -> int:
        """Pages whose content can be found and is of other weights than these.

        Args:
          versions: of each adapter.
        """
        held = (self._version[page] for page in set(self._index.values()))
        return sum(versions[adapter] != version for adapter, version in held)

    def forget(self, adapter: int) -> None:
        """No page holds any more what an adapter has computed; its users go on."""
        for page, content in enumerate(self._content):
            if not content or self._version[page][0] != adapter:
                continue
            for digest in content:
                del self._index[digest]
            self._content[page] = []
            if page in self._idle:
                del self._idle[page]
                self._empty.append(page)

    def record(
        self, page: int, digest: bytes, adapter: int = 0, version: int = 0
    ) -> None:
        """The page now holds the chunk of this digest, and all before it.

        Args:
          adapter, version: of the weights that computed it.
        """
        if digest not in self._index:
            self._version[page] = adapter, version
            self._index[digest] = page
            self._content[page].append(digest)
