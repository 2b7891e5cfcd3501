"""From a checked call to its choices: prompts to ids, samples, scores.

A prompt's text is turned into ids by a thread of its own, after a look at its length:
on the event loop, one long text would keep all others waiting.
"""

import asyncio
import datetime
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from rl.engine.config import EngineConfig
from rl.engine.sampling import seed64
from rl.engine.stopping import first_stop
from rl.records import Completion, Request
from scope_jax.inference.errors import ApiError, bad_field
from scope_jax.inference.json_text import first_bad
from scope_jax.inference.protocol import (
    Choice,
    completion_json,
    cut_stop,
)
from scope_jax.inference.served import Served
from scope_jax.inference.validation import NON_FINITE, TOO_LONG, Call

# For one token of a JSON object: one in a hundred of the model's choices is found.
MOST_DRAWS = 300
MOST_VALUES = 2**21
"""Log-probs and echoed tokens of an answer, about 70 MB."""
# Two: a long prompt lets short ones pass. The tokenizer lets go of Python meanwhile.
_TOKENIZERS = ThreadPoolExecutor(2, thread_name_prefix="tokenize")


class Sampling:
    """One call on its way: what it asks of a model's engine, and the answer."""

    def __init__(self, call: Call, served: Served, prompts: list[tuple[int, ...]]):
        self.call, self.served, self.prompts = call, served, prompts

    @classmethod
    async def prepare(
        cls, call: Call, served: Served, engine: EngineConfig
    ) -> "Sampling":
        """Checks the call against the model that is to answer it.

        Raises:
          ApiError: 400, a prompt is too long or has ids that the model does not know.
        """
        for prompt in call.prompts:
            if (size := _bytes_of(prompt, call.tools)) > served.most_bytes:
                raise _too_long(f"{size:,} bytes", engine)
            if call.chat and len(prompt) > engine.max_length:  # each has a token
                raise _too_long(f"{len(prompt):,} messages", engine)
        prompts = await _ids(call, served)
        for ids in prompts:
            if not ids or len(ids) + (call.max_tokens != 0) > engine.max_length:
                raise _too_long(f"{len(ids)} tokens", engine)
            beyond = max(ids)
            if beyond >= served.config.vocab_size:
                why = f"this model has {served.config.vocab_size} token ids"
                raise bad_field("prompt", beyond, why)
        _check_size(call, prompts, engine.max_length)
        own = () if call.ignore_eos else served.renderer.stop_ids
        if len({*call.stop_ids, *own}) > engine.max_stop_ids:
            why = f"more than inference.engine.max_stop_ids={engine.max_stop_ids}"
            raise bad_field("stop_token_ids", call.stop_ids, why)
        return cls(call, served, prompts)

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts together."""
        return sum(map(len, self.prompts))

    async def choices(self) -> list[Choice]:
        """All choices of all prompts, in order.

        Raises:
          ApiError: 500, the model's logits are not finite.
          RuntimeError: the engine has ended.
        """
        n, best_of = self.call.n, self.call.best_of
        work = [
            self.sample(prompt, number)
            for prompt in range(len(self.prompts))
            for number in range(best_of)
        ]
        sampled = await all_of(work)
        found: list[Choice] = []
        for prompt in range(len(self.prompts)):
            own = sampled[prompt * best_of : (prompt + 1) * best_of]
            if best_of > n:
                own = sorted(own, key=lambda one: -_mean(one[0].logprobs))
            for completion, weights in own[:n]:
                found.append(self.choice(len(found), prompt, completion, weights))
        if self.call.logprobs or (self.call.echo and self.call.logprobs is not None):
            found = await all_of([self.scored(choice) for choice in found])
        return found

    async def answer(self) -> tuple[dict[str, Any], list[Choice]]:
        """The whole answer as JSON, and its choices."""
        choices = await self.choices()
        decode = self.served.renderer.decode
        if self.call.logprobs is None:
            return completion_json(self.call, choices, decode), choices
        # In a thread: names of 20 tokens in each place take a while.
        answer = await asyncio.to_thread(completion_json, self.call, choices, decode)
        return answer, choices

    def choice(
        self, index: int, prompt: int, completion: Completion, weights: str
    ) -> Choice:
        """A sample as the answer's choice number ``index``."""
        return Choice(
            index=index,
            prompt_ids=self.prompts[prompt],
            prompt=self.prompt_text(prompt) if self.call.echo else "",
            completion=completion,
            text=cut_stop(self.call, completion),
            fingerprint=weights,
        )

    def prompt_text(self, prompt: int) -> str:
        """A prompt for people."""
        given = self.call.prompts[prompt]
        return given if isinstance(given, str) else self.served.renderer.decode(given)

    def _request(self, prompt: int, number: int) -> Request:
        """The engine's record of one sample; the first has the call's own seed."""
        call, ids = self.call, self.prompts[prompt]
        room = self.served.max_length - len(ids)
        own = () if call.ignore_eos else self.served.renderer.stop_ids
        tokens = min(room if call.max_tokens is None else call.max_tokens, room)
        return Request(
            ids=ids,
            sampling=replace(call.sampling, max_new_tokens=tokens),
            stop=call.stop,
            stop_ids=tuple(dict.fromkeys((*call.stop_ids, *own))),
            seed64=seed64("choice", call.seed, number) if number else call.seed,
        )

    async def sample(
        self,
        prompt: int,
        number: int,
        *,
        watch: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[Completion, str]:
        """Sample ``number`` of a prompt, and the content hash of the weights.

        Args:
          watch: told all ids so far, on the engine's thread.

        Raises:
          ApiError: 500, the model's logits are not finite.
        """
        request = self._request(prompt, number)
        if not request.sampling.max_new_tokens:  # only the prompt's log-probs
            return Completion.nothing("length"), self.served.source.hash
        if self.call.json_object:
            return await self._object(request)
        return await self._complete(request, watch)

    async def _object(self, request: Request) -> tuple[Completion, str]:
        """Samples a JSON object, as under a grammar.

        A token behind which no object is possible is drawn again with other random
        numbers: what stays has the distribution of the good tokens alone. Where a model
        has none for long, the text ends as one that is too long.
        """
        decode = self.served.renderer.decode
        ids: list[int] = []
        logprobs: list[float] = []
        draws = stuck = cached = 0
        weights, step, end = self.served.source.hash, 8, None
        limit = request.sampling.max_new_tokens
        while len(ids) < limit and stuck < MOST_DRAWS and end is None:
            seed = request.seed64
            asked = replace(
                request,
                ids=(*request.ids, *ids),
                sampling=replace(
                    request.sampling, max_new_tokens=min(step, limit - len(ids))
                ),
                stop=(),
                seed64=seed64("again", seed, draws) if draws else seed,
            )
            found, weights = await self._complete(asked, None)
            cached = cached if draws else found.cached_tokens
            ended = found.finish_reason == "stop"  # by the last id, which has no text
            new = [*ids, *(found.ids[:-1] if ended else found.ids)]
            kept, whole = await asyncio.to_thread(first_bad, new, len(ids), decode)
            stuck = 0 if kept > len(ids) else stuck + 1
            step = 8 if ended or kept < len(new) else 2 * step
            logprobs += found.logprobs[: kept - len(ids)]
            ids, draws = new[:kept], draws + 1
            end = first_stop(decode(ids), self.call.stop)
            if whole and end is None:
                end = None, None
        text, (length, stop) = decode(ids), end or (None, None)
        return Completion(
            ids=tuple(ids),
            logprobs=tuple(logprobs),
            text=text[:length],
            finish_reason="stop" if end else "length",
            stop_string=stop,
            prompt_tokens=len(request.ids),
            cached_tokens=cached,
        ), weights

    async def _complete(
        self, request: Request, watch: Callable[[tuple[int, ...]], None] | None
    ) -> tuple[Completion, str]:
        completion, weights = await self.served.complete(request, watch=watch)
        if completion.finish_reason == "error" and not completion.problem:
            model = self.call.model
            why = f"model {model}: its logits are not finite: check its weights"
            raise ApiError(500, why, code=NON_FINITE)
        if completion.finish_reason not in ("stop", "length"):
            how = f"completion ended: {completion.finish_reason}"
            raise ApiError(
                500, f"model {self.call.model}: {how}", code="generation_failed"
            )
        return completion, weights

    async def scored(self, choice: Choice) -> Choice:
        """The choice with the scores that the call asks for."""
        ids = [*choice.prompt_ids, *choice.completion.ids]
        scores = await self.served.score(
            ids,
            self.call.sampling.temperature,
            alternatives=self.call.logprobs or 0,
        )
        return replace(choice, scores=scores)


async def all_of(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """All results; when one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _mean(logprobs: Sequence[float]) -> float:
    return sum(logprobs) / max(len(logprobs), 1)


async def _ids(call: Call, served: Served) -> list[tuple[int, ...]]:
    """The token ids of each prompt."""
    if all(isinstance(prompt, tuple) for prompt in call.prompts):
        return list(call.prompts)
    loop = asyncio.get_running_loop()
    work = [
        loop.run_in_executor(_TOKENIZERS, _tokenized, call, served, prompt)
        for prompt in call.prompts
    ]
    return [tuple(ids) for ids in await asyncio.gather(*work)]


def _tokenized(call: Call, served: Served, prompt: Any) -> Sequence[int]:
    if call.chat:
        # As other servers do; a run sends ids, and never asks the clock.
        renderer = served.renderer.on_day(datetime.date.today().isoformat())
        return renderer.prompt_ids(prompt, call.tools)
    if isinstance(prompt, str):
        # As vLLM does: a prompt in text is taken as rendered, its special tokens count.
        return served.tokenizer(prompt)["input_ids"]
    return prompt


def _bytes_of(prompt: Any, tools: Any) -> int:
    """Bytes of text that a prompt has to be tokenized; none if it is ids."""
    if isinstance(prompt, tuple):
        return 0
    if isinstance(prompt, str):
        return len(prompt.encode())
    calls = [message.get("tool_calls") for message in prompt]
    more = json.dumps([calls, tools], ensure_ascii=False) if tools or any(calls) else ""
    return len(more.encode()) + sum(len(m["content"].encode()) for m in prompt)


def _check_size(call: Call, prompts: Sequence[Sequence[int]], longest: int) -> None:
    """Refuses a call whose answer could have too many log-probs and echoed tokens."""
    echoed = sum(map(len, prompts)) * call.n if call.echo else 0
    rooms = (longest - len(ids) for ids in prompts)
    most = longest if call.max_tokens is None else call.max_tokens
    sampled = sum(min(room, most) for room in rooms) * call.n
    each = 0 if call.logprobs is None else call.logprobs + 1
    if (values := echoed + (echoed + sampled) * each) > MOST_VALUES:
        raise ApiError(
            400,
            f"an answer of up to {values:,} log-probs and echoed tokens is more than "
            f"{MOST_VALUES:,}: ask for fewer of prompts, choices, tokens, log-probs",
            code="invalid_value",
        )


def _too_long(size: str, engine: EngineConfig) -> ApiError:
    return ApiError(
        400,
        f"prompt of {size}: leaves no room within inference.engine."
        f"max_length={engine.max_length}: shorten it, or raise that",
        code=TOO_LONG,
    )
