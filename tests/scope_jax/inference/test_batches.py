"""Completions and searches that are ready together, and go as one request."""

import asyncio
import json

import httpx
import inference_world as world
import pytest

from rl.records import Request, SamplingParams
from scope_jax.inference import batches
from scope_jax.inference.answers import BadAnswer
from scope_jax.inference.client import RequestRefused
from scope_jax.inference.together import MOST_ITEMS, Together

ROUTE = "/v1/completions/batch"


def ask(text: str, seed: int = 0, tokens: int = 8) -> Request:
    ids = tuple(world.byte_tokenizer()(text)["input_ids"])
    return Request(ids=ids, sampling=SamplingParams(max_new_tokens=tokens), seed64=seed)


def test_lines_come_as_each_ends():
    async def answer(body):
        await asyncio.sleep(body / 20)
        return 200, body

    async def run():
        return [piece async for piece in batches.lines([2, 0, 1, 0], answer)]

    pieces = asyncio.run(run())
    said = [json.loads(line) for line in b"".join(pieces).splitlines()]
    assert [line["index"] for line in said] == [1, 3, 2, 0]
    assert [line["body"] for line in said] == [0, 0, 1, 2]
    assert len(pieces) == 3  # two were ready together


def test_whoever_stops_reading_ends_the_work():
    ended = []

    async def answer(body):
        try:
            await asyncio.sleep(body)
        finally:
            ended.append(body)
        return 200, body

    async def run():
        lines = batches.lines([0, 100, 200], answer)
        await anext(lines)
        await lines.aclose()

    asyncio.run(asyncio.wait_for(run(), 20))
    assert sorted(ended) == [0, 100, 200]


class Sent(list):
    """What was sent, batch by batch; answers each item with itself, but for some."""

    async def __call__(self, items):
        self.append(list(items))
        for index in reversed(range(len(items))):
            await asyncio.sleep(0)
            yield index, ValueError("bad") if items[index] == "bad" else items[index]


def gathered(together, items):
    async def run():
        work = (together.ask(item) for item in items)
        return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(run())


def test_what_is_asked_at_once_goes_together_and_one_error_is_one_items():
    sent = Sent()
    together = Together(sent, most=100)
    found = gathered(together, ["a", "bad", "c"])
    assert [found[0], str(found[1]), found[2]] == ["a", "bad", "c"]
    assert sent == [["a", "bad", "c"]]
    assert gathered(together, ["d"]) == ["d"]  # on another event loop


def test_batches_have_limits():
    sent = Sent()
    together = Together(sent, weight=len, most=10)
    gathered(together, ["x" * 6, "y" * 4, "z", "w" * 30, "v"])
    assert [list(map(len, batch)) for batch in sent] == [[6, 4], [1], [30], [1]]
    sent.clear()
    gathered(together, [""] * (MOST_ITEMS + 1))
    assert list(map(len, sent)) == [MOST_ITEMS, 1]


def test_only_equal_kinds_go_together(server):
    sent = Sent()
    gathered(Together(sent, most=100, kind=len), ["a", "bb", "c"])
    assert sent == [["a", "c"], ["bb"]]

    async def run():
        async with server.client() as client:
            work = (client.search(["river"], topk) for topk in (1, 3, 2))
            return await asyncio.gather(*work)

    assert [len(found[0]) for found in asyncio.run(run())] == [1, 3, 2]


def test_an_answer_that_ends_early_fails_those_without_one():
    async def send(items):
        yield 1, items[1]

    found = gathered(Together(send, most=100), ["a", "b", "c"])
    assert found[1] == "b"
    assert all(isinstance(found[i], BadAnswer) for i in (0, 2))


