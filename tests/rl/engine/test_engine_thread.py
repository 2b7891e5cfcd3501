"""The thread that owns an engine: anybody asks it, and nobody waits for ever."""

import asyncio
import threading
from contextlib import closing

import pytest

from rl.engine.engine import Engine
from rl.engine.thread import EngineThread
from rl.records import Request
from tests.rl.engine.engine_world import (
    SIZES,
    Letters,
    crowd,
    make_params,
    request,
    sampled,
)


@pytest.fixture(scope="module")
def params(tiny_config):
    return make_params(tiny_config, 3)


@pytest.fixture(scope="module")
def shared(tiny_config, params):
    engine = Engine(params, tiny_config, Letters(), SIZES)
    engine.compile()
    return engine


@pytest.fixture
def engine(shared, params):
    shared.set_params(params)  # forgets the prefixes of other tests
    return shared


def test_the_thread_serves_any_thread_and_asyncio(engine, params, tiny_config):
    requests = crowd(9)
    expected = sampled(engine.generate(requests))
    with closing(EngineThread(engine)) as thread:
        futures = [thread.complete(r) for r in requests]
        swapped = thread.call(lambda e: (e.idle, e.set_params(params)), when_idle=True)
        later = thread.complete(requests[0])
        assert sampled([f.result(60) for f in futures]) == expected
        assert swapped.result(60) == (True, None)
        assert sampled([later.result(60)]) == expected[:1]

        async def gather():
            wrapped = (asyncio.wrap_future(thread.complete(r)) for r in requests)
            return await asyncio.gather(*wrapped)

        assert sampled(asyncio.run(gather())) == expected
        assert thread.call(lambda e: e.idle).result(60) is True
        with pytest.raises(ZeroDivisionError):
            thread.call(lambda e: 1 / 0).result(60)
        with pytest.raises(TypeError):
            thread.complete(Request(ids=("one",))).result(60)
        assert sampled([thread.complete(requests[1]).result(60)]) == expected[1:2]


def test_a_cancelled_future_ends_its_request(engine):
    with closing(EngineThread(engine)) as thread:
        futures = [thread.complete(request(i, 20, 100)) for i in range(10)]
        assert futures[9].cancel()
        assert all(len(f.result(60).ids) == 100 for f in futures[:9])
        assert thread.call(lambda e: e.idle, when_idle=True).result(60)


def test_a_broken_engine_fails_every_future_with_its_reason(engine):
    class Broken:
        idle = False

        def submit(self, request):
            return 0

        def poll(self):
            raise FloatingPointError("no more numbers")

    thread = EngineThread(Broken())
    with pytest.raises(RuntimeError, match=r"engine failed: Floating.*more numbers"):
        thread.complete(request(0)).result(60)
    with pytest.raises(RuntimeError, match="no more numbers"):
        thread.call(lambda e: None).result(60)
    thread.close()
    thread = EngineThread(engine)
    thread.close()
    with pytest.raises(RuntimeError, match="engine closed"):
        thread.complete(request(0)).result(60)


def test_a_request_that_was_cancelled_before_the_end_does_not_break_the_end(engine):
    thread = EngineThread(engine)
    begun, held = threading.Event(), threading.Event()
    thread.call(lambda e: (begun.set(), held.wait(60)))
    assert begun.wait(60)
    thread.complete(request(1)).cancel()
    waiting = thread.complete(request(2))
    threading.Timer(0.2, held.set).start()  # when all of it lies before the thread
    thread.close()
    assert "engine closed" in str(waiting.exception(5))
