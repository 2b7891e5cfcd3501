"""Trainer and inference process under faults at every write, request and answer.

Thousands of schedules are the campaign's (``python tests/faults/campaign.py``); here
are some of today's, and those in which something was found once.
"""

import datetime
import shutil
from pathlib import Path

import pytest

from scope_jax.system import files
from tests.faults.comparing import compared, content, judged
from tests.faults.faults import KILLED, Plan
from tests.faults.simulation import Simulation

# A forked process runs nothing of JAX.
pytestmark = pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called")

TODAY = datetime.date.today().toordinal() * 1000 + 1
"""The first of today's schedules; odd ones have one iteration."""


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    return Simulation(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def run(simulation):
    folder = simulation.folder / "run"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def at(simulation, words, what, number=0, *, draw=0):
    """A plan for a point of the undisturbed run, whose name ends with ``words``."""
    found = [n for n, name in enumerate(simulation.names, 1) if name.endswith(words)]
    return Plan("whole", (found[number],), what, draw)


def test_an_undisturbed_run_goes_through_the_same_points_again(simulation, run):
    ended = simulation.start(run, Plan("whole"), keep=True)
    assert ended.code == 0 and ended.names == simulation.names
    assert len(simulation.names) > 500
    assert not compared(content(run), simulation.whole)


def test_another_order_and_other_delays_give_the_same_run(simulation, run):
    assert simulation.start(run, Plan("another pace")).code == 0
    assert not compared(content(run), simulation.whole)


def test_a_finished_run_goes_on_with_another_iteration(simulation, run):
    assert simulation.start(run, Plan("whole")).code == 0
    longer = Simulation(simulation.folder, 2)
    assert longer.start(run, Plan("again")).code == 0
    found, wanted = content(run), dict(longer.whole)
    # In another order: the evaluation was a stage of the shorter run, too.
    manifests = found["manifest.json"], wanted["manifest.json"]
    lines = [sorted(line.strip(b" ,") for line in m.splitlines()) for m in manifests]
    assert lines[0] == lines[1]
    wanted["manifest.json"] = found["manifest.json"]
    assert not compared(found, wanted)


@pytest.mark.parametrize("seed", range(TODAY, TODAY + 40, 2))
def test_what_goes_wrong_today_ends_as_promised(simulation, seed):
    outcome = simulation.schedule(seed)
    again = f"python tests/faults/campaign.py repeat {seed}"
    assert not outcome.wrong, f"{again}\n{outcome.wrong}"


SERVER_STATE = "server write inference/state.json.tmp"


@pytest.mark.parametrize("what", ["server kill", "server stop"])
def test_a_server_that_dies_or_hangs_while_it_starts_is_started_again(
    simulation, run, what
):
    ended = simulation.start(run, at(simulation, SERVER_STATE, what))
    assert ended.code == 0, ended.said
    assert "restart 1 of 10" in ended.said
    assert not compared(content(run), simulation.whole)


def test_a_server_that_hangs_between_listening_and_ready_is_started_again(
    simulation, run
):
    # The first request of the run is the first question whether it is ready.
    ended = simulation.start(run, at(simulation, "request GET /ready", "server stop"))
    assert ended.code == 0 and "hung: no answer of /health" in ended.said


def test_a_server_whose_disk_is_full_at_the_start_ends_with_code_1(simulation, run):
    ended = simulation.start(run, at(simulation, SERVER_STATE, "refused"))
    assert ended.code == 1 and not judged(ended), ended.said
    assert "cannot be written" in ended.said.splitlines()[-1]
    # Nothing was made, so another configuration may begin here.
    assert not (run / "config.json").exists()


@pytest.mark.parametrize("kind", ["rename", "fsync"])
def test_no_hash_of_an_earlier_file_stays(simulation, run, kind):
    last = f"trainer {kind} manifest.json" + ".tmp" * (kind == "fsync")
    ended = simulation.start(run, at(simulation, last, "kill after", -1))
    assert ended.code == KILLED
    assert simulation.start(run, Plan("again")).code == 0
    sums = (run / "SHA256SUMS").read_text()
    assert sums.count("manifest.json") == 1


def test_no_hash_of_a_removed_file_stays(simulation, run):
    draft = "trainer unlink tasks/iter_1/batch_0001.written.json"
    ended = simulation.start(run, at(simulation, draft, "kill after"))
    assert ended.code == KILLED
    assert simulation.start(run, Plan("again")).code == 0
    assert not compared(content(run), simulation.whole)


def test_a_folder_that_a_killed_export_has_just_made_is_removed(simulation, run):
    made = "trainer mkdir export/iter_1/.solver.new-"
    ended = simulation.start(run, at(simulation, made, "kill after"))
    assert ended.code == KILLED and list((run / "export/iter_1").glob(".solver.new-*"))
    assert simulation.start(run, Plan("again")).code == 0
    assert not compared(content(run), simulation.whole)


def test_an_answer_without_the_servers_fingerprint_is_sent_for_again(simulation, run):
    asked = "trainer answer POST /v1/completions"
    for number in range(6):
        plan = at(simulation, asked, "body", number, draw=number)
        ended = simulation.start(run, plan)
        assert ended.code == 0, ended.said
        assert not compared(content(run), simulation.whole)
        shutil.rmtree(run)


def test_a_write_that_is_not_atomic_would_be_noticed(simulation, run, monkeypatch):
    def write_text(path: Path, text: str, *, recorded: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    monkeypatch.setattr(files, "write_text", write_text)
    rollouts = "trainer write rollouts/iter_1/solver/step_0001.jsonl"
    names = simulation.start(run, Plan("whole"), keep=True).names
    shutil.rmtree(run)
    plan = Plan("whole", (names.index(rollouts) + 1,), "power")
    assert simulation.start(run, plan).code == KILLED
    held = (run / "rollouts/iter_1/solver/step_0001.jsonl").read_bytes()
    assert len(held) == 0
