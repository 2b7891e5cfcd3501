"""The trainer's side: completions and searches over HTTP, retried where that helps."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import httpx

from models.control_tokens import encodable
from retrieval.passages import Passage
from rl.engine.counters import Totals
from rl.records import Completion, Request
from scope_jax.inference.access import Secrets, bearer
from scope_jax.inference.answers import (
    BadAnswer,
    error_of,
    read_completion,
    read_hash,
    read_line,
    read_search,
    read_stats,
    read_weights,
    rows_of,
)
from scope_jax.inference.config import InferenceConfig
from scope_jax.inference.protocol import request_json
from scope_jax.inference.together import Together
from scope_jax.inference.transport import Failed, Transport
from scope_jax.inference.validation import (
    MOST_QUERY_TEXT,
    NON_FINITE,
    TOO_LONG,
    WRONG_WEIGHTS,
)
from scope_jax.inference.waits import Waits

log = logging.getLogger(__name__)

# The reference's (spec 2.4), and 429: our server answers it when its queue is full.
RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})
LONGEST_WAIT = 10
"""Most seconds between two attempts."""
MOST_TOKENS = 2**16
"""Token ids of all prompts that are sent together: half of what any server takes."""

T = TypeVar("T")


class InferenceError(RuntimeError):
    """A request to an inference server that did not succeed."""


class RequestRefused(InferenceError):
    """The server understood and refused; asking again would not help."""

    def __init__(self, url: str, status: int, message: str, code: str | None):
        super().__init__(f"{url}: {status}: {message}")
        self.status, self.message, self.code = status, message, code


class ServerUnavailable(InferenceError):
    """All attempts failed for ``outage_timeout`` s: no connection, no answer in time,
    no answer of the right form, or a server's fault."""


