"""The folder of one run: its paths, which stages are finished, who is writing.

config.json (resolved)   manifest.json (stage state)   metrics.jsonl   tb/
rollouts/iter_1/challenger/step_0001.jsonl   tasks/iter_1.parquet
checkpoints/iter_1/solver/STEP/   export/iter_1/solver/   report.html
"""

import fcntl
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax.config import Config
from scope_jax.system import settings
from scope_jax.system.files import write_text

# Settings that may change when a run resumes: they change no result, except for
# rounding on another mesh.
HARMLESS = ("tracking", "placement", "checkpoint", "evaluation", "inference.port")
HARMLESS += ("inference.ready_timeout", "inference.request_timeout")
HARMLESS += ("inference.search_timeout", "inference.health_timeout")
HARMLESS += ("inference.outage_timeout", "inference.max_restarts")
EMPTYING = ".emptying"
LEFTOVERS = (".lock", "config.json*.tmp", "inference.log", "inference")


class RunPaths:
    """The paths of a run; for readers."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def checkpoints(self, iteration: int, role: str) -> Path:
        """Folder of a training stage's checkpoints."""
        return self.path / "checkpoints" / f"iter_{iteration}" / role

    def rollouts(self, iteration: int, stage: str, step: int) -> Path:
        """File of a step's rollouts."""
        folder = self.path / "rollouts" / f"iter_{iteration}" / stage
        return folder / f"step_{step:04d}.jsonl"

    def export(self, iteration: int, role: str) -> Path:
        """Hugging Face folder of a role's weights at the end of an iteration."""
        return self.path / "export" / f"iter_{iteration}" / role

    def tasks(self, iteration: int) -> Path:
        """File of an iteration's tasks."""
        return self.path / "tasks" / f"iter_{iteration}.parquet"

    def task_batch(self, iteration: int, batch: int) -> Path:
        """File of the tasks that one batch of prompts gave."""
        return self.path / "tasks" / f"iter_{iteration}" / f"batch_{batch:04d}.parquet"

    def task_drafts(self, iteration: int, batch: int) -> Path:
        """File of what one batch of prompts was made into, until it is sifted."""
        return self.task_batch(iteration, batch).with_suffix(".written.json")


class RunFolder(RunPaths):
    """Paths and state of a run; holds an exclusive lock until closed.

    Raises:
      UserError: the folder belongs to a different configuration, another process is
        writing to it, or it is no folder of a run.
    """

    def __init__(self, path: Path, config: Config, *, fresh: bool = False):
        super().__init__(path)
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{path}: is a file: name a folder with --run")
        config_file = self.path / "config.json"
        occupied = self.path.is_dir() and any(self.path.iterdir())
        unfinished = (self.path / EMPTYING).exists()
        stranger = occupied and not config_file.is_file() and not unfinished
        if stranger and not self._only_leftovers():
            raise UserError(
                f"{path}: holds files but no config.json: name a new folder with --run"
            )
        if config_file.is_file() and not (fresh or unfinished):
            self._refuse_differences(config_file, config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a+")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}): name another folder "
                "with --run"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{path}: another process is writing to this run: wait for it, or name "
                "another folder with --run"
            ) from error
        if fresh or unfinished:
            self._empty()
        for cut_off in self.path.rglob("*.tmp"):  # a killed process was writing it
            cut_off.unlink()
        if not config_file.is_file():
            settings.save(config, config_file)
        self.writable = self.path
        self._manifest_file = self.path / "manifest.json"
        self.manifest: dict[str, Any] = {"stages": {}}
        if self._manifest_file.is_file():
            self.manifest = settings.read_json(self._manifest_file)

    def _only_leftovers(self) -> bool:
        """Whether nothing is there but what a failed start leaves."""
        return all(any(map(entry.match, LEFTOVERS)) for entry in self.path.iterdir())

    def abandon(self) -> None:
        """Takes back a start that failed, if nothing was made yet; the log stays.

        So the next start may have other settings.
        """
        if self.manifest["stages"] or (self.path / "eval").exists():
            return
        for name in ("config.json", "metrics.jsonl", "manifest.json"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("tb", "inference"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def _refuse_differences(self, config_file: Path, config: Config) -> None:
        saved = settings.load(Config, config_file)
        different = settings.differences(saved, config, ignore=HARMLESS)
        if different:
            shown = "; ".join(different[:6])
            more = f"; and {len(different) - 6} more" if len(different) > 6 else ""
            raise UserError(
                f"{self.path}: is a run of a different configuration ({shown}{more}): "
                "give the same options, another folder with --run, or --fresh"
            )

    def _empty(self) -> None:
        """Deletes all that a run left; a mark says so until the last file is gone."""
        mark = self.path / EMPTYING
        mark.touch()
        for entry in self.path.iterdir():
            if entry.name in (".lock", EMPTYING):
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        mark.unlink()

    def close(self) -> None:
        """Lets go of the lock."""
        self._lock.close()

    # --- state -----------------------------------------------------------------

    def stage(self, name: str) -> dict[str, Any]:
        """What is known of a stage such as ``iter_1/solver``; empty if not begun."""
        return self.manifest["stages"].get(name, {})

    def record(self, name: str, **facts: Any) -> None:
        """Notes facts about a stage, and when it was done; writes the manifest."""
        if facts.get("status") == "done":
            facts["unix"] = round(time.time(), 3)
        self.manifest["stages"].setdefault(name, {}).update(facts)
        write_text(self._manifest_file, json.dumps(self.manifest, indent=2) + "\n")

    def done(self, name: str) -> bool:
        """Whether a stage is finished."""
        return self.stage(name).get("status") == "done"


class Follower(RunPaths):
    """The run as a process sees it that leaves all writing to another.

    Attributes:
      writable: a folder for what it logs, deleted at the end.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]):
        super().__init__(path)
        self.manifest = manifest
        self._temporary = tempfile.TemporaryDirectory()
        self.writable = Path(self._temporary.name)

    def abandon(self) -> None:
        """Leaves that to the other."""

    def close(self) -> None:
        """Removes what it logged."""
        self._temporary.cleanup()

    def record(self, name: str, **facts: Any) -> None:
        """Remembers what the other writes."""
        self.manifest["stages"].setdefault(name, {}).update(facts)

    stage, done = RunFolder.stage, RunFolder.done
