"""Trainer processes on several hosts: how they are named, found and kept together."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import StorageError, UserError
from scope_jax.run.folder import Follower, LostArtefactError
from scope_jax.selfplay.broken_models import BrokenWeightsError
from scope_jax.system import hosts as module
from scope_jax.system.hosts import Hosts, join
from scope_jax.system.placement import HostsConfig
from scope_jax.system.stopping import Stopped

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, r"count=0: must be at least 1"),
        ({"count": 2, "index": 1}, "address and index belong together"),
        ({"count": 2, "address": "h:1"}, "address and index belong together"),
        ({"count": 2, "address": "h", "index": 1}, "address=h: has no port"),
        (
            {"count": 2, "address": "h:1", "index": 2},
            r"index=2: must be between 0 and 1",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        HostsConfig(**fields)


def test_one_process_needs_nobody():
    hosts = join(HostsConfig())
    assert hosts.is_leader
    assert hosts.from_leader(lambda: 3) == 3
    assert hosts.all_gather("x") == ["x"]
    assert hosts.local_share([1, 2, 3]) == [1, 2, 3]
    assert hosts.reachable("http://127.0.0.1:80", "127.0.0.1") == "http://127.0.0.1:80"
    params = {"a": 1}
    assert hosts.local_copy(params, None) is params


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setattr(module.socket, "gethostname", lambda: "two")
    return Hosts(index=1, count=2)


def says(monkeypatch, value):
    """What the leader says, to a process that is not one."""
    monkeypatch.setattr(Hosts, "all_gather", lambda self, mine: [value, mine])


def test_shares_are_every_item_once():
    shares = [Hosts(index, 2).local_share([0, 1, 2, 3, 4]) for index in (0, 1)]
    assert sorted(shares[0] + shares[1]) == [0, 1, 2, 3, 4]
    assert shares[1] == [1, 3]


def test_the_leaders_mistake_is_everybodys(second_of_two, monkeypatch):
    for error in (
        UserError("tasks.target=0: too few: raise it"),
        StorageError("run: cannot be written (No space left on device)"),
        LostArtefactError("run/x", "damaged", "restore it", "iter_1/tasks"),
    ):
        says(monkeypatch, (None, pickle.loads(pickle.dumps(error))))  # as it is sent
        with pytest.raises(type(error), match=re.escape(str(error))) as caught:
            second_of_two.from_leader(lambda: pytest.fail("only the leader works"))
        assert vars(caught.value) == vars(error)


def test_what_one_ends_with_ends_all_at_the_same_step(second_of_two, monkeypatch):
    for error in (
        UserError("judge: 401: the key has expired"),
        BrokenWeightsError("judge", "10 completions in a row"),
        Stopped("stopped by SIGINT", 130),
    ):
        sent = pickle.loads(pickle.dumps(error))
        says(monkeypatch, (None, sent))
        with pytest.raises(type(error), match=re.escape(str(error))) as caught:
            second_of_two.together(lambda: "mine")
        assert vars(caught.value) == vars(error)
        told = []

        def gathered(self, mine, told=told):
            told.append(mine)
            return [("the leader's", None), mine]

        def fails(error=error):
            raise error

        monkeypatch.setattr(Hosts, "all_gather", gathered)
        with pytest.raises(type(error), match=re.escape(str(error))):
            second_of_two.together(fails)
        assert told == [(None, error)]  # the others wait for it


@pytest.mark.parametrize(
    ("leader", "url", "expected"),
    [
        ("two", "http://127.0.0.1:80", "http://127.0.0.1:80"),
        ("one", "http://127.0.0.1:80", "http://one:80"),
        ("one", "http://search.example:80", "http://search.example:80"),
    ],
)
def test_the_inference_process_is_found_on_the_leaders_host(
    second_of_two, monkeypatch, leader, url, expected
):
    says(monkeypatch, (leader, url))
    assert second_of_two.reachable(url, "0.0.0.0") == expected


def test_a_loopback_address_of_another_host_is_refused(second_of_two, monkeypatch):
    says(monkeypatch, ("one", "http://127.0.0.1:80"))
    with pytest.raises(UserError, match=r"inference.host=127.0.0.1: .* give 0.0.0.0"):
        second_of_two.reachable("", "127.0.0.1")


def test_a_follower_writes_nothing_into_the_run(tmp_path):
    follower = Follower(
        tmp_path / "run", {"stages": {"iter_1/tasks": {"tasks": 3}}}, ""
    )
    assert not follower.done("iter_1/tasks")
    follower.record("iter_1/tasks", status="done")
    assert follower.done("iter_1/tasks")
    assert follower.stage("iter_1/tasks")["tasks"] == 3
    assert follower.writable.is_dir() and not (tmp_path / "run").exists()
    follower.close()
    assert not follower.writable.exists()


SCRIPT = """
import signal, sys
from pathlib import Path
import jax, numpy as np
from scope_jax.system.hosts import join
from scope_jax.system.placement import HostsConfig
from models.errors import StorageError, UserError
from models.sharding import make_mesh, param_shardings, place

hosts = join(HostsConfig(count=2))
index = jax.process_index()
if sys.platform == "linux":
    status = Path("/proc/self/status").read_text().split()
    caught = int(status[status.index("SigCgt:") + 1], 16)
    assert not caught >> (signal.SIGTERM - 1) & 1, "SIGTERM would not end it"
assert hosts.all_gather({"from": index}) == [{"from": 0}, {"from": 1}]
assert hosts.from_leader(lambda: f"said by {index}") == "said by 0"
def fail():
    raise UserError("mistake")
try:
    hosts.from_leader(fail)
except UserError as error:
    assert str(error) == "mistake"
mesh = make_mesh(fsdp=4)
hosts.check_mesh(mesh)
whole = {"embed": np.arange(64.0, dtype=np.float32).reshape(8, 8)}
cut = place(whole, param_shardings(whole, mesh))
assert not cut["embed"].is_fully_addressable
own = hosts.local_copy(cut, mesh)["embed"]
assert own.sharding.device_set == set(jax.local_devices())
np.testing.assert_array_equal(own, whole["embed"])
try:
    hosts.check_mesh(make_mesh(fsdp=2))
except UserError as error:
    print("ok", index, error)
"""


def test_two_processes_that_slurm_starts_find_each_other():
    """With the variables that Slurm sets, on one machine."""
    processes = []
    for index in range(2):
        variables = {
            # The port follows from it.
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "PYTHONPATH": str(ROOT),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        for index, process in enumerate(processes):
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output[-3000:]
            assert f"ok {index} placement.trainer.mesh: 2 devices of the 4" in output
    finally:
        for process in processes:
            process.kill()
