"""A server that is away: waited for, then a stop that loses nothing, never a reward."""

import asyncio
import signal
import socket
import time
from types import SimpleNamespace

import pytest

import configs
from scope_jax.inference.client import Client
from scope_jax.inference.config import InferenceConfig
from scope_jax.selfplay.serving import Serving
from scope_jax.system import stopping
from scope_jax.system.stopping import Stopped


@pytest.fixture
def serving(tmp_path):
    """The inference process as a run sees it, at an address where nothing listens."""
    renderer = SimpleNamespace(opening="", prompt_ids=lambda _: [1], stop_ids=())
    follower = SimpleNamespace(is_leader=False)
    made = Serving(configs.load("ci"), tmp_path, renderer, follower)
    with made, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = InferenceConfig(url=url, judge_url=url, outage_timeout=0.2)
        made._client = Client(config)
        yield made


def asked(serving, what):
    if what == "search":
        return serving.search(["q"])
    return serving.judge([], temperature=0.0, max_tokens=4, seed64=0)


@pytest.mark.parametrize("what", ["judge", "search"])
def test_an_outage_ends_the_run_with_one_line_and_code_1(serving, what):
    with pytest.raises(Stopped, match=r"outage_timeout\): the same command") as stopped:
        serving.run(asked(serving, what))
    assert stopped.value.code == 1
    assert str(stopped.value).startswith("error: ") and "\n" not in str(stopped.value)


def test_a_server_that_is_down_for_good_ends_what_waits_for_it(serving):
    serving.supervisor.failure = "inference server: died 11 times"
    start = time.monotonic()
    with pytest.raises(Stopped, match="died 11 times") as stopped:
        serving.run(asyncio.sleep(60))
    assert stopped.value.code == 1 and time.monotonic() - start < 5


def test_a_signal_cancels_what_is_awaited(serving, monkeypatch):
    ended = []

    async def work():
        try:
            monkeypatch.setattr(stopping._notes, "received", signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            ended.append("cleanly")

    with pytest.raises(Stopped) as stopped:
        serving.run(work())
    assert stopped.value.code == 143 and ended == ["cleanly"]
