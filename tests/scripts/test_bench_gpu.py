"""bench.py gpu: every part at toy shapes, and what becomes of one that fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

import bench
from benchmarks import gpu, gpu_parts
from models.errors import UserError
from scope_jax.system import stopping

pytestmark = pytest.mark.usefixtures("compiled_quickly")

FAKE = """
import json, os, sys, time
part, file = sys.argv[3], sys.argv[5]
toy = "--toy" in sys.argv
def say(status, **more):
    with open(file + ".draft", "w") as draft:
        json.dump({"status": status, **more}, draft)
    os.replace(file + ".draft", file)
if part == "machine":
    machine = {"devices": "1 x card", "jax": "1"}
    say("done", toy=True, result={"machine": machine})
elif part == "tiny":
    say("running", result={"first": 1})
    time.sleep(3600)
elif part == "decode, blocks":
    say("running", result={"32 slots, 1 tokens": {"of data sheet": 0.5}})
    print("Fatal: no memory", file=sys.stderr)
    os._exit(3)
elif part == "decode, pallas":
    say("done", result={"8 slots, 1 tokens": {"of data sheet": 0.9},
                        "64 slots, 1 tokens": {"of data sheet": 0.75}})
elif part == "update":
    say("done", result={"update": {"MFU": 0.39, "toy": toy}})
elif part == "agreement":
    say("done", result={"blocks": {"agree/prob_error": 1.01, "tokens": 4},
                        "fa3": {"refused": "no"}})
elif part == "search":
    sys.exit("no such index")
else:
    say("refused", error="no card")
