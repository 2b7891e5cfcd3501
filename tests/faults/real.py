"""Kills of real processes: ``scripts/train.py`` with a hook that counts its points.

Each run is killed a few times, at points that are drawn by its seed, and given again
until it ends; then it is compared with a run that nobody disturbed.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from rl.learner import checkpoint
from tests.faults.comparing import compared, content

ROOT = Path(__file__).parents[2]
SMALLEST = (
    *("--challenger_train.steps", "1", "--solver_train.steps", "2"),
    *("--checkpoint.every", "1", "--evaluation.count", "1"),
    *("--tasks.target", "2"),
)
DEADLINE = 900
"""Seconds that one start may take before it counts as hung."""
STARTS = 8


class Real:
    """Runs of real processes in folders below one.

    Args:
      folder: for runs, logs and plans.
      iterations: of a run.
    """

    def __init__(self, folder: Path, iterations: int = 1):
        self.folder, self.iterations = Path(folder), iterations
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self.folder / f"whole-{iterations}"
        log = self.folder / f"points-{iterations}.txt"
        if not (whole / "finished").is_file():
            shutil.rmtree(whole, ignore_errors=True)
            log.unlink(missing_ok=True)
            code, said, _ = self.start(whole / "run", [], log)
            assert code == 0, said
            (whole / "finished").touch()
        self.names = log.read_text().splitlines()
        self.whole = held(whole / "run")

    def points(self, process: str) -> list[str]:
        """The named points of an undisturbed run, in order."""
        return [name for name in self.names if name.startswith(process)]

    def run(self, seed: int) -> dict[str, Any]:
        """One run with its kills, to its end."""
        began, drawn = time.monotonic(), random.Random(f"real {seed}")
        run = self.folder / f"run-{seed}"
        shutil.rmtree(run, ignore_errors=True)
        kills, codes, wrong = [], [], ""
        faulty = drawn.choice((1, 2, 2, 3))
        for number in range(STARTS):
            plan = self._kills(drawn, number) if number < faulty else []
            code, said, done = self.start(run, plan)
            codes.append(code)
            kills += done
            if code == 0:
                wrong = compared(held(run), self.whole)
                break
            if code != -9 and not (code == 1 and stated(said)):
                wrong = f"exit code {code}: {said[-3000:]}"
                break
        else:
            wrong = f"not finished after {STARTS} starts"
        if not wrong:
            shutil.rmtree(run, ignore_errors=True)
        return {
            "kind": "real",
            "seed": seed,
            "iterations": self.iterations,
            "wrong": wrong,
            "codes": codes,
            "kills": kills,
            "seconds": round(time.monotonic() - began, 1),
        }

    def _kills(self, drawn: random.Random, number: int) -> list[dict[str, Any]]:
        """Kills of one start: of the server on the way, of the trainer at the end."""
        most = len(self.points("trainer"))
        last = drawn.randint(1, int(most * (0.8 if number == 0 else 0.5)))
        when = drawn.choice(("before", "between", "after", "later"))
        victims = drawn.choice((["trainer"], ["trainer"], ["trainer", "server"]))
        kills = [{"process": "trainer", "at": last, "when": when, "victims": victims}]
        for _ in range(drawn.choice((0, 1, 1, 2))):
            kill = {"process": "trainer", "at": drawn.randint(1, last)}
            kills.append(kill | {"when": "after", "victims": ["server"]})
        if drawn.random() < 0.25:
            at = drawn.randint(1, len(self.points("server")))
            when = drawn.choice(("before", "between", "after"))
            kill = {"process": "server", "at": at, "when": when, "victims": ["server"]}
            kills.append(kill)
        return kills

    def start(
        self, run: Path, kills: list[dict[str, Any]], log: Path | None = None
    ) -> tuple[int, str, list[dict[str, Any]]]:
        """Gives the command; its exit code, what it said, the kills that were done."""
        run.parent.mkdir(parents=True, exist_ok=True)
        plan, done = run.with_suffix(".plan"), run.with_suffix(".done")
        done.write_text("")
        told = {"root": str(run), "log": str(log or ""), "done": str(done)}
        plan.write_text(json.dumps(told | {"kills": kills}))
        here = Path(__file__).parent
        paths = [str(here / "hook"), str(ROOT), str(ROOT / "scripts")]
        environment = os.environ | {
            "FAULTS_PLAN": str(plan),
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_PLATFORMS": "cpu",
        }
        command = [sys.executable, str(ROOT / "scripts/train.py"), "--config", "ci"]
        command += ["--run", str(run), "--iterations", str(self.iterations), *SMALLEST]
        with run.with_suffix(".log").open("w+") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = 124
            output.seek(0)
            said = output.read()
        found = [json.loads(line) for line in done.read_text().splitlines()]
        for file in (plan, done, *([] if code else [run.with_suffix(".log")])):
            file.unlink()
        return code, said, found


def stated(said: str) -> bool:
    """Whether a start ended with its one line."""
    lines = said.strip().splitlines()
    return bool(lines) and lines[-1].startswith("error: ") and "Traceback" not in said


def held(run: Path) -> dict[str, bytes]:
    """``content`` of a run whose checkpoints are compared by what they hold."""
    found = {
        name: data
        for name, data in content(run).items()
        if not name.startswith("checkpoints/")
    }
    for folder in sorted((run / "checkpoints").glob("*/*")):
        names = sorted(path.name for path in folder.iterdir())
        found[f"{folder.relative_to(run)}/"] = " ".join(names).encode()
        for step in checkpoint.steps(folder):
            state = ocp.load(folder / str(step))
            leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
            found[f"{folder.relative_to(run)}/{step}/"] = b"".join(leaves)
    return found
