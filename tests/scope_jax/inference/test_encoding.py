"""Large answers: the same JSON in small pieces, and a limit for what can be asked."""

import asyncio
import contextlib
import json
import random
import socket
import threading
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from scope_jax.inference import encoding
from scope_jax.inference.connections import patient
from tests.live import serving


def logprobs(places):
    """An answer with 20 alternatives in each place."""
    best = {f'tok"{i}\u2028é': -i / 7 for i in range(20)}
    told = {"tokens": ["é"] * places, "top_logprobs": [best] * places}
    return {"id": "x", "choices": [{"index": 0, "text": "é", "logprobs": told}]}


def anything(draw, depth):
    kind = draw.randrange(7 if depth else 5)
    if kind == 5:
        return [anything(draw, depth - 1) for _ in range(draw.choice([0, 1, 3, 200]))]
    if kind == 6:
        return {str(i): anything(draw, depth - 1) for i in range(draw.randrange(4))}
    return [None, True, draw.random(), 'a"\n\u2028é', draw.getrandbits(70)][kind]


@pytest.mark.parametrize("ascii_only", [False, True])
def test_pieces_together_are_the_encoders_json(ascii_only):
    draw = random.Random(0)
    values = [anything(draw, 6 if i % 50 == 0 else 3) for i in range(300)]
    for value in [*values, logprobs(300), {}, [], {"choices": []}]:
        whole = json.dumps(
            value, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":")
        )
        assert encoding.in_pieces(value, ascii_only=ascii_only) == whole.encode()


def test_no_piece_keeps_others_waiting_for_long():
    """An encoder that is asked for all of it holds Python's lock until it is done."""
    passages = {"document": {"id": "1", "contents": "x" * 500}, "score": 0.5}
    for answer in (logprobs(20_000), {"result": [[passages] * 5_000] * 2}):
        assert encoding.is_large(answer)
        encode = json.JSONEncoder().encode
        lengths = list(map(len, encoding._pieces(answer, encode, encoding._DEPTH)))
        assert max(lengths) < 100_000 < sum(lengths)
    seconds, stop = [], threading.Event()

    async def answered():
        await encoding.encoded(logprobs(20_000))
        stop.set()

    async def others():
        while not stop.is_set():
            start = time.monotonic()
            await asyncio.sleep(0)
            seconds.append(time.monotonic() - start)

    async def both():
        await asyncio.gather(answered(), others())

    asyncio.run(both())
    assert len(seconds) > 20  # one, where it is encoded on the event loop


def test_a_large_answer_is_sent_in_slices():
    async def parts():
        answer = await encoding.response(logprobs(5_000))
        sent = [part async for part in answer.body_iterator]
        return sent, answer.headers

    sent, headers = asyncio.run(parts())
    assert max(map(len, sent)) == encoding.SLICE
    assert headers["content-length"] == str(sum(map(len, sent)))
    assert json.loads(b"".join(sent)) == logprobs(5_000)


def test_few_values_are_no_large_answer():
    assert not encoding.is_large({"choices": [{"text": "a", "logprobs": None}] * 4})
    assert not encoding.is_large({"result": [[{"id": "1"}] * 3] * 10})
    assert not encoding.is_large({"error": {"message": "m"}})


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": [[5] * 100] * 1000, "logprobs": 20, "echo": True, "max_tokens": 0},
        {"prompt": [[5] * 2] * 8, "logprobs": 20, "n": 128, "max_tokens": 126},
    ],
)
def test_an_answer_has_no_more_log_probs_than_a_server_can_hold(http, asked):
    answer = http.post("/v1/completions", json={"model": "judge"} | asked)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("an answer of up to 2,") and "ask for fewer" in message


def big(size):
    async def answer(request):
        return JSONResponse({"text": "x" * size})

    return answer


@pytest.mark.parametrize(("pauses", "whole"), [([0.02] * 200, True), ([3.0], False)])
def test_only_clients_that_stop_reading_are_closed(pauses, whole):
    """A steady reader takes longer for a large answer than anybody may pause."""
    size, patience = 12_000_000, 1.0
    app = Starlette(routes=[Route("/", big(size))])
    with serving(app, http=patient(patience)) as port:
        begin = time.monotonic()
        got = read_slowly(port, size, iter(pauses))
        took = time.monotonic() - begin
    assert (got >= size) is whole
    assert took > patience


def read_slowly(port, size, pauses):
    """How many bytes came before the connection was closed."""
    got = 0
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while got < size and (data := client.recv(65536)):
                got += len(data)
                time.sleep(next(pauses, 0))
    return got