"""


class Process(subprocess.Popen):
    """One whose time is over as soon as it says that it runs, however long that takes.

    Attributes:
      end: what waiting for it then raises.
      made: all that were started.
    """

    end: BaseException = subprocess.TimeoutExpired("tiny", 0)
    made: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, command, **options):
        super().__init__(command, **options)
        self.made.append(self)
        self.file = Path(command[command.index("--json") + 1])

    def wait(self, timeout=None):
        if timeout is None or "tiny" not in self.args:
            return super().wait()
        while not self.file.exists():
            time.sleep(0.01)
        raise self.end


@pytest.fixture
def script(tmp_path, monkeypatch):
    file = tmp_path / "bench.py"
    file.write_text(FAKE)
    monkeypatch.setattr(sys, "argv", [str(file), "gpu"])
    return file


@pytest.fixture
def fake(script, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.subprocess, "Popen", Process)
    monkeypatch.setattr(Process, "made", [])
    # Of the whole command, too: the tests' machine may be busy.
    monkeypatch.setattr(gpu.time, "monotonic", lambda: 0.0)
    return tmp_path / "deep" / "out.json"


def test_a_part_is_killed_when_its_time_is_over(script):
    found = gpu.measured("tiny", 0.2, toy=True)
    assert found["status"] == "out of time" and found["seconds"] >= 0.2


def test_a_part_does_not_outlive_the_command(fake, monkeypatch):
    monkeypatch.setattr(Process, "end", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.main(["gpu", "--json", str(fake)])
    assert [one.poll() for one in Process.made] == [0, -signal.SIGKILL]
    assert json.loads(fake.read_text())["parts"]["machine"]["status"] == "done"


def test_a_signal_ends_the_part_too(fake, monkeypatch):
    wait, sent = subprocess.Popen.wait, []

    def asked_to_end(self, timeout=None):
        if "tiny" in self.args and self.file.exists() and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return wait(self, timeout)

    monkeypatch.setattr(Process, "wait", asked_to_end)
    with pytest.raises(stopping.Stopped) as stopped:
        bench.main(["gpu", "--json", str(fake)])
    assert stopped.value.code == 143
    assert [one.poll() for one in Process.made] == [0, -signal.SIGKILL]


def test_what_was_found_is_kept_where_no_time_is_left(fake):
    bench.main(["gpu", "--json", str(fake)])
    before = json.loads(fake.read_text())["parts"]
    bench.main(["gpu", "--json", str(fake), "--minutes", "0.01"])
    after = json.loads(fake.read_text())["parts"]
    for name in gpu.LIMITS:
        if name != "machine":
            assert after[name] == before[name]


def test_a_part_that_fails_says_so_and_the_others_go_on(fake, capsys):
    assert bench.main(["gpu", "--json", str(fake)]) == 0
    said = json.loads(fake.read_text())
    parts = said["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "done",
        "tiny": "out of time",
        "decode, blocks": "failed",
        "decode, pallas": "done",
        "decode, fa3": "refused",
        "update": "done",
        "agreement": "done",
        "search": "failed",
    }
    assert list(parts) == list(gpu.LIMITS)
    assert parts["tiny"]["result"] == {"first": 1}  # what it had found
    assert parts["decode, blocks"]["error"] == "exit code 3: Fatal: no memory"
    assert parts["decode, blocks"]["result"]
    assert parts["search"]["error"] == "exit code 1: no such index"
    assert parts["update"]["result"]["update"]["toy"]  # there was no card
    found = list(said["goals"].values())
    assert found[0] == "0.75, reached (decode, pallas, 64 slots, 1 tokens)"
    assert found[1] == "0.39, missed" and found[2] == "1.01, reached"
    assert "tiny: out of time in " in capsys.readouterr().out


def test_the_same_command_does_what_is_missing(fake, monkeypatch, capsys):
    bench.main(["gpu", "--json", str(fake), "--minutes", "0.01"])
    parts = json.loads(fake.read_text())["parts"]
    assert {part["status"] for part in parts.values()} == {"no time left"}
    bench.main(["gpu", "--json", str(fake)])
    before = json.loads(fake.read_text())["parts"]
    done = []
    monkeypatch.setattr(
        gpu, "measured", lambda name, *_, **__: done.append(name) or before[name]
    )
    bench.main(["gpu", "--json", str(fake)])
    assert done == ["machine", "tiny", "decode, blocks", "search"]
    assert json.loads(fake.read_text())["parts"]["update"] == before["update"]
    assert "update: kept from an earlier call" in capsys.readouterr().out


def test_figures_of_two_machines_are_not_mixed(fake):
    bench.main(["gpu", "--json", str(fake)])
    said = json.loads(fake.read_text())
    said["machine"]["devices"] = "1 x another card"
    fake.write_text(text := json.dumps(said))
    with pytest.raises(UserError, match=r"another card.*name another file"):
        bench.main(["gpu", "--json", str(fake)])
    assert fake.read_text() == text


def test_a_wrong_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--json: every part is saved"):
        bench.main(["gpu"])
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="not of this benchmark"):
        bench.main(["gpu", "--json", str(tmp_path / "other.json")])


def part(name, tmp_path, *, toy=True):
    gpu.run_part(name, tmp_path / "part.json", toy=toy)
    return json.loads((tmp_path / "part.json").read_text())


def test_on_a_cpu_everything_is_a_toy(tmp_path):
    found = part("machine", tmp_path, toy=False)
    assert found["toy"] and found["status"] == "done"
    assert found["result"]["data sheet"] is None


@pytest.mark.parametrize("backend", ["blocks", "pallas"])
def test_decoding_by_a_backend(tmp_path, backend):
    found = part(f"decode, {backend}", tmp_path)
    assert found["status"] == "done", found
    ((setting, said),) = found["result"].items()
    assert setting == "2 slots, 96 tokens" and said["attention"] == backend
    assert said["bytes/s"] > 0 and said["of data sheet"] is None
    assert 0.3 < said["plan over program"] < 3


def test_a_backend_that_the_machine_lacks_is_refused(tmp_path):
    found = part("decode, fa3", tmp_path)
    assert found["status"] == "refused" and "runs on Hopper GPUs" in found["error"]


def test_the_update(tmp_path):
    found = part("update", tmp_path)
    assert found["status"] == "done", found
    said = found["result"]["update"]
    assert said["FLOP/s"] > 0 and said["MFU"] is None
    assert said["attention"] == "blocked" and said["plan over program"] > 0


def test_sampler_and_updater_agree_in_16_bits(tmp_path):
    found = part("agreement", tmp_path)
    assert found["status"] == "done", found
    said = found["result"]
    for backend in ("blocks", "pallas"):
        assert said[backend]["tokens"] == 4 * 8
        # Of two programs in bfloat16: not equal, and far below the alarm.
        assert 1 < said[backend]["agree/prob_error"] < 1.02 < gpu_parts.ALARM
    assert "Hopper" in said["fa3"]["refused"]


def test_tiny_and_search(tmp_path):
    found = part("tiny", tmp_path)
    assert found["status"] == "done", found
    found = part("search", tmp_path)
    assert found["result"]["search"]["equal to the bit alone"] is True
    assert "no GPU part" in found["result"]["search on a GPU, float16"]["refused"]
