"""The folder of one run: its paths, which stages are finished, who is writing.

config.json (resolved)   manifest.json (stage state)   metrics.jsonl   tb/
rollouts/iter_1/challenger/step_0001.jsonl   tasks/iter_1.parquet
checkpoints/iter_1/solver/STEP/   export/iter_1/solver/   report.html
"""

import contextlib
import datetime
import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import checksums, storage
from models.errors import DamagedError, UserError
from scope_jax.config import Config
from scope_jax.run import resuming
from scope_jax.run.paths import RunPaths
from scope_jax.run.records import NAME as METRICS
from scope_jax.system import settings
from scope_jax.system.files import read_json, remove_cut_off, write_text

log = logging.getLogger("scope_jax")

EMPTYING = ".emptying"
LEFTOVERS = (".lock", "*.json*.tmp", "SHA256SUMS*.tmp", "inference.log", "inference")
MANIFEST = "manifest.json"
MADE_BY_A_START = ("config.json", MANIFEST, checksums.NAME)
LONGEST_AGO = 366
"""Days back that are tried for the start of a run whose configuration is lost."""
FOUND_AGAIN = "finished stages are found again from their files"


class LostArtefactError(DamagedError):
    """What a stage needs of a finished one is damaged or gone; that can be made again.

    Attributes:
      stage: which made it, such as ``iter_1/solver``.
    """

    def __init__(self, file: Path, why: str, remedy: str, stage: str):
        super().__init__(file, why, remedy)
        self.stage = stage

    def __reduce__(self):
        return type(self), (self.file, self.why, self.remedy, self.stage)


@contextlib.contextmanager
def needed_from(stage: str) -> Iterator[None]:
    """Says of damage that is found in the ``with`` block which stage can mend it."""
    try:
        yield
    except DamagedError as error:
        raise LostArtefactError(error.file, error.why, error.remedy, stage) from error


