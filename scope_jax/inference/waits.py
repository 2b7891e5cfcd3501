"""What the client waits for, as a person reads it on the screen."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator

log = logging.getLogger("scope_jax")

# A restart of our own server takes less, and nobody needs to hear of it twice.
FIRST_SECONDS = 5.0
AGAIN_SECONDS = 30.0


class Waits:
    """Which servers fail, and which say nothing; each is named every so often."""

    def __init__(self):
        self._pending: Counter[str] = Counter()
        self._heard: dict[str, float] = {}  # or asked, where nothing was pending
        self._failing: dict[str, float] = {}
        self._said: dict[str, float] = {}

    @contextlib.contextmanager
    def for_answer(self, url: str) -> Iterator[None]:
        """A request is under way."""
        if not self._pending[url]:
            self._heard[url] = time.monotonic()
        self._pending[url] += 1
        try:
            yield
            self._heard[url] = time.monotonic()
        finally:
            self._pending[url] -= 1

    def failed(self, url: str, why: str, most: float) -> None:
        """A request has failed and will be sent again.

        Args:
          most: seconds for which it may fail.
        """
        now = time.monotonic()
        lasted = now - self._failing.setdefault(url, now)
        if lasted >= FIRST_SECONDS and self._may_say(url):
            log.warning(
                "waiting for %s, for %.0f of at most %.0f s "
                "(inference.outage_timeout): %s",
                *(url, lasted, most, why),
            )

    def succeeded(self, url: str) -> None:
        """An answer was right."""
        since = self._failing.pop(url, None)
        if since is not None and self._said.pop(url, None):
            log.info("%s answers again after %.0f s", url, time.monotonic() - since)

    def say_overdue(self, most: float) -> None:
        """Names the servers of which no answer came for a while.

        Args:
          most: seconds that an answer may take.
        """
        for url, count in self._pending.items():
            silent = time.monotonic() - self._heard.get(url, 0.0)
            if count and silent >= AGAIN_SECONDS and self._may_say(url):
                log.warning(
                    "waiting for %d answers of %s, the last one came %.0f s ago (each "
                    "may take %.0f s)",
                    *(count, url, silent, most),
                )

    def _may_say(self, url: str) -> bool:
        now = time.monotonic()
        due = now - self._said.get(url, -AGAIN_SECONDS) >= AGAIN_SECONDS
        if due:
            self._said[url] = now
        return due