class Client:
    """Completions, searches, and the exchange of weights.

    One object serves a whole run: it may be used from one event loop after another,
    with any number of requests at once; ``config.concurrency`` of them are under way.

    Args:
      config: timeouts, concurrency, and the URLs of other people's servers.
      url: our server's address (`Supervisor.url`); default ``config.url``.
      given: what is shown to servers; default: what the environment gives.
    """

    def __init__(
        self, config: InferenceConfig, url: str = "", given: Secrets | None = None
    ):
        self.config = config
        self.secrets = given or Secrets.from_environment()
        self.weights: dict[str, str] = {}
        """Content hash that the answers of our server's models must have."""
        self.url = (url or config.url).rstrip("/")
        self.judge_url = config.judge_url.rstrip("/")
        self.search_url = (config.retrieval_url or self.url).rstrip("/")
        self._http = Transport(config.concurrency)
        self._completions = Together(
            self._ask_completions,
            weight=lambda body: len(body["prompt"]),
            most=MOST_TOKENS,
        )
        self._searches = Together(
            self._ask_searches,
            weight=lambda body: sum(map(len, body["queries"])),
            most=MOST_QUERY_TEXT // 2,
            kind=lambda body: body["topk"],
        )
        self._waits = Waits()

    async def complete(self, model: str, request: Request) -> Completion:
        """Samples a completion from the model called ``model``.

        A request whose deadline passes gives an empty completion, "cancelled", and the
        server stops working on it. A prompt that leaves no room gives an empty one as
        well, "length", and so do logits that are not finite, "error". A server that is
        not ours may return no ids: the text is what counts.

        Raises:
          RequestRefused: unknown model, bad field.
          ServerUnavailable: all attempts failed, for as long as one may.
        """
        ours = not (model == "judge" and self.judge_url)
        base = self.url if ours else self.judge_url
        if not ours:
            model = self.config.judge_model or model
        body = request_json(model, request, ours=ours)
        url, timeout = f"{base}/v1/completions", self.config.request_timeout
        shown = self._headers(base, "" if ours else "judge")
        send = partial(self._http.ask, url, body, timeout, shown)
        if ours and request.deadline is None:  # a deadline ends one request alone
            send = partial(self._completions.ask, body)
        left = None
        if request.deadline is not None:
            left = request.deadline - time.monotonic()

        def read(answer: Any) -> Completion:
            completion = read_completion(answer)
            if ours:
                self._check_weights(model, answer.get("system_fingerprint"))
            return completion

        try:
            async with asyncio.timeout(left):
                return await self._send(url, send, read)
        except TimeoutError:
            return Completion.nothing("cancelled", prompt_tokens=len(request.ids))
        except RequestRefused as refused:
            # A conversation that outgrew the model is data, as it is for our engine.
            if refused.code == TOO_LONG:
                return Completion.nothing("length", prompt_tokens=len(request.ids))
            if refused.code == NON_FINITE:
                return Completion.nothing("error", prompt_tokens=len(request.ids))
            raise

    async def search(
        self, queries: Sequence[str], topk: int = 3
    ) -> list[list[tuple[Passage, float]]]:
        """Passages and scores of each query, best first (spec 2.4).

        Raises:
          RequestRefused: the server has no passages, or a bad field.
          ServerUnavailable: all attempts failed, for as long as one may.
        """
        # Models write lone surrogates, which no request can hold.
        asked = [encodable(query) for query in queries]
        body = {"queries": asked, "topk": topk, "return_scores": True}
        url, timeout = f"{self.search_url}/retrieve", self.config.search_timeout
        shown = self._headers(self.search_url, "retrieval")
        send = partial(self._http.ask, url, body, timeout, shown)
        if self.search_url == self.url:
            send = partial(self._searches.ask, body)

        def read(found: Any) -> list[list[tuple[Passage, float]]]:
            return read_search(found, len(queries))

        return await self._send(url, send, read)

    async def load_model(self, name: str, path: str, hash: str = "") -> str:
        """Serves the folder ``path`` (on the server's machine) as ``name``.

        Returns the content hash. Loading what is already there costs nothing.

        Raises:
          RequestRefused: the folder cannot be loaded, or its hash is another.
          ServerUnavailable: all attempts failed, for as long as one may.
        """
        body = {"path": str(path), "hash": hash}
        url, timeout = f"{self.url}/v1/models/{name}", self.config.ready_timeout
        self.weights.pop(name, None)
        shown = self.secrets.control_headers()
        send = partial(self._http.ask, url, body, timeout, shown)
        found = await self._send(url, send, read_hash)
        self.weights[name] = found
        return found

    async def served(self) -> dict[str, str]:
        """Content hash of what our server serves under each name.

        Raises:
          RequestRefused: no key, or a wrong one.
          ServerUnavailable: all attempts failed, for as long as one may.
        """
        url, timeout = f"{self.url}/v1/models", self.config.request_timeout
        send = partial(self._ask, url, None, timeout)
        return await self._send(url, send, read_weights)

    def _check_weights(self, model: str, found: str | None) -> None:
        """Refuses an answer of other weights than were agreed upon."""
        wanted = self.weights.get(model)
        if wanted is not None and found is None:
            raise BadAnswer("system_fingerprint: missing, and our server gives one")
        if wanted is not None and found != wanted:
            why = f"{model}: answered by weights {found}, not {wanted}: somebody "
            why += "exchanged them: start the server and the run again"
            raise RequestRefused(self.url, 409, why, WRONG_WEIGHTS)

    def _headers(self, base: str, who: str = "") -> dict[str, str]:
        """What is shown to a server: its own secrets, and no other's.

        Args:
          base: its address. Two may share the beginning of theirs, behind a gateway.
          who: "judge" or "retrieval", unless it is ours whatever the address.
        """
        if not who or base == self.url:
            return self.secrets.headers()
        return bearer(getattr(self.secrets, who))

    async def engines(
        self, names: Sequence[str]
    ) -> dict[tuple[str, str], Totals] | None:
        """What our server's engines have counted since their starts. Not retried.

        Args:
          names: models to ask about; of those that share an engine, the first has it.

        Returns:
          totals by model and engine id, which is another one after a restart; None
          where the server does not say.
        """
        url = f"{self.url}/stats"
        try:
            async with self._http.turn():
                found = await self._http.ask(url, None, 2.0, self.secrets.headers())
            return read_stats(found, names)
        except (httpx.RequestError, BadAnswer, Failed) as error:
            log.debug("%s: %s", url, _describe(error))
            return None

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        await self._http.close()

    async def _ask(self, url: str, body: Any, seconds: float) -> Any:
        """Asks our server, where nothing has to be controlled."""
        return await self._http.ask(url, body, seconds, self.secrets.headers())

    async def _ask_completions(
        self, bodies: Sequence[dict[str, Any]]
    ) -> AsyncIterator[tuple[int, Any]]:
        """Sends completions to our server, several at once; see ``Together``."""
        url, seconds = f"{self.url}/v1/completions", self.config.request_timeout
        if len(bodies) == 1:
            yield 0, await self._ask(url, bodies[0], seconds)
            return
        batch, body = f"{url}/batch", {"requests": bodies}
        lines = self._http.ask_lines(batch, body, seconds, self.secrets.headers())
        async for line in lines:
            index, status, body = read_line(line, len(bodies))
            right = status == 200
            yield index, body if right else Failed(status, *error_of(body))

    async def _ask_searches(
        self, bodies: Sequence[dict[str, Any]]
    ) -> AsyncIterator[tuple[int, Any]]:
        """Sends searches to our server, several as one; see ``Together``."""
        url, seconds = f"{self.url}/retrieve", self.config.search_timeout
        queries = [query for body in bodies for query in body["queries"]]
        try:
            found = await self._ask(url, bodies[0] | {"queries": queries}, seconds)
        except Failed as failed:
            if len(bodies) == 1 or failed.status in RETRIED_STATUS:
                raise
            # What one of them did wrong is no fault of the others.
            for index, body in enumerate(bodies):
                yield index, await self._alone(url, body, seconds)
            return
        if len(bodies) == 1:
            yield 0, found
            return
        rows = iter(rows_of(found, len(queries)))
        for index, body in enumerate(bodies):
            yield index, {"result": [next(rows) for _ in body["queries"]]}

    async def _alone(self, url: str, body: Any, seconds: float) -> Any:
        try:
            return await self._ask(url, body, seconds)
        except Failed as failed:
            return failed

    async def _send(
        self, url: str, send: Callable[[], Awaitable[Any]], read: Callable[[Any], T]
    ) -> T:
        """What ``read`` makes of a successful answer.

        What fails for a reason of the server's, an answer of another form included, is
        sent again after 1, 2, 3, ... s (spec 2.4, which ends with the tenth attempt).
        """
        failed_first: float | None = None
        attempt = 0
        while True:
            attempt += 1
            try:
                # The turn is given back during the wait: others may have more luck.
                async with self._http.turn():
                    with self._waits.for_answer(url):
                        answer = await send()
                found = read(answer)
                self._waits.succeeded(url)
                return found
            except Failed as failed:
                # The same request would give the same logits.
                retried = failed.status in RETRIED_STATUS and failed.code != NON_FINITE
                if not retried:
                    raise RequestRefused(
                        url, failed.status, failed.message, failed.code
                    ) from None
                why = str(failed)
            except BadAnswer as error:
                why = f"not an answer to this request: {error}"
            except httpx.RequestError as error:
                why = _describe(error)
            log.debug("%s: attempt %d: %s", url, attempt, why)
            now, most = time.monotonic(), self.config.outage_timeout
            failed_first = now if failed_first is None else failed_first
            left = failed_first + most - now
            if left <= 0:
                raise ServerUnavailable(
                    f"{url}: {why}: {attempt} attempts in {now - failed_first:.0f} s "
                    "(inference.outage_timeout)"
                )
            self._waits.failed(url, why, most)
            await asyncio.sleep(min(attempt, LONGEST_WAIT, left))

    def say_waits(self) -> None:
        """Says on the screen which answers are overdue; to be called now and then."""
        self._waits.say_overdue(self.config.request_timeout)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
