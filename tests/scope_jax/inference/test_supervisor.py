"""The supervisor: restarts that clients ride over, clear failures, no orphans."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import httpx
import inference_world as world
import pytest

from models.errors import UserError
from rl.records import Request, SamplingParams
from scope_jax.inference import ModelSource
from scope_jax.system.stopping import Stopped

ROOT = Path(__file__).parents[3]


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_in_the_middle_it_comes_back_with_what_it_had(tmp_path):
    world.write_passages(tmp_path / "passages.jsonl")
    base = world.write_model(tmp_path / "base", seed=0)
    trained = world.write_model(tmp_path / "run" / "trained", seed=1)
    sampling = SamplingParams(max_new_tokens=120)
    requests = [Request(ids=(i + 1,), sampling=sampling, seed64=i) for i in range(64)]

    async def sample(server, kill: int | None):
        async with server.client() as client:
            work = [
                asyncio.ensure_future(client.complete("solver", r)) for r in requests
            ]
            work += [asyncio.ensure_future(client.search(["river"])) for _ in range(4)]
            if kill is not None:
                await asyncio.wait(work[:64], return_when=asyncio.FIRST_COMPLETED)
                os.kill(kill, signal.SIGKILL)
                assert not all(future.done() for future in work[:64])
            results = await asyncio.gather(*work)
            return [c.ids for c in results[:64]], results[64:], await client.served()

    with world.Supervisor(
        world.inference_config(),
        tmp_path / "run",
        retrieval=world.retrieval_config(tmp_path),
        models={"judge": ModelSource(path=str(tmp_path / "base"))},
    ) as supervisor:
        # Loaded while it runs: a restart must not fall back to what it began with.
        async def load():
            async with supervisor.client() as client:
                await client.load_model(
                    "solver", str(tmp_path / "run" / "trained"), trained
                )

        asyncio.run(load())
        first = supervisor.pid
        expected = asyncio.run(sample(supervisor, None))
        assert supervisor.restarts == 0
        assert asyncio.run(sample(supervisor, first)) == expected
        assert expected[2] == {"judge": base, "solver": trained}
        assert supervisor.restarts == 1 and supervisor.pid != first
        second = supervisor.pid
    assert not alive(second)


def test_death_at_the_start_is_one_line_with_the_reason(tmp_path):
    config = world.inference_config()
    models = {"judge": ModelSource(path=str(tmp_path / "missing" / "model"))}
    with pytest.raises(UserError) as failed:
        world.Supervisor(config, tmp_path / "run", models=models).start()
    message = str(failed.value)
    assert "code 2" in message and "missing" in message and "inference.log" in message
    assert "\n" not in message


def test_it_gives_up_after_max_restarts(tmp_path):
    config = world.inference_config(max_restarts=0)
    with world.Supervisor(config, tmp_path / "run") as supervisor:
        os.kill(supervisor.pid, signal.SIGKILL)
        until(lambda: supervisor.failure)
        assert "died 1 time" in supervisor.failure


def test_one_that_no_longer_answers_is_killed_and_started_again(tmp_path, monkeypatch):
    log = mock.Mock()
    monkeypatch.setattr("scope_jax.inference.supervisor.log", log)
    config = world.inference_config(health_timeout=6.0)
    with world.Supervisor(config, tmp_path / "run") as supervisor:
        hung, url = supervisor.pid, supervisor.url
        os.kill(hung, signal.SIGSTOP)
        until(lambda: supervisor.restarts)
        until(lambda: supervisor.pid not in (hung, None))
        assert not alive(hung)

        def answers():
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{url}/ready", trust_env=False).status_code == 200

        until(answers)
    said = [call.args[0] % call.args[1:] for call in log.warning.mock_calls]
    assert supervisor.restarts == 1
    hung = r"inference server hung: no answer of /health for \d+ s:"
    assert any(re.match(hung, line) for line in said)


def test_packages_of_the_current_folder_are_not_taken_for_ours(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/__init__.py").write_text("raise ImportError('not ours')")
    monkeypatch.chdir(tmp_path)
    with world.Supervisor(world.inference_config(), tmp_path / "run") as supervisor:
        assert supervisor.url


def test_a_deadline_names_what_is_missing(tmp_path):
    config = world.inference_config(ready_timeout=0.0)
    with pytest.raises(Stopped, match="ready_timeout") as stopped:
        world.Supervisor(config, tmp_path / "run").start()
    assert stopped.value.code == 1


@contextlib.contextmanager
def starting(folder):
    """A supervisor, what its start gives in another thread, and its first server."""
    supervisor = world.Supervisor(world.inference_config(), folder / "run")
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(supervisor.start)
        until(lambda: supervisor.pid)
        try:
            yield supervisor, started, supervisor.pid
        finally:
            supervisor.stop()


def test_killed_before_it_is_ready_it_is_started_again(tmp_path):
    with starting(tmp_path) as (supervisor, started, first):
        os.kill(first, signal.SIGKILL)
        assert started.result() == supervisor.url
        assert supervisor.restarts == 1 and supervisor.pid != first


def test_it_can_be_stopped_while_another_thread_starts_it(tmp_path):
    with starting(tmp_path) as (supervisor, started, pid):
        supervisor.stop()
        with pytest.raises(UserError, match="stopped while it started"):
            started.result()
    assert not alive(pid)


def test_a_server_of_somebody_else_is_waited_for_and_left_alone(tmp_path, monkeypatch):
    with world.Supervisor(world.inference_config(), tmp_path / "run") as ours:
        config = world.inference_config(url=ours.url)
        with pytest.raises(UserError, match="SCOPE_CONTROL_SECRET is not set"):
            world.Supervisor(config, tmp_path / "other")
        monkeypatch.setenv("SCOPE_CONTROL_SECRET", "another")
        with pytest.raises(UserError, match="not this server's control secret"):
            world.Supervisor(config, tmp_path / "other").start()
        monkeypatch.setenv("SCOPE_CONTROL_SECRET", ours.secrets.control)
        with world.Supervisor(config, tmp_path / "other") as other:
            assert other.url == ours.url and other.pid is None
        assert alive(ours.pid)
    assert not (tmp_path / "other").exists()


def test_the_server_ends_itself_when_its_trainer_is_killed(tmp_path):
    script = (
        "import sys, time; sys.path[:0] = sys.argv[2:]\n"
        "import inference_world as world\n"
        "supervisor = world.Supervisor(world.inference_config(), sys.argv[1])\n"
        "supervisor.start()\n"
        "print(supervisor.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    here = str(Path(__file__).parent)
    trainer = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), here, str(ROOT)],
        stdout=subprocess.PIPE,
        text=True,
    )
    server = int(trainer.stdout.readline())
    assert alive(server)
    trainer.kill()
    trainer.wait()
    until(lambda: not alive(server))
