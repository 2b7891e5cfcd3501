"""The client: what is tried again, what ends at once, other people's servers."""

import asyncio
import contextlib
import json
import re
import socket
import time

import inference_world as world
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rl.engine.counters import COUNTERS
from rl.records import Request, SamplingParams
from scope_jax.inference import client as client_module
from scope_jax.inference import waits as waits_module
from scope_jax.inference.client import RequestRefused, ServerUnavailable
from tests.live import serving

REQUEST = Request(
    ids=(1, 2, 3),
    sampling=SamplingParams(max_new_tokens=4, top_k=7),
    stop=("</score>",),
    stop_ids=(9,),
    seed64=2**64 - 1,
)
FOUND = {"result": [[{"document": {"id": "7", "contents": "T\nx\ny"}, "score": 0.5}]]}


class Text(str):
    """An answer as it is, instead of what is to be written as JSON."""


SPACES = Text("a space now and then, and no end")
"""What a proxy sends while the server behind it hangs."""


async def spaces():
    while True:
        yield b" "
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def scripted(*answers):
    """A server that gives these answers in turn, the last one for ever.

    An answer is a status, a status with the error's code, a body for 200, or seconds
    to say nothing.
    Yields its URL and the list of (path, body) that it was sent.
    """
    seen, left = [], list(answers)

    async def answer(request):
        body = await request.body()
        seen.append((request.url.path, json.loads(body) if body else None))
        now = left.pop(0) if len(left) > 1 else left[0]
        now, code = now if isinstance(now, tuple) else (now, "c")
        if isinstance(now, int):
            error = {"message": "as scripted", "code": code}
            return JSONResponse({"error": error}, status_code=now)
        if now is SPACES:
            return StreamingResponse(spaces(), media_type="application/json")
        if isinstance(now, Text):
            return Response(now, media_type="application/json")
        if isinstance(now, float):
            await asyncio.sleep(now)
            return Response(status_code=503)
        return JSONResponse(now)

    route = Route("/{path:path}", answer, methods=["GET", "POST"])
    app = Starlette(routes=[route])
    with serving(app, timeout_graceful_shutdown=0) as port:
        yield f"http://127.0.0.1:{port}", seen


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the client waited between attempts, without the waiting."""
    waited = []

    class Asyncio:
        def __getattr__(self, name):
            return getattr(asyncio, name)

        async def sleep(self, seconds):
            before = sum(waited)
            waited.append(seconds)
            assert sum(waited) > before, "the clock stands still"

    class Time:
        def monotonic(self):
            return sum(waited)

    monkeypatch.setattr(client_module, "asyncio", Asyncio())
    monkeypatch.setattr(client_module, "time", Time())
    monkeypatch.setattr(waits_module, "time", Time())
    return waited


def said(caplog):
    """What a person reads on the screen."""
    return [record.message for record in caplog.records if record.name == "scope_jax"]


def ask(call, url="", **changes):
    async def run():
        async with world.Client(world.inference_config(**changes), url) as client:
            return await call(client)

    return asyncio.run(run())


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_servers_fault_is_tried_again_after_1_2_3_s(waits, status):
    with scripted(status, status, status, FOUND) as (url, seen):
        [[(passage, score)]] = ask(lambda c: c.search(["q"]), url)
    assert (passage.id, passage.title, passage.text, score) == ("7", "T", "x\ny", 0.5)
    assert waits == [1, 2, 3]
    body = {"queries": ["q"], "topk": 3, "return_scores": True}
    assert seen == [("/retrieve", body)] * 4


def test_as_long_as_the_setting_allows_and_no_longer(waits, caplog):
    with (
        scripted(503) as (url, seen),
        pytest.raises(ServerUnavailable, match="503: as scripted: 11 attempts in 50 s"),
    ):
        ask(lambda c: c.search(["q"]), url, outage_timeout=50)
    assert waits == [1, 2, 3, 4, 5, 6, 7, 8, 9, 5]
    assert len(seen) == 11
    assert [line.split(" s (")[0] for line in said(caplog)] == [
        f"waiting for {url}/retrieve, for {lasted} of at most 50" for lasted in (6, 36)
    ]


@pytest.mark.parametrize("began", [0.1, 14.1, 18.6])
def test_the_last_wait_ends_whatever_the_clock_says(waits, began):
    waits.append(began)  # 50 minus (14.1 + 50 - 14.1) is 7e-15
    with scripted(503) as (url, _), pytest.raises(ServerUnavailable, match="in 50 s"):
        ask(lambda c: c.search(["q"]), url, outage_timeout=50)
    assert sum(waits) >= began + 50


def test_who_answers_again_after_minutes_is_no_error(waits, caplog):
    caplog.set_level("INFO")
    with scripted(*[503] * 20, FOUND) as (url, seen):
        ask(lambda c: c.search(["q"]), url)
    assert len(seen) == 21 and sum(waits) == 155
    assert said(caplog)[-1] == f"{url}/retrieve answers again after 155 s"


def test_no_server_and_no_answer_in_time_are_tried_again(waits):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerUnavailable, match="ConnectError"):
            ask(lambda c: c.search(["q"]), url, outage_timeout=3)
    assert waits == [1, 2]
    with scripted(30.0, FOUND) as (url, seen):
        ask(lambda c: c.search(["q"]), url, search_timeout=0.2)
    assert len(seen) == 2


def test_an_answer_that_comes_but_does_not_end_is_asked_for_again(waits, caplog):
    caplog.set_level("DEBUG")
    with scripted(SPACES, FOUND) as (url, seen):
        ask(lambda c: c.search(["q"]), url, search_timeout=0.3)
    assert len(seen) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_ends_at_once(waits, status):
    with scripted(status) as (url, seen), pytest.raises(RequestRefused) as refused:
        ask(lambda c: c.search(["q"]), url)
    assert (refused.value.status, refused.value.code) == (status, "c")
    assert len(seen) == 1 and waits == []


def test_our_server_gets_the_whole_request():
    choice = {"text": "a</score>", "finish_reason": "stop", "token_ids": [5, 6]}
    answer = {"choices": [choice | {"stop_reason": "</score>"}], "usage": {}}
    with scripted(answer) as (url, seen):
        completion = ask(lambda c: c.complete("solver", REQUEST), url)
    body = seen[0][1]
    assert body["prompt"] == [1, 2, 3] and body["seed"] == 2**64 - 1
    assert body["stop_token_ids"] == [9] and body["top_k"] == 7
    assert body["include_stop_str_in_output"] and body["ignore_eos"]
    assert (completion.ids, completion.text) == ((5, 6), "a</score>")
    assert completion.stop_string == "</score>"


@pytest.mark.parametrize("key", ["stop_reason", "matched_stop"])
def test_another_judge_gets_openais_fields_and_its_stop_string_is_put_back(key):
    choice = {"text": "a", "finish_reason": "stop", key: "</score>"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    with scripted({"choices": [choice], "usage": usage}) as (url, seen):
        completion = ask(
            lambda c: c.complete("judge", REQUEST),
            judge_url=url + "/",
            judge_model="org/model",
        )
    assert seen == [
        (
            "/v1/completions",
            {
                "model": "org/model",
                "prompt": [1, 2, 3],
                "max_tokens": 4,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": 7,
                "seed": 2**63 - 1,
                "stop": ["</score>"],
            },
        )
    ]
    assert (completion.text, completion.ids) == ("a</score>", ())
    assert completion.prompt_tokens == 3


COUNTS = dict.fromkeys(COUNTERS, 2)


def test_engines_are_counted_once_whatever_the_names_they_have():
    engines = {"judge": {"id": "a"} | COUNTS, "solver": {"id": "a"} | COUNTS}
    engines["other"] = {"id": "b"} | COUNTS
    with scripted({"engines": engines}) as (url, seen):
        shared = ask(lambda c: c.engines(("judge", "solver")), url)
        alone = ask(lambda c: c.engines(("solver",)), url)
    assert shared == {("judge", "a"): COUNTS}
    assert alone == {("solver", "a"): COUNTS}
    assert seen == [("/stats", None)] * 2


@pytest.mark.parametrize(
    "answer",
    [
        404,
        503,
        {"engines": ["judge"]},
        {"engines": {"judge": {"id": "a"}}},
        ["stats"],
        "?",
    ],
)
def test_a_server_without_counts_is_asked_once_and_no_error(waits, answer):
    with scripted(answer) as (url, seen):
        assert ask(lambda c: c.engines(("judge",)), url) is None
    assert len(seen) == 1 and waits == []


def test_nobody_waits_for_the_counts_of_a_server_that_is_gone(waits):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert ask(lambda c: c.engines(("judge",)), url) is None
    assert waits == []


def test_a_passed_deadline_gives_a_cancelled_completion():
    with scripted(30.0) as (url, _):
        request = Request(ids=(1,), deadline=time.monotonic() + 0.2)
        completion = ask(lambda c: c.complete("judge", request), url)
    assert (completion.finish_reason, completion.ids) == ("cancelled", ())


def test_logits_that_are_not_finite_are_an_error_and_not_asked_for_again(waits):
    with scripted((500, "non_finite_logits")) as (url, seen):
        completion = ask(lambda c: c.complete("judge", REQUEST), url)
    assert (completion.finish_reason, completion.text) == ("error", "")
    assert len(seen) == 1 and waits == []


COMPLETION = {"choices": [{"text": "a", "finish_reason": "stop"}]}
PASSAGE = {"document": {"id": "7", "contents": "T"}, "score": 0.5}
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"error": {"message": "overloaded"}}, "an error as a success: overloaded"),
        ({"choices": []}, "choices: List should have at least 1 item"),
        ({"choices": [{"finish_reason": "stop"}]}, "choices.0.text: Field required"),
        ({"choices": [{"text": ["a"]}]}, "choices.0.text: Input should be a valid str"),
        ({"choices": {"text": "a"}}, "choices: Input should be a valid list"),
        ([COMPLETION], "body: Input should be"),
        (None, "body: Input should be"),
        (COMPLETION | {"usage": {"prompt_tokens": "many"}}, "usage.prompt_tokens: "),
        (Text("<html>busy</html>"), "no JSON .*: '<html>busy</html>'"),
        (Text(DEEP), "JSON that is nested too deep"),
    ],
)
def test_a_completion_of_another_form_is_the_servers_fault(waits, answer, why):
    with scripted(answer, COMPLETION) as (url, seen):
        assert ask(lambda c: c.complete("judge", REQUEST), url).text == "a"
    assert len(seen) == 2 and waits == [1]
    with scripted(answer) as (url, seen), pytest.raises(ServerUnavailable) as caught:
        ask(lambda c: c.complete("judge", REQUEST), url, outage_timeout=0)
    assert re.search(f"not an answer to this request: {why}", str(caught.value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"result": [[{"document": PASSAGE["document"]}]]}, "score: Field required"),
        ({"result": [[PASSAGE | {"document": {"contents": None}}]]}, "contents: Input"),
        ({"result": [[PASSAGE | {"score": "NaN"}]]}, "score: Input should be a finite"),
        ({"result": [[PASSAGE], [PASSAGE]]}, "result: 2 lists for 1 queries"),
        ({"result": [PASSAGE["document"]]}, "result.0: Input should be a valid list"),
        ({"error": "no index"}, "an error as a success: no index"),
    ],
)
def test_passages_of_another_form_are_the_servers_fault(waits, answer, why):
    with scripted(answer, FOUND) as (url, seen):
        assert len(ask(lambda c: c.search(["q"]), url)) == 1
    assert len(seen) == 2 and waits == [1]
    with scripted(answer) as (url, seen), pytest.raises(ServerUnavailable) as caught:
        ask(lambda c: c.search(["q"]), url, outage_timeout=0)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_an_answer_without_our_servers_fingerprint_is_the_servers_fault(waits):
    def work(client):
        client.weights["solver"] = "abc"
        return client.complete("solver", REQUEST)

    with scripted(COMPLETION, COMPLETION | {"system_fingerprint": "abc"}) as (
        url,
        seen,
    ):
        assert ask(work, url).text == "a"
    assert len(seen) == 2 and waits == [1]
    others = pytest.raises(RequestRefused, match="weights x, not abc")
    with scripted(COMPLETION | {"system_fingerprint": "x"}) as (url, _), others:
        ask(work, url)


def test_a_text_of_null_is_an_empty_one_and_half_a_surrogate_pair_can_be_written():
    with scripted({"choices": [{"text": None}]}) as (url, _):
        assert ask(lambda c: c.complete("judge", REQUEST), url).text == ""
    half = Text('{"choices": [{"text": "a\\ud83d b"}]}')
    with scripted(half) as (url, _):
        assert ask(lambda c: c.complete("judge", REQUEST), url).text == "a? b"
    half = Text('{"result": [[{"document": {"contents": "\\udead"}, "score": 1}]]}')
    with scripted(half) as (url, _):
        [[(passage, _)]] = ask(lambda c: c.search(["q"]), url)
    assert passage.title == "?"


def test_a_server_that_says_nothing_is_named_on_the_screen(waits, caplog):
    async def say(client):
        asked = asyncio.ensure_future(client.search(["q"]))
        while not seen:
            await asyncio.sleep(0)
        waits.append(40)
        client.say_waits()
        client.say_waits()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        waits.append(40)
        client.say_waits()

    with scripted(30.0) as (url, seen):
        ask(say, url)
    assert said(caplog) == [
        f"waiting for 1 answers of {url}/retrieve, the last one came 40 s ago (each "
        "may take 600 s)"
    ]


def test_concurrency_is_bounded():
    under_way, most = 0, 0

    async def answer(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return JSONResponse(FOUND)

    async def run():
        app = Starlette(routes=[Route("/retrieve", answer, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            served = asyncio.create_task(server.serve(sockets=[sock]))
            async with world.Client(
                world.inference_config(concurrency=3, retrieval_url=url)
            ) as client:
                await asyncio.gather(*(client.search(["q"]) for _ in range(20)))
            server.should_exit = True
            await served

    asyncio.run(run())
    assert most == 3


def test_one_client_works_on_one_event_loop_after_another():
    client = world.Client(world.inference_config())
    with scripted(FOUND) as (url, _):
        client.search_url = url
        for _ in range(2):
            assert len(asyncio.run(client.search(["q"]))) == 1
