"""A chat server of somebody else's: what is sent, what is tried again, what fails."""

import asyncio
import contextlib
import random

import pytest

from models.errors import UserError
from scope_jax.inference import chat
from scope_jax.inference.chat import ChatClient, ChatConfig
from tests.scope_jax.evaluation.hosted import FAILURES, Hosted, serving

TOLD = [{"role": "system", "content": "Be fair."}, {"role": "user", "content": "A?"}]


def config(url, **changes):
    quick = {"backoff": 0.001, "rate_pause": 0.001, "timeout": 0.3, "model": "m"}
    return ChatConfig(url=url, **quick | changes)


def ask(settings, *, messages=TOLD, times=1, key=""):
    async def run():
        async with ChatClient(settings, key) as client:
            return await asyncio.gather(
                *(client.ask(messages, seed) for seed in range(times))
            )

    return asyncio.run(run())


def test_the_request_is_openais():
    with serving(Hosted(reply=lambda messages: "fine")) as server:
        [reply] = ask(config(f"{server.url}/v1/"), key="secret")
    assert (reply.text, reply.attempts, reply.problem) == ("fine", 1, "")
    assert (reply.prompt_tokens, reply.cached_tokens) == (10, 3)
    assert reply.completion_tokens == 7
    assert server.keys == ["Bearer secret"]
    assert server.bodies == [
        {
            "model": "m",
            "messages": TOLD,
            "max_completion_tokens": 16384,
            "seed": 0,
            "temperature": 1.0,
        }
    ]


@pytest.mark.parametrize(
    ("role", "sent"),
    [
        ("developer", [{"role": "developer", "content": "Be fair."}, TOLD[1]]),
        ("user", [{"role": "user", "content": "Be fair.\n\nA?"}]),
    ],
)
def test_the_systems_role_is_what_the_server_calls_it(role, sent):
    with serving(Hosted(reply=lambda messages: "x")) as server:
        ask(config(server.url, system_role=role, temperature=None))
    assert server.bodies[0]["messages"] == sent
    assert "temperature" not in server.bodies[0]


@pytest.mark.parametrize("how", FAILURES)
def test_each_failure_is_tried_again(how):
    with serving(Hosted(reply=lambda m: "x", fails=lambda d: (how, how))) as server:
        [reply] = ask(config(server.url))
    assert (reply.text, reply.attempts) == ("x", 3)


@pytest.mark.parametrize("how", [how for how in FAILURES if how != "429"])
def test_three_failures_are_one(how):
    fails = (how, "always")
    with serving(Hosted(reply=lambda m: "x", fails=lambda d: fails)) as server:
        [reply] = ask(config(server.url))
    assert (reply.text, reply.attempts) == (None, 3)
    assert reply.problem and "\n" not in reply.problem


def test_a_server_that_is_asked_too_often_is_asked_ten_times():
    with serving(
        Hosted(reply=lambda m: "x", fails=lambda d: ("429", "always"))
    ) as server:
        [reply] = ask(config(server.url))
    assert (reply.text, reply.attempts) == (None, 10)
    assert reply.problem == "429: as scripted: 429"


def test_a_request_that_is_refused_fails_at_once_and_a_wrong_key_ends_it_all():
    with serving(Hosted(reply=lambda m: "x", fails=lambda d: ("400",))) as server:
        [reply] = ask(config(server.url))
        assert (reply.text, reply.attempts) == (None, 1)
    for status in ("401", "403", "404"):
        with (
            serving(
                Hosted(reply=lambda m: "x", fails=lambda d, s=status: (s,))
            ) as server,
            pytest.raises(UserError, match=f"{status}: as scripted.*check the address"),
        ):
            ask(config(server.url))
    [reply] = ask(config("http://127.0.0.1:9"))
    assert reply.text is None and "ConnectError" in reply.problem


def test_no_more_requests_than_allowed_are_under_way():
    fails = ("slow",)
    with serving(Hosted(reply=lambda m: "x", fails=lambda d: fails)) as server:
        ask(config(server.url, concurrency=3, timeout=5), times=9)
    assert server.most_working <= 3 and len(server.bodies) == 9


def test_pauses_grow_and_are_a_requests_own(monkeypatch):
    client = ChatClient(ChatConfig(url="http://x", model="m"), "")
    none = random.Random(0)
    none.random = lambda: 0.0
    assert [client._pause(n, 500, "", none) for n in (1, 2)] == [2.0, 4.0]
    assert client._pause(1, 429, "", none) == 30.0
    assert client._pause(1, 429, "45", none) == 45.0
    assert client._pause(1, 429, "soon", none) == 30.0
    assert client._pause(1, 429, "99999", none) == chat.MOST_PAUSE
    none.random = lambda: 1.0
    assert client._pause(2, 500, "", none) == 6.0


def test_a_key_is_shown_to_its_own_server(monkeypatch):
    monkeypatch.delenv("SCOPE_JUDGE_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    assert chat.key_for("https://api.openai.com/v1") == "sk-theirs"
    assert chat.key_for("https://api.openai.com.evil.org/v1") == ""
    assert chat.key_for("http://127.0.0.1:8000") == ""
    monkeypatch.setenv("SCOPE_JUDGE_API_KEY", "mine")
    assert chat.key_for("http://127.0.0.1:8000") == "mine"


def test_an_answer_that_drips_is_late_too():
    """Some servers send spaces while they work, so that bytes come all the time."""

    async def drip(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

    async def run():
        async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with ChatClient(config(url, attempts=2), "") as client:
                reply = await asyncio.wait_for(client.ask(TOLD), 5)
        return reply

    reply = asyncio.run(run())
    assert (reply.text, reply.attempts) == (None, 2)
    assert "not whole after 0.3 s" in reply.problem
