"""Answers in pieces, as server-sent events in OpenAI's format."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from scope_jax.inference.completions import Sampling, all_of
from scope_jax.inference.protocol import Choice, answer_head, logprobs_json, usage_json
from scope_jax.inference.validation import Call

# (index of a choice, text that it got, the choice itself at its end)
Pieces = asyncio.Queue[tuple[int, str, Choice | None]]


async def stream(
    sampling: Sampling, done: Callable[[list[Choice]], None]
) -> AsyncIterator[dict[str, Any]]:
    """Pieces of the answer, in OpenAI's format; log-probs come in one piece.

    Args:
      done: told all choices at the end.
    """
    call, total = sampling.call, len(sampling.prompts) * sampling.call.n
    kind = "chat.completion.chunk" if call.chat else "text_completion"
    head = answer_head(call, kind, sampling.served.source.hash)
    if call.include_usage:
        head["usage"] = None
    for piece in _first(sampling, total):
        yield head | {"choices": [piece]}
    pieces: Pieces = asyncio.Queue()
    tasks = [
        asyncio.ensure_future(_follow(sampling, index, pieces))
        for index in range(total)
    ]
    for task in tasks:
        task.add_done_callback(lambda task: _wake(task, pieces))
    finished: list[Choice] = []
    try:
        while len(finished) < total:
            index, text, choice = await pieces.get()
            if index < 0:  # somebody failed
                await all_of(tasks)
            if choice is None:
                yield head | {"choices": [_piece(call, index, text)]}
                continue
            if call.logprobs is None:
                last = _last(sampling, text, choice)
            else:  # in a thread, see ``Sampling.answer``
                last = await asyncio.to_thread(_last, sampling, text, choice)
            for piece in last:
                yield head | {"choices": [piece]}
            finished.append(choice)
    finally:
        for task in tasks:
            task.cancel()
    done(finished)
    if call.include_usage:
        yield head | {"choices": [], "usage": usage_json(finished)}


async def _follow(sampling: Sampling, index: int, pieces: Pieces) -> None:
    """Puts the pieces of one choice while it is sampled."""
    call = sampling.call
    prompt, number = divmod(index, call.n)
    text = Growing(call, sampling.served.renderer.decode)
    loop = asyncio.get_running_loop()

    def put(ids: tuple[int, ...]) -> None:
        if piece := text.grown(ids):
            pieces.put_nowait((index, piece, None))

    def watch(ids: tuple[int, ...]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(put, ids)

    whole = call.logprobs is not None or call.json_object
    sample = sampling.sample(prompt, number, watch=None if whole else watch)
    choice = sampling.choice(index, prompt, *await sample)
    if call.logprobs or (call.echo and call.logprobs is not None):
        choice = await sampling.scored(choice)
    said = choice.prompt + choice.text if whole else text.rest(choice.text)
    pieces.put_nowait((index, said, choice))


def _first(sampling: Sampling, total: int) -> Iterator[dict[str, Any]]:
    """What stands before all that is sampled."""
    call = sampling.call
    for index in range(total):
        if call.chat:
            start = {"role": "assistant", "content": "", "refusal": None}
            yield _piece(call, index, "") | {"delta": start}
        elif call.echo and call.logprobs is None:
            yield _piece(call, index, sampling.prompt_text(index // call.n))


def _last(sampling: Sampling, text: str, choice: Choice) -> list[dict[str, Any]]:
    """The last text of a choice, and how it ended."""
    call, end = sampling.call, choice.completion
    piece = _piece(call, choice.index, text)
    if call.logprobs is not None:
        decode = sampling.served.renderer.decode
        piece["logprobs"] = logprobs_json(call, choice, decode)
    before = []
    if call.chat and text:
        before = [piece]
        piece = _piece(call, choice.index, "")
    if call.chat:
        piece["delta"] = {}
    piece["finish_reason"] = end.finish_reason
    piece["stop_reason"] = end.stop_string
    if call.return_ids:
        piece["token_ids"] = list(end.ids)
    return [*before, piece]


class Growing:
    """A completion's text while it grows: what can be shown, because it will stay.

    Kept back are the bytes of an unfinished character, and as much of the end as could
    be the beginning of a stop string.
    """

    def __init__(self, call: Call, decode: Callable[[Sequence[int]], str]):
        longest = max((len(stop) for stop in call.stop), default=1)
        self._spare, self._decode = longest - 1, decode
        self._sent = ""

    def grown(self, ids: Sequence[int]) -> str:
        """What can be shown beyond what was shown before."""
        text = self._decode(ids).rstrip("\ufffd")
        text = text[: max(len(text) - self._spare, 0)]
        if len(text) <= len(self._sent) or not text.startswith(self._sent):
            return ""
        new, self._sent = text[len(self._sent) :], text
        return new

    def rest(self, text: str) -> str:
        """What of the whole text was not shown yet."""
        return text.removeprefix(self._sent)


def _piece(call: Call, index: int, text: str) -> dict[str, Any]:
    said = {"delta": {"content": text}} if call.chat else {"text": text}
    return {"index": index, **said, "logprobs": None, "finish_reason": None}


def _wake(task: asyncio.Future, pieces: asyncio.Queue) -> None:
    if task.cancelled() or task.exception() is not None:
        pieces.put_nowait((-1, "", None))