class RunFolder(RunPaths):
    """Paths and state of a run; holds an exclusive lock until closed.

    Attributes:
      date: the day that chat templates are told, see ``ModelConfig.date``.

    Raises:
      UserError: the folder belongs to a different configuration, another process is
        writing to it, or it is no folder of a run.
      StorageError: the disk refuses a write.
    """

    def __init__(self, path: Path, config: Config, *, fresh: bool = False):
        super().__init__(path)
        self._config_file = self.path / "config.json"
        self._manifest_file = self.path / MANIFEST
        self._lost_config = False
        self._begun = config
        try:
            unfinished = self._check_place(config, fresh=fresh)
            if not self._begun.model.date:
                self._begun = _with_date(self._begun, datetime.date.today())
            self.date = self._begun.model.date
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
        with storage.writing(self.path):
            if fresh or unfinished:
                self._empty()
            remove_cut_off(self.path)
        if self._lost_config and self._config_file.is_file():
            storage.set_aside(self._config_file)
        if not self._config_file.is_file() or self._recorded() != self._begun:
            settings.save(self._begun, self._config_file, recorded=True)
        self.writable = self.path
        self.manifest = self._read_manifest()
        self.began = self.manifest.get("began") or round(time.time(), 3)

    def _check_place(self, config: Config, *, fresh: bool) -> bool:
        """Refuses a place that is not this run's; whether it is to be emptied first."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file: name a folder with --run")
        if (self.path / EMPTYING).exists():
            return True
        if self._config_file.is_file():
            if not fresh:
                self._refuse_differences(config)
            elif not self._is_a_run():
                raise UserError(
                    f"{self.path}: --fresh would delete all that is in it, and its "
                    "config.json is no run's: name a new folder with --run"
                )
        elif self.path.is_dir() and not self._only_leftovers(fresh):
            self._refuse_strangers(config, fresh=fresh)
        return False

    def _is_a_run(self) -> bool:
        """Whether a config.json is a run's: a model's folder has such a file too."""
        if any((self.path / name).is_file() for name in (MANIFEST, METRICS)):
            return True
        try:
            self._recorded()
        except UserError:
            return False
        return True

    def _refuse_strangers(self, config: Config, *, fresh: bool) -> None:
        """A folder without a configuration: ours only if its hash says that."""
        if fresh or not checksums.recorded(self._config_file):
            raise UserError(
                f"{self.path}: holds files but no config.json: name a new folder with "
                "--run"
            )
        self._refuse_unknown(config, "no such file")

    def _refuse_differences(self, config: Config) -> None:
        try:
            saved = settings.load(Config, self._config_file)
        except DamagedError as error:
            self._refuse_unknown(config, error.why)
            return
        if not saved.model.date:  # of a version that didn't record it
            began = self._config_file.stat().st_mtime  # it was written at the start
            saved = _with_date(saved, datetime.date.fromtimestamp(began))
        if not config.model.date:
            model = replace(config.model, date=saved.model.date)
            config = replace(config, model=model)
        different = resuming.differences(saved, config)
        if different:
            shown = "; ".join(different[:6])
            more = f"; and {len(different) - 6} more" if len(different) > 6 else ""
            raise UserError(
                f"{self.path}: is a run of a different configuration ({shown}{more}): "
                "give the same options, another folder with --run, or --fresh"
            )
        self._begun = resuming.extended(saved, config)

    def _refuse_unknown(self, config: Config, why: str) -> None:
        """Where the configuration is lost: refuses another than it was, by its hash."""
        known = set(checksums.recorded(self._config_file))
        if self._config_file.is_file():
            known.add(hashlib.sha256(self._config_file.read_bytes()).hexdigest())
        for begun in _as_recorded(config):
            text = settings.to_json(begun).encode()
            if hashlib.sha256(text).hexdigest() in known:
                break
        else:
            raise DamagedError(
                self._config_file,
                why,
                "restore the file, or give exactly the options that the run was begun "
                "with: it is then written again",
            )
        self._lost_config, self._begun = True, begun
        log.warning(
            "%s: %s: written again, from the same options", self._config_file, why
        )

    def _recorded(self) -> Config:
        return settings.load(Config, self._config_file)

    def _read_manifest(self) -> dict[str, Any]:
        """Which stages are finished; without it, they are found again from the rest."""
        empty: dict[str, Any] = {"stages": {}}
        file = self._manifest_file
        if not file.exists():
            if self._has_results():
                log.warning("%s: no such file: %s", file, FOUND_AGAIN)
            return empty
        try:
            manifest = read_json(file)
            stages = manifest["stages"].values()
            if all(isinstance(stage, dict) for stage in stages):
                with storage.writing(file):
                    # Or nobody would, where a kill has ended a run's last write.
                    checksums.settle(file, checksums.of(file))
                return manifest
            why = "holds no stages"
        except DamagedError as error:
            why = error.why
        except (TypeError, KeyError, AttributeError):
            why = "holds no stages"
        with storage.writing(file):
            aside = storage.set_aside(file)
        log.warning("%s: %s: kept as %s; %s", file, why, aside.name, FOUND_AGAIN)
        return empty

    def _only_leftovers(self, fresh: bool) -> bool:
        """Whether nothing is there but what a failed start leaves.

        So are hashes, unless they say which run is to go on.
        """
        known = checksums.recorded(self._config_file) and not fresh
        names = LEFTOVERS if known else (*LEFTOVERS, checksums.NAME)
        return all(any(map(entry.match, names)) for entry in self.path.iterdir())

    def _has_results(self) -> bool:
        """Whether anything is there that a start alone does not make.

        Asked of the whole folder: what one file says, such as a manifest without
        stages, may be because that file was lost.
        """
        if self._manifest_file.is_file() and self.manifest["stages"]:
            return True
        return any(
            not any(map(entry.match, (*LEFTOVERS, *MADE_BY_A_START)))
            and not (entry.name == METRICS and not entry.stat().st_size)
            for entry in self.path.iterdir()
        )

    def abandon(self) -> None:
        """Takes back a start that failed, if nothing was made yet; the log stays.

        So the next start may have other settings.
        """
        if self._has_results():
            return
        with contextlib.suppress(OSError):  # why the start failed matters more
            # The hashes last: killed in between, they say that the rest is a run's.
            for name in (METRICS, *MADE_BY_A_START):
                (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "inference", ignore_errors=True)

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
        self.manifest.setdefault("began", self.began)
        self.manifest["stages"].setdefault(name, {}).update(facts)
        text = json.dumps(self.manifest, indent=2) + "\n"
        write_text(self._manifest_file, text, recorded=True)

    def done(self, name: str) -> bool:
        """Whether a stage is finished."""
        return self.stage(name).get("status") == "done"


def _with_date(config: Config, day: datetime.date) -> Config:
    return replace(config, model=replace(config.model, date=day.isoformat()))


def _as_recorded(config: Config) -> Iterator[Config]:
    """What a run with these options may have recorded: with the day of its start."""
    yield config
    if not config.model.date:
        today = datetime.date.today()
        for age in range(LONGEST_AGO):
            yield _with_date(config, today - datetime.timedelta(days=age))


class Follower(RunPaths):
    """The run as a process sees it that leaves all writing to another.

    Attributes:
      date: as in ``RunFolder``.
      writable: a folder for what it logs, deleted at the end.
      began: when the run was started first; for the other alone.
    """

    began = None

    def __init__(self, path: Path, manifest: dict[str, Any], date: str):
        super().__init__(path)
        self.manifest, self.date = manifest, date
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
