"""Signals are notes that are looked at; the second one ends the process at once."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from models.errors import UserError
from scope_jax.system import stopping
from scope_jax.system.hosts import Hosts
from scope_jax.system.stopping import Stopped

ROOT = Path(__file__).parents[3]
POLLS = """
import gc, sys, time
from scope_jax.run import cli
from scope_jax.system import stopping

def collecting(phase, info):
    time.sleep(0.01)  # nearly always in here, where an exception would be swallowed

def main(argv):
    stopping.catch_signals(what="saves")
    gc.callbacks.append(collecting)
    if "compiles" in argv[0]:
        with stopping.nothing_to_save(alone=argv == ["compiles"]):
            print("begins", flush=True)
            time.sleep(60)
    print("begins", flush=True)
    while True:
        gc.collect()
        if argv == ["polls"]:
            stopping.check()

cli.run_main(main)
"""


def started(how):
    process = subprocess.Popen(
        [sys.executable, "-c", POLLS, how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begins\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_never_swallowed_and_becomes_the_exit_code(number):
    process = started("polls")
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == (
        f"stopped by {number.name}: the same command goes on from here"
    )
    assert "Traceback" not in said


def test_the_second_one_ends_at_once_what_does_not_look():
    process = started("never looks")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143 and "SIGTERM: ended at once" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_nothing_is_to_be_saved_the_first_one_ends_at_once(number):
    process = started("compiles")
    begin = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - begin < 10 and process.returncode == 128 + number
    assert said.splitlines()[-1] == (
        f"stopped by {number.name}: the same command goes on from here"
    )


def test_while_other_processes_wait_it_does_not():
    process = started("compiles, one of several")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=20)


@pytest.fixture
def interrupted(monkeypatch):
    monkeypatch.setattr(stopping._notes, "received", signal.SIGINT)


def test_who_waits_for_another_thread_is_stopped_too(monkeypatch):
    future = Future()
    threading.Timer(
        0.1, lambda: monkeypatch.setattr(stopping._notes, "received", signal.SIGTERM)
    ).start()
    with pytest.raises(Stopped) as stopped:
        stopping.result(future)
    assert stopped.value.code == 143
    monkeypatch.setattr(stopping._notes, "received", None)
    future.set_exception(TimeoutError("of the work"))
    with pytest.raises(TimeoutError, match="of the work"):
        stopping.result(future)


def test_what_is_done_in_lockstep_is_not_stopped_in_one_process(interrupted):
    with stopping.deferred():
        stopping.check()
    with pytest.raises(Stopped):
        stopping.check()


class Two(Hosts):
    """One of two processes; the other answers as it is told."""

    def all_gather(self, value):
        return [value, self.other] if self.index == 0 else [self.other, value]


def test_where_one_process_is_stopped_all_are():
    def two(index, other):
        made = Two(index, 2)
        object.__setattr__(made, "other", other)
        return made

    def stops():
        raise Stopped("outage", 1)

    assert two(0, (2, None)).together(lambda: 1) == [1, 2]
    with pytest.raises(Stopped, match="there"):
        two(0, (None, Stopped("there", 143))).together(lambda: 1)
    with pytest.raises(Stopped, match="outage"):
        two(0, (2, None)).together(stops)
    for error in (Stopped("there", 143), UserError("wrong")):
        with pytest.raises(type(error)):
            two(1, (None, error)).from_leader(lambda: 1)


def test_a_script_that_will_end_at_once_has_not_been_asked_to_end_yet():
    """What watches a server for it would leave, and the wait for the server not end."""
    stopping.end_at_once_on_signals()
    assert not stopping.requested()
    stopping.check()
