"""Chat completions of a server that is somebody else's, such as a hosted judge.

Messages go over the wire, so the model may have any tokenizer. What fails for the
server's reasons is sent again after a growing pause; what still fails is returned as a
failure, and its caller decides what it counts.
"""

import asyncio
import hashlib
import json
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field

from models.errors import UserError
from models.ranges import NOT_NEGATIVE, POSITIVE, TEMPERATURE, Count, check_fields
from scope_jax.inference.access import Secrets, bearer
from scope_jax.inference.answers import BadAnswer, Text, body_of, read, read_error

log = logging.getLogger("scope_jax")

RATE_LIMIT = 429
REFUSED = frozenset({401, 403, 404, 405})
"""The address, the model's name or the key is wrong: so are all other requests."""
OPENAI = "api.openai.com"
MOST_PAUSE = 600.0
"""Longest pause that a server may ask for, in seconds."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How a server is asked; numbers are the reference's (spec 10)."""

    url: str = ""
    """Address, with or without `/v1`; in an evaluation `--judge URL#MODEL` says it."""
    model: str = ""
    """Name of the model there, likewise."""
    temperature: Annotated[float | None, TEMPERATURE] = 1.0
    """None sends none: some hosted models take no other than their own."""
    max_tokens: Count = 16384
    """Most tokens of an answer, thinking included."""
    system_role: Literal["system", "developer", "user"] = "system"
    """What a system message is sent as; `user` puts it before the first user's."""
    concurrency: Count = 16
    """Requests under way at the same time."""
    attempts: Count = 3
    """How often a request is sent before it counts as failed."""
    rate_attempts: Count = 10
    """The same where the server says that it is asked too often."""
    backoff: Annotated[float, NOT_NEGATIVE] = 2.0
    """Seconds before the second attempt; each further pause is twice as long. Up to
    half of it is added at random."""
    rate_pause: Annotated[float, NOT_NEGATIVE] = 30.0
    """Least pause after such an answer, in seconds."""
    timeout: Annotated[float, POSITIVE] = 600.0
    """Seconds that an answer may take."""

    def __post_init__(self):
        check_fields(self)

    @property
    def address(self) -> str:
        """Where chat completions are."""
        return f"{self.url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer and what it cost, or why there is none.

    Attributes:
      text: None if every attempt failed.
      problem: why the last attempt failed.
      prompt_tokens, cached_tokens, completion_tokens: as the server counts them.
      attempts: how often it was asked.
    """

    text: str | None
    problem: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1


class _Message(BaseModel):
    content: Text | None = None


class _Choice(BaseModel):
    message: _Message


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Answer(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


class ChatClient:
    """Asks one server; a context manager of one event loop.

    Args:
      config: which, and how.
      key: shown to it; None: what the environment gives for it.
    """

    def __init__(self, config: ChatConfig, key: str | None = None):
        self.config = config
        self._key = key_for(config.url) if key is None else key

    async def __aenter__(self) -> "ChatClient":
        self._slots = asyncio.Semaphore(self.config.concurrency)
        limits = httpx.Limits(max_connections=self.config.concurrency)
        # Unlike our own servers it may be behind a proxy of the environment.
        self._http = httpx.AsyncClient(limits=limits, headers=bearer(self._key))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()

    async def ask(self, messages: Sequence[Mapping[str, Any]], seed: int = 0) -> Reply:
        """The answer to a conversation, or the failure of every attempt.

        Args:
          messages: of it.
          seed: sent along; not every server heeds it.

        Raises:
          UserError: the server refuses the key, or knows no such model or address.
        """
        body = self._body(messages, seed)
        pauses = random.Random(_digest(body))  # a request's own, whoever else is asked
        attempt, limited, failed = 0, 0, 0
        while True:
            attempt += 1
            try:
                async with self._slots:  # not during a pause
                    response = await self._post(body)
                if response.is_success:
                    return self._reply(body_of(response), attempt)
                why, _ = read_error(response)
                problem, code = f"{response.status_code}: {why}", response.status_code
                if code in REFUSED:
                    raise UserError(
                        f"{self.config.address}: {problem}: check the address, the "
                        "model's name (URL#NAME) and the key (SCOPE_JUDGE_API_KEY)"
                    )
                if code == RATE_LIMIT:
                    limited += 1
                elif code < 500:  # it would be refused again
                    return Reply(text=None, problem=problem, attempts=attempt)
                else:
                    failed += 1
                asked = response.headers.get("retry-after", "")
            except (BadAnswer, httpx.RequestError) as error:
                problem, code, asked = f"{type(error).__name__}: {error}", 0, ""
                failed += 1
            most = self.config
            if failed >= most.attempts or limited >= most.rate_attempts:
                return Reply(text=None, problem=problem, attempts=attempt)
            log.debug("%s: attempt %d: %s", self.config.address, attempt, problem)
            await asyncio.sleep(self._pause(failed, code, asked, pauses))

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        """The whole answer.

        Raises:
          BadAnswer: it takes too long, though something of it comes now and then.
          httpx.RequestError: no connection, or nothing comes.
        """
        seconds, url = self.config.timeout, self.config.address
        try:
            async with asyncio.timeout(seconds):
                return await self._http.post(url, json=body, timeout=seconds)
        except TimeoutError:
            raise BadAnswer(f"not whole after {seconds:g} s") from None

    def _body(self, messages: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
        config = self.config
        sent = [{"role": m["role"], "content": str(m["content"])} for m in messages]
        if sent[0]["role"] == "system":
            if config.system_role == "user":
                sent[1]["content"] = f"{sent[0]['content']}\n\n{sent[1]['content']}"
                sent = sent[1:]
            else:
                sent[0]["role"] = config.system_role
        body: dict[str, Any] = {
            "model": config.model,
            "messages": sent,
            "max_completion_tokens": config.max_tokens,
            "seed": seed % 2**31,
        }
        if config.temperature is not None:
            body["temperature"] = config.temperature
        return body

    def _reply(self, found: Any, attempt: int) -> Reply:
        """An answer's text and cost.

        Raises:
          BadAnswer: it has no text, or another form.
        """
        answer = read(_Answer, found)
        text = answer.choices[0].message.content
        if text is None:
            raise BadAnswer("message.content: null")
        usage = answer.usage or _Usage()
        details = usage.prompt_tokens_details or _Details()
        return Reply(
            text=text,
            prompt_tokens=usage.prompt_tokens or 0,
            cached_tokens=details.cached_tokens or 0,
            completion_tokens=usage.completion_tokens or 0,
            attempts=attempt,
        )

    def _pause(
        self, failed: int, code: int, asked: str, pauses: random.Random
    ) -> float:
        """Seconds until the next attempt, after so many that failed."""
        pause = self.config.backoff * 2.0 ** (failed - 1)
        if code == RATE_LIMIT:
            wanted = float(asked) if asked.replace(".", "", 1).isdecimal() else 0.0
            pause = max(min(wanted, MOST_PAUSE), self.config.rate_pause)
        return min(pause, MOST_PAUSE) * (1 + pauses.random() / 2)


def key_for(url: str) -> str:
    """What the environment gives for a server: never another server's key."""
    secrets = Secrets.from_environment()
    if secrets.judge:
        return secrets.judge
    hosted = urlsplit(url).hostname == OPENAI
    return os.environ.get("OPENAI_API_KEY", "") if hosted else ""


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
