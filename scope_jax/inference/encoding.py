"""JSON of answers, made so that a large one keeps nobody else waiting.

The library's encoder holds Python's lock until it is done: with log-probs of 20 tokens
in each of 120,000 places, /health had no answer for 6 seconds.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.responses import Response, StreamingResponse

FEW = 64
"""Choices or passages that are encoded at once, and items of a list."""
SLICE = 2**18
"""Bytes that are sent at once: all of an answer would be copied several times."""
_DEPTH = 4
"""Levels that are taken apart: answer, choices, choice, log-probs."""


async def response(answer: dict[str, Any]) -> Response:
    """An answer in one piece; a large one is handed over in slices."""
    data = await encoded(answer)
    if len(data) <= SLICE:
        return Response(data, media_type="application/json")
    headers = {"Content-Length": str(len(data))}
    return StreamingResponse(
        _slices(data), media_type="application/json", headers=headers
    )


async def _slices(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), SLICE):
        yield data[start : start + SLICE]


def stream(events: AsyncIterator[bytes]) -> Response:
    """Server-sent events, each when it comes."""
    headers = {"Cache-Control": "no-cache"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def event(piece: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + await encoded(piece) + b"\n\n"


async def encoded(answer: dict[str, Any], *, ascii_only: bool = False) -> bytes:
    """An answer, or a piece of one, as JSON."""
    if is_large(answer):
        return await asyncio.to_thread(in_pieces, answer, ascii_only=ascii_only)
    return _encoder(ascii_only).encode(answer).encode()


def is_large(answer: Any) -> bool:
    """Whether an answer may have many values: log-probs, choices, passages."""
    if not isinstance(answer, dict):
        return False
    choices = answer.get("choices", ())
    if len(choices) > FEW or any(choice.get("logprobs") for choice in choices):
        return True
    return sum(map(len, answer.get("result", ()))) > FEW


def in_pieces(answer: Any, *, ascii_only: bool = False) -> bytes:
    """The JSON of ``answer``; other threads get their turn in between."""
    encode = _encoder(ascii_only).encode
    return b"".join(piece.encode() for piece in _pieces(answer, encode, _DEPTH))


def _pieces(value: Any, encode: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and value and depth:
        for number, (name, own) in enumerate(value.items()):
            yield ("," if number else "{") + encode(name) + ":"
            yield from _pieces(own, encode, depth - 1)
        yield "}"
    elif isinstance(value, list) and len(value) > (0 if depth else FEW):
        yield "["
        for start in range(0, len(value), 1 if depth else FEW):
            if start:
                yield ","
            if depth:
                yield from _pieces(value[start], encode, depth - 1)
            else:
                yield encode(value[start : start + FEW])[1:-1]
        yield "]"
    else:
        yield encode(value)


def _encoder(ascii_only: bool) -> json.JSONEncoder:
    return json.JSONEncoder(
        ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":")
    )
