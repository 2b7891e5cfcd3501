"""Trainer processes on several hosts: how they are named, found and kept together."""

import pytest

from models.errors import UserError
from scope_jax import hosts
from scope_jax.config import HostsConfig
from scope_jax.run_folder import Follower


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, r"count=0: must be at least 1"),
        ({"count": 2, "index": 1}, "address and index belong together"),
        ({"count": 2, "address": "h:1"}, "address and index belong together"),
        ({"count": 2, "address": "h:1", "index": 2}, r"index=2: is no number of"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        HostsConfig(**fields)


def test_one_process_needs_nobody():
    hosts.start(HostsConfig())
    assert hosts.leads()
    assert hosts.told(lambda: 3) == 3
    assert hosts.everyones("x") == ["x"]
    assert hosts.mine([1, 2, 3]) == [1, 2, 3]
    assert hosts.reachable("http://127.0.0.1:80", "127.0.0.1") == "http://127.0.0.1:80"
    params = {"a": 1}
    assert hosts.own_copy(params, None) is params


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.jax, "process_index", lambda: 1)
    monkeypatch.setattr(hosts.socket, "gethostname", lambda: "two")


def says(monkeypatch, value):
    """What the leader says, to a process that is not one."""
    monkeypatch.setattr(hosts, "everyones", lambda mine: [value, mine])


def test_shares_are_every_item_once(second_of_two, monkeypatch):
    second = hosts.mine([0, 1, 2, 3, 4])
    monkeypatch.setattr(hosts.jax, "process_index", lambda: 0)
    assert sorted(hosts.mine([0, 1, 2, 3, 4]) + second) == [0, 1, 2, 3, 4]
    assert second == [1, 3]


def test_the_leaders_mistake_is_everybodys(second_of_two, monkeypatch):
    says(monkeypatch, (None, "tasks.target=0: too few: raise it"))
    with pytest.raises(UserError, match="too few"):
        hosts.told(lambda: pytest.fail("only the leader works"))


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
    assert hosts.reachable(url, "0.0.0.0") == expected


def test_a_loopback_address_of_another_host_is_refused(second_of_two, monkeypatch):
    says(monkeypatch, ("one", "http://127.0.0.1:80"))
    with pytest.raises(UserError, match=r"inference.host=127.0.0.1: .* give 0.0.0.0"):
        hosts.reachable("", "127.0.0.1")


def test_a_follower_writes_nothing_into_the_run(tmp_path):
    follower = Follower(tmp_path / "run", {"stages": {"iter_1/tasks": {"tasks": 3}}})
    assert not follower.done("iter_1/tasks")
    follower.record("iter_1/tasks", status="done")
    assert follower.done("iter_1/tasks")
    assert follower.stage("iter_1/tasks")["tasks"] == 3
    assert follower.writable.is_dir() and not (tmp_path / "run").exists()
    follower.close()
    assert not follower.writable.exists()
