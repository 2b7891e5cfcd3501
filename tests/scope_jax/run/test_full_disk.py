"""A disk that refuses a write: one line, nothing half-written, and it goes on later."""

import errno
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import configs
from models.errors import DamagedError, StorageError
from rl.learner import checkpoint
from scope_jax.config import TrackingConfig
from scope_jax.run import cli
from scope_jax.run.folder import RunFolder
from scope_jax.run.tracking import Tracker
from scope_jax.selfplay.task_file import write_tasks
from scope_jax.system import files

ROOT = Path(__file__).parents[3]


class Disk:
    """Fails the ``fail``-th call that changes the disk, with an error of our choice.

    Everything that a run writes goes through these calls; what C++ writes does not.
    """

    def __init__(self, monkeypatch, code):
        self.code, self.fail, self.count = code, 0, 0
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))
        write = Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", self.failing(write, half=True))
        monkeypatch.setattr(Path, "mkdir", self.failing(Path.mkdir))

    def failing(self, call, half=False):
        def called(*args, **options):
            self.count += 1
            if self.count == self.fail:
                if half:  # as much as there was room for
                    call(args[0], args[1][: len(args[1]) // 2])
                raise OSError(self.code, os.strerror(self.code), str(args[0]))
            return call(*args, **options)

        return called


def write_everything(run):
    """What a run writes, in the order in which it does."""
    folder = RunFolder(run, configs.load("ci"))
    try:
        with Tracker(run, TrackingConfig()) as tracker:
            folder.record("iter_1/solver", status="running")
            at = {"iteration": 1, "stage": "solver"}
            done = checkpoint.newest_whole(folder.checkpoints(1, "solver"), pytest.fail)
            kept = {"keep": 1, "keep_every": 0}
            checkpoint.remove_old(folder.checkpoints(1, "solver"), **kept)
            tracker.rewind(1, "solver", done or 0)
            for step in range((done or 0) + 1, 3):
                rows = [{"uid": str(step), "reward": 0.5}]
                files.write_json_lines(folder.rollouts(1, "solver", step), rows)
                tracker.log({"reward/mean": step}, **at, step=step)
                state = {"x": np.arange(step)}
                checkpoint.save(folder.checkpoints(1, "solver"), step, state, **kept)
            write_tasks(folder.tasks(1), [])
            folder.record("iter_1/solver", status="done")
    finally:
        folder.close()


def content(run):
    """Everything in a run folder that must be equal; not the clock's and Orbax's."""
    found = {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        skipped = ("tb/", "checkpoints/", ".lock", "metrics.jsonl.before")
        if file.is_file() and not name.startswith(skipped):
            found[name] = re.sub(
                rb'"(began|(time/)?unix)": [\d.]+', b"", file.read_bytes()
            )
            if file.suffix == ".jsonl":
                found[name] = re.sub(rb'"checksum": "\w+"', b"", found[name])
    found["checkpoints"] = checkpoint.steps(run / "checkpoints/iter_1/solver")
    # Holds the hash of the manifest, and so the clock.
    found["SHA256SUMS"] = re.sub(rb"\w{64}  manifest", b"manifest", found["SHA256SUMS"])
    return found


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES]
)
def test_every_refused_write_is_one_line_and_the_same_command_goes_on(
    tmp_path, monkeypatch, code
):
    disk = Disk(monkeypatch, code)
    write_everything(tmp_path / "whole")
    whole, calls = content(tmp_path / "whole"), disk.count
    # Each call once over the four errors: their handling is the same.
    codes = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES]
    for fail in range(1 + codes.index(code), calls + 1, len(codes)):
        run = tmp_path / str(fail)
        disk.count, disk.fail = 0, fail
        try:
            write_everything(run)
        except (StorageError, ValueError) as error:
            said = str(error)
            assert "\n" not in said and os.strerror(code) in said and str(run) in said
            if code in (errno.ENOSPC, errno.EDQUOT) and isinstance(error, StorageError):
                assert "free" in said
        except OSError as error:  # run_main makes one line of it
            assert str(run) in str(error.filename)
        disk.fail = 0
        assert not list(run.rglob("*.writing"))
        write_everything(run)
        assert content(run) == whole


FILLED = """
import sys, os
sys.path[:0] = {path!r}
import numpy as np
from pathlib import Path
from rl.learner import checkpoint
from scope_jax.config import TrackingConfig
from scope_jax.run import cli
from scope_jax.run.tracking import Tracker

run = Path(sys.argv.pop(1))
def main(argv):
    if argv[0] == "checkpoint":
        checkpoint.save(run / "c", 1, {{"x": np.arange(1000)}}, keep=1)
        checkpoint.save(run / "c", 2, {{"x": np.random.rand(300_000)}}, keep=1)
    with Tracker(run, TrackingConfig()) as tracker:
        for step in range(1, 9999):
            metrics = {{f"reward/{{n}}": 0.5 for n in range(50)}}
            tracker.log(metrics, iteration=1, stage="solver", step=step)
cli.run_main(main)
"""


def filled(tmp_path, what):
    """Runs ``FILLED`` on a real file system of 1 MB; its end, and a copy of it."""
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    program = tmp_path / "program.py"
    program.write_text(FILLED.format(path=[str(ROOT)]))
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {small} || exit 99\n"
        f"{sys.executable} {program} {small} {what}; code=$?\n"
        f"cp -r {small} {kept}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no file system may be mounted here")
    return done, kept


def test_a_real_full_disk_ends_a_checkpoint_with_one_line(tmp_path):
    done, kept = filled(tmp_path, "checkpoint")
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.fullmatch(
        r"error: \S+/c/2: cannot be written \(No space left on device, 2\.4 MB needed, "
        r"[\d.,]+ \w+ free\): free space, then give the same command again",
        line,
    )
    assert [p.name for p in (kept / "c").iterdir()] == ["1"]
    assert checkpoint.newest_whole(kept / "c", pytest.fail) == 1


def test_a_real_full_disk_ends_metrics_with_one_line_and_whole_records(tmp_path):
    done, kept = filled(tmp_path, "metrics")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "No space left" in done.stderr
    with Tracker(kept, TrackingConfig(tensorboard=False)) as tracker:
        steps = [record["step"] for record in tracker.records]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 100
    assert (kept / "metrics.jsonl").read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (StorageError("x: full"), 1, "error: x: full"),
        (DamagedError("x", "cut"), 2, "error: x: cut: restore the file"),
        (OSError(errno.EROFS, "", "x"), 1, "error: x: cannot be written (Read-only"),
        (OSError(errno.ENAMETOOLONG, "", "x" * 300), 2, "xx: File name too long: give"),
    ],
)
def test_what_a_disk_says_is_one_line_and_a_code(error, code, words, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run_main(main)
    said = capsys.readouterr().err
    assert ended.value.code == code and words in said
    assert said.count("\n") == 1 and len(said) < 200


@pytest.mark.parametrize(
    ("script", "name", "words"),
    [
        ("eval", "typo", "no run is there: name its folder"),
        ("eval", "x" * 300, "File name too long"),
        ("report", "typo", "has no config.json: name the folder of a run"),
        ("report", "x" * 300, "File name too long"),
    ],
)
def test_a_run_that_is_not_there_is_one_line_and_no_folder(
    tmp_path, monkeypatch, capsys, script, name, words
):
    monkeypatch.chdir(tmp_path)
    options = ["--config", "ci", "--run", name] if script == "eval" else [name]
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / f"scripts/{script}.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and words in said and said.count("\n") == 1
    assert len(said) < 200 and not list(tmp_path.iterdir())
