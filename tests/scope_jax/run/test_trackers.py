"""Metrics reach the places that are named, and what fails there ends nothing.

W&B (offline) and trackio are the real ones, and are skipped where they are not.
"""

import hashlib
import itertools
import socket
import sqlite3
import sys
import types
import urllib.request

import pytest

import configs
from models.errors import UserError
from scope_jax.config import TrackingConfig
from scope_jax.run import trackers
from scope_jax.run.folder import RunFolder
from scope_jax.run.tracking import Tracker


def two_steps(folder, *, began=None, **settings):
    config = TrackingConfig(tensorboard=False, progress=False, **settings)
    with Tracker(folder, config, began=began, copied=True) as tracker:
        for step in (1, 2):
            metrics = {"reward/mean": step / 4, "loss/kl": float("nan")}
            tracker.log(metrics, iteration=1, stage="solver", step=step)
        yield tracker


def test_names_are_those_of_the_stage_and_what_is_no_number_is_left_out():
    record = {"iteration": 1, "stage": "solver", "step": 3, "time/unix": 7.5}
    record |= {"reward/mean": 0.5, "loss/kl": None}
    assert trackers.named(record, 11) == {
        "solver/step_of_run": 11,
        "solver/iteration": 1,
        "solver/step": 3,
        "solver/reward/mean": 0.5,
    }


def test_steps_count_on_over_iterations_and_by_stage(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(trackers.Copies, "log", lambda _, r, count: sent.append(count))
    with Tracker(tmp_path, TrackingConfig(tensorboard=False)) as tracker:
        for iteration in (1, 2):
            for step in (1, 2):
                tracker.log({}, iteration=iteration, stage="solver", step=step)
            tracker.log({}, iteration=iteration, stage="evaluation", step=1)
        tracker.rewind(1, "solver", 1)
        tracker.log({}, iteration=1, stage="solver", step=2)  # made again
    assert sent == [1, 2, 1, 3, 4, 2, 2]


def test_prometheus_finds_the_last_values_on_the_loopback_address(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in two_steps(tmp_path / "run", prometheus_port=port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        assert 'scope_metric{name="reward/mean",stage="solver"} 0.5' in lines
        assert not any("loss/kl" in line for line in lines)
        with pytest.raises(UserError, match=f"prometheus_port={port}: Address already"):
            other = TrackingConfig(prometheus_port=port)
            Tracker(tmp_path / "other", other, copied=True)
    with pytest.raises(OSError):  # it has ended with the run
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_trackio_has_every_step(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    for run in ("a/run", "b/run", "a/run"):
        to = {"trackers": ("trackio",), "project": "p"}
        for _ in two_steps(tmp_path / run, began=1.5, **to):
            pass
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_name, metrics from metrics").fetchall()
    names = [name for name, _ in rows]
    assert sorted(map(names.count, set(names))) == [2, 4]  # one was resumed
    assert all(name.startswith("run-") for name in names)
    assert b'"solver/reward/mean":0.5' in rows[1][1].replace(b" ", b"")


def test_wandb_has_every_step_of_a_run_that_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    pytest.importorskip("wandb")
    for _ in range(2):
        for _ in two_steps(tmp_path / "run", began=1.5, trackers=("wandb",)):
            pass
    folders = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    files = [file for folder in folders for file in folder.glob("*.wandb")]
    assert len({file.name for file in files}) == 1  # one run
    written = b"".join(file.read_bytes() for file in files)
    assert b"solver/reward/mean" in written


@pytest.fixture
def started(monkeypatch):
    """Starts a run in a folder; returns its id at W&B and its name at trackio."""
    ticks = itertools.count(1000.0)
    monkeypatch.setattr("scope_jax.run.folder.time.time", lambda: next(ticks))
    given = {}
    for package in ("wandb", "trackio"):

        def init(package=package, **options):
            given[package] = options
            return types.SimpleNamespace(define_metric=lambda *names, **more: None)

        fake = types.SimpleNamespace(init=init, finish=lambda: None)
        monkeypatch.setitem(sys.modules, package, fake)

    def start(path, *, fresh=False):
        folder = RunFolder(path, configs.load("ci"), fresh=fresh)
        folder.record("iter_1/challenger", status="running")
        to = TrackingConfig(tensorboard=False, trackers=("wandb", "trackio"))
        with Tracker(path, to, began=folder.began, copied=True):
            folder.close()
        return given["wandb"]["id"], given["trackio"]["name"]

    return start


def test_only_a_run_that_is_resumed_goes_on_with_its_curves(started, tmp_path):
    run, other = tmp_path / "a" / "x", tmp_path / "b" / "x"
    first = started(run)
    assert started(run) == first
    others = [started(run, fresh=True), started(other)]
    for place in range(2):  # ids, then names
        assert len({found[place] for found in (first, *others)}) == 3
    assert started(run) == others[0]


def test_a_run_of_an_older_version_goes_on_with_the_id_that_it_has(started, tmp_path):
    digits = hashlib.sha256(str(tmp_path / "run").encode()).hexdigest()[:16]
    started(tmp_path / "run")
    (tmp_path / "run" / "wandb" / f"run-20250131_120000-{digits}").mkdir(parents=True)
    assert started(tmp_path / "run")[0] == digits
    assert started(tmp_path / "run", fresh=True)[0] != digits


def test_a_place_that_fails_is_given_up_with_one_warning(tmp_path, caplog):
    class Failing:
        def log(self, record, count):
            raise RuntimeError("no network")

        def close(self):
            raise AssertionError("it was given up")

    with Tracker(tmp_path, TrackingConfig(tensorboard=False)) as tracker:
        tracker._copies._open["wandb"] = Failing()
        for step in (1, 2):
            tracker.log({"a/b": 1.0}, iteration=1, stage="solver", step=step)
    assert caplog.messages == ["wandb: no more metrics are sent there: no network"]
    assert len(tracker.records) == 2


def test_a_package_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"tracking\.trackers=wandb: the package is not installed: pip"
    ):
        Tracker(tmp_path, TrackingConfig(trackers=("wandb",)), copied=True)


def test_a_step_of_an_earlier_stage_that_is_made_again_is_sent_again(
    tmp_path, monkeypatch
):
    sent = []
    monkeypatch.setattr(
        trackers.Copies, "log", lambda _, record, count: sent.append(record["stage"])
    )
    config = TrackingConfig(tensorboard=False, progress=False)
    with Tracker(tmp_path, config, copied=True) as tracker:
        for stage in ("challenger", "solver", "challenger"):
            tracker.rewind(1, stage, 0)
            tracker.log({"reward/mean": 0.5}, iteration=1, stage=stage, step=1)
        assert [record["stage"] for record in tracker.records] == [
            "challenger",
            "solver",
        ]
    assert sent == ["challenger", "solver", "challenger"]