def test_a_batch_that_nobody_waits_for_is_cancelled():
    ended = []

    async def send(items):
        try:
            yield 0, items[0]
            await asyncio.sleep(100)
        finally:
            ended.append(len(items))

    async def run():
        together = Together(send, most=100)
        first, *others = [asyncio.create_task(together.ask(item)) for item in "abc"]
        assert await first == "a"
        others[0].cancel()
        await asyncio.sleep(0.01)
        assert not ended  # one of them still waits
        others[1].cancel()
        await asyncio.wait(others)
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert ended == [3]


def completions(server, requests):
    async def run():
        async with server.client() as client:
            work = (client.complete("judge", request) for request in requests)
            return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(run())


def test_a_completion_is_the_same_alone_and_in_a_batch(server, monkeypatch):
    requests = [ask("abc"[:n] or "x", seed=n, tokens=4 + n) for n in range(6)]
    alone = [completions(server, [request])[0] for request in requests]
    paths = []
    stream = httpx.AsyncClient.stream

    def seen(client, method, url, **options):
        paths.append((url.removeprefix(server.url), len(options["json"]["requests"])))
        return stream(client, method, url, **options)

    monkeypatch.setattr(httpx.AsyncClient, "stream", seen)
    together = completions(server, requests)
    assert paths == [(ROUTE, 6)]
    for one, other in zip(alone, together, strict=True):
        assert (one.ids, one.text, one.finish_reason) == (
            other.ids,
            other.text,
            other.finish_reason,
        )


def test_one_that_is_refused_is_no_fault_of_the_others(server):
    bad = ask("a")
    bad = Request(ids=(10**6,), sampling=bad.sampling, seed64=1)
    long = Request(ids=(1,) * 500, sampling=bad.sampling, seed64=1)
    good, refused, empty = completions(server, [ask("a"), bad, long])
    assert len(good.ids) == 8
    assert isinstance(refused, RequestRefused) and refused.status == 400
    assert empty.finish_reason == "length" and not empty.ids  # data, not an error


def test_searches_are_the_same_alone_and_together(server):
    asked = [["river"], ["lamps in chapters", "river"], [], ["moon"]]

    async def run(searches):
        async with server.client() as client:
            work = (client.search(queries, 2) for queries in searches)
            return await asyncio.gather(*work, return_exceptions=True)

    alone = [asyncio.run(run([queries]))[0] for queries in asked]
    assert asyncio.run(run(asked)) == alone
    too_long = ["x" * 40_000]
    found = asyncio.run(run([*asked, too_long]))
    assert found[:-1] == alone
    assert isinstance(found[-1], RequestRefused)


@pytest.mark.parametrize("body", [{"requests": []}, {"requests": [1]}, {}, []])
def test_a_bad_batch_is_a_400(http, body):
    assert http.post(ROUTE, json=body).status_code == 400


def test_each_line_has_its_own_status(http):
    asked = {"model": "judge", "prompt": "a", "max_tokens": 1}
    more = [{}, {"model": "nobody"}, {"stream": True}, {"temperature": -1}]
    answer = http.post(ROUTE, json={"requests": [asked | one for one in more]})
    lines = sorted(map(json.loads, answer.text.splitlines()), key=lambda x: x["index"])
    assert [line["status"] for line in lines] == [200, 404, 400, 400]
    assert lines[0]["body"]["choices"][0]["text"]
    assert lines[2]["body"]["error"]["message"].startswith("stream: ")


def test_a_client_that_goes_away_ends_all_of_its_batch(server, http):
    body = {"model": "judge", "prompt": "a", "max_tokens": 100, "ignore_eos": True}
    quick = body | {"max_tokens": 1}
    asked = {"requests": [quick, *({**body, "seed": i} for i in range(40))]}
    with http.stream("POST", ROUTE, json=asked) as answer:
        next(answer.iter_bytes())
    for _ in range(200):
        text = http.get("/metrics").text
        left = next(x for x in text.splitlines() if x.startswith("scope_in_flight"))
        if float(left.split()[-1]) == 0:
            break
    assert float(left.split()[-1]) == 0
