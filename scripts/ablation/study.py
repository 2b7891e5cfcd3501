"""A study: arms by seeds, what each run is told, and which are finished."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import configs
from ablation import arms, board, runs, summaries, true_tasks, weaken
from ablation.arms import Job, Materials
from ablation.runs import Run
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.run import cli
from scope_jax.small_world.assets import resolve
from scope_jax.system.files import cache_dir, read_json


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is to be run.

    Attributes:
      config: name of the configuration that arms depart from.
      overrides: options of ``train.py`` that hold in all arms.
      arms, seeds: every arm is run with every seed; seeds are the outer loop, so that
        what is finished early is balanced.
      out: folder of run folders.
      summaries: folder of summaries.
      count, split: of the evaluation's tasks.
      cores: processor cores of a run, which then gets no GPU; None: no limit.
    """

    config: str
    overrides: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: Sequence[int]
    out: Path
    summaries: Path
    count: int
    split: str
    cores: int | None = None

    def runs(self, *, make: bool) -> list[Run]:
        """All runs in order.

        Args:
          make: whether weak models and files of tasks are made, or only named.

        Raises:
          UserError: an option that train.py would refuse.
        """
        for word in self.overrides:
            if word.split("=")[0] in ("--seed", "--run", "--fresh"):
                raise UserError(f"{word}: every run has its own: see --first-seed")
        shared = ["--config", self.config, *self.overrides]
        plain, _ = cli.parse(shared, configs)
        materials = self._materials(plain, make=make)
        made = []
        for seed in self.seeds:
            for arm in self.arms:
                words = [*shared, *arms.options(arm, seed, materials)]
                made.append(
                    Run(
                        arm=arm,
                        seed=seed,
                        folder=self.out / f"{arm}_{seed}",
                        config=cli.parse(words, configs)[0],
                        options=tuple(words),
                    )
                )
        return made

    def described(self, device: str | None) -> str:
        """What would be run, as commands; of finished runs only that they are."""
        lines = []
        for run in self.runs(make=False):
            if self._finished(run):
                lines.append(f"# {run.name}: finished: {self._file(run)}")
                continue
            lines.append(f"# {run.name}")
            for command in run.commands(device, self.count, self.split):
                lines.append(shlex.join(command))
        return "\n".join(lines)

    def play(self, devices: Sequence[str | None]) -> list[str]:
        """Plays all runs that are not finished; returns why some failed."""
        todo = [run for run in self.runs(make=True) if not self._finished(run)]
        environment = {"JAX_PLATFORMS": "cpu"} if self.cores else {}
        players = runs.Players(environment, self.cores)
        code = runs.commit()

        def one(run: Run, device: str | None) -> None:
            train, score = run.commands(device, self.count, self.split)
            place = "" if device is None else f" on GPU {device}"
            print(f"{run.name}: starts{place}", flush=True)
            if not self._trained(run):
                runs.note_start(run, code)
                players.play(run, train)
            players.play(run, score)
            found = self._summary(run)
            summaries.save(found, self._file(run))
            last = list(found["scores"].values())[-1]
            print(f"{run.name}: finished: {last}: {self._file(run)}", flush=True)

        return players.play_all(todo, devices, one)

    def found(self) -> list[dict[str, Any]]:
        """The summaries of all runs."""
        return [read_json(self._file(run)) for run in self.runs(make=True)]

    def _file(self, run: Run) -> Path:
        return self.summaries / f"{run.name}.json"

    def _summary(self, run: Run) -> dict[str, Any]:
        base = configs.load(self.config)
        return summaries.summary(run, base, count=self.count, split=self.split)

    def _finished(self, run: Run) -> bool:
        """Whether a run has a summary.

        Raises:
          UserError: it has one of other settings.
        """
        file = self._file(run)
        if not file.is_file():
            return False
        there = read_json(file)
        wanted = {
            "config": self.config,
            "settings": summaries.changed(configs.load(self.config), run.config),
            "evaluation": {"count": self.count, "split": self.split},
        }
        for name, value in json.loads(json.dumps(wanted)).items():
            if there.get(name) != value:
                raise UserError(
                    f"{file}: is of other {name}, {there.get(name)} and not {value}: "
                    "give the same options, or another folder with --summaries"
                )
        return True

    def _trained(self, run: Run) -> bool:
        """Whether the training of a run is finished."""
        file = run.folder / "manifest.json"
        if not file.is_file():
            return False
        stages = read_json(file)["stages"]
        last = f"iter_{run.config.iterations}/solver"
        return stages.get(last, {}).get("status") == "done"

    def _materials(self, config: Config, *, make: bool) -> Materials:
        """Weak models in the cache, files of true tasks beside the runs."""

        def weak_model(job: Job) -> Path:
            model = Path(resolve(config).model.path)
            if not make:
                return weaken.place(model, job, cache_dir())
            from ablation.probes import accuracy

            return weaken.weakened(model, job, accuracy(job), cache_dir())

        def tasks(seed: int) -> Path:
            file = self.out / f"true_tasks_{seed}.jsonl"
            if make:
                true_tasks.ensure(file, config.tasks.target * config.iterations, seed)
            return file

        return Materials(weak_model=weak_model, true_tasks=tasks)


def for_board(study: Study) -> Study:
    """The runs that the speed board's rules ask for, in folders of their own.

    Raises:
      UserError: the options ask for more iterations than the rules allow.
    """
    words = ("--iterations", str(board.ITERATIONS), *study.overrides)
    iterations = cli.parse(["--config", study.config, *words], configs)[0].iterations
    if iterations > board.ITERATIONS:
        raise UserError(
            f"--iterations {iterations}: the board allows {board.ITERATIONS}; fewer "
            "will do where they reach the score"
        )
    return replace(
        study,
        arms=("full",),
        overrides=words,
        seeds=range(study.seeds[0], study.seeds[0] + board.SEEDS),
        out=study.out / "board",
        summaries=study.out / "board" / "summaries",
        count=board.COUNT,
        cores=board.CORES,
    )
