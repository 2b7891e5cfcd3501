"""Scores models: a run's Solvers in the small world, or any models on benchmarks.

    python scripts/eval.py --config tiny
    python scripts/eval.py --config tiny --file prompts.jsonl
    python scripts/eval.py --config qwen25_7b --model runs/qwen25_7b \
        --benchmark healthbench=oss_eval.jsonl short_form=test.parquet \
        --judge https://api.openai.com/v1#gpt-5-mini

Without ``--benchmark``: the base model and every finished iteration of a run. They
answer held-out tasks of the small world, scored by their known facts, each twice:
sampled at temperature 1 and greedily. ``--split dev`` is for choosing settings,
``test`` (the default) for reporting. With ``--file``: prompts with rubrics, one
``{"prompt": .., "rubrics": [..]}`` per line, which the judge grades; with
``"questions"`` instead of ``"rubrics"``, one call rates how far an answer covers each
of them. Give the same options as for the run; results are written to ``eval/`` in the
run folder.

With ``--benchmark``: the paper's fifteen benchmarks, any models, one judge for all.
The configuration gives search, sizes and prompts. The same command goes on where it was
stopped. See docs/evaluation.md. An option that would not be read is refused.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
import configs
from models.errors import UserError
from models.ranges import TEMPERATURE, Count, CountOrZero, check_fields
from scope_jax.config import Config
from scope_jax.evaluation import checkpoints, compare, entries, judges, results
from scope_jax.evaluation.comparison import Comparison, read_rows
from scope_jax.evaluation.entries import Entry
from scope_jax.inference.chat import ChatConfig
from scope_jax.run import cli, tracking
from scope_jax.small_world.assets import resolve
from scope_jax.system import settings, stopping

READ_BY = {
    "run": ("tasks", "file"),
    "file": ("file",),
    "count": ("tasks",),
    "split": ("tasks",),
}
"""Which evaluations read an option: of the small world's tasks, of prompts in a file;
all other options are read by benchmarks alone."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of this evaluation only."""

    run: Path | None = None
    """Folder of a run that is there. None: `runs/NAME`, where NAME is the
    configuration's name; without a run there, the base model alone is scored."""
    file: Path | None = None
    """Prompts with rubrics, one JSON object per line. None: the small world's tasks."""
    count: Count = 450
    """Number of held-out tasks of the small world."""
    split: Literal["dev", "test"] = "test"
    """Part of the small world that they are about."""
    benchmark: tuple[str, ...] = ()
    """Benchmarks as NAME=FILE, or NAME=FILE,FILE; what follows is about these."""
    model: tuple[str, ...] = ()
    """Models to compare: RUN, RUN:ITERATION, RUN:ITERATION/ROLE, RUN:base, a Hugging
    Face folder or hub name, or a server's URL#MODEL; each may be NAME=... . None: the
    configuration's base model."""
    judge: str = ""
    """One judge for all models: a model as above, or URL#MODEL of a chat server. Empty:
    the configuration's base model."""
    second_judge: str = ""
    """Name of a judge that has judged the same answers before: how far the two agree is
    reported."""
    baseline: str = ""
    """Name of the model over which gains are measured. Empty: the first one."""
    search_from: str = ""
    """Replay probe: the model whose searches are taken over."""
    answer_from: str = ""
    """Replay probe: the model that writes the answers from them."""
    tokenizer: str = ""
    """Folder or hub name of the tokenizer of a server's model."""
    format: str = ""
    """How a server's model, or a folder's, writes searches. Empty: for folders the
    configuration's."""
    limit: CountOrZero = 0
    """Most rows of a benchmark, drawn with `limit_seed`; 0 takes all."""
    limit_seed: CountOrZero = 42
    """Seed of that draw."""
    samples: Count = 1
    """Answers to each question."""
    temperature: Annotated[float, TEMPERATURE] = 0.0
    """Temperature of answers; 0 is greedy."""
    chat: ChatConfig = ChatConfig()
    """How a chat server is asked that judges; a judge of our own server has the
    configuration's `judge.grade_temperature.solver` and `judge.grade_tokens`."""
    resamples: Count = 10_000
    """Resamples of the bootstrap intervals."""
    out: Path = Path("runs/benchmarks")
    """Folder of answers, verdicts and scores."""

    def __post_init__(self):
        check_fields(self)
        if bool(self.search_from) != bool(self.answer_from):
            raise UserError(
                "--search_from and --answer_from: belong together: give both"
            )
        if self.temperature == 0 and self.samples > 1:
            raise UserError(
                f"--samples {self.samples}: are all the same at --temperature 0: "
                "raise the temperature"
            )
        self._check_read()

    def _check_read(self) -> None:
        """Refuses what would be ignored: the answer would be to another question."""
        made = "benchmarks" if self.benchmark else "file" if self.file else "tasks"
        for name, value in _changed(self, EvalOptions):
            readers = READ_BY.get(name.partition(".")[0], ("benchmarks",))
            if made in readers:
                continue
            if made != "benchmarks" and "benchmarks" in readers:
                why = "on what? give --benchmark NAME=FILE, or leave it out"
            elif name == "run":
                why = f"benchmarks compare models: write --model {value}"
            else:
                given = "--benchmark" if self.benchmark else "--file"
                why = f"is not read with {given}: leave out one of the two"
            raise UserError(f"{name}={value}: {why}")


def _changed(given: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each option that is not as usual."""
    for field in fields(kind):
        value = getattr(given, field.name)
        if is_dataclass(value):
            inside = _changed(value, type(value))
            yield from ((f"{field.name}.{name}", each) for name, each in inside)
        elif value != field.default:
            yield field.name, value


class Configurations:
    """Configurations by name, and those of runs by their folders."""

    def load(self, name: str) -> Config:
        if entries.is_run(Path(name)):
            return settings.load(Config, Path(name) / "config.json")
        return configs.load(name)

    def describe(self, name: str) -> str:
        return "a run" if entries.is_run(Path(name)) else configs.describe(name)


def parse(argv: Sequence[str]) -> tuple[Config, EvalOptions]:
    """The configuration and the options of a command line.

    Without ``--config``, the first run among the models gives it.
    """
    given = [word.partition("=")[2] or word for word in argv]
    runs = [word for word in given if entries.is_run(Path(entries.folder_of(word)))]
    if runs and "--model" in argv and "--config" not in argv:
        argv = ["--config", entries.folder_of(runs[0]), *argv]
    return cli.parse(argv, Configurations(), options=EvalOptions, prog="eval.py")


def compared(config: Config, options: EvalOptions) -> Comparison:
    """What is to be compared, checked before anything is loaded."""

    def named(given: Sequence[str]) -> list[Entry]:
        return entries.entries(
            given, config, tokenizer=options.tokenizer, tool_format=options.format
        )

    models = named(options.model or [config.model.path])
    replayed = None
    if options.search_from:
        pair = [*named([options.search_from]), *named([options.answer_from])]
        if len(pair) != 2:
            raise UserError(
                f"--search_from {options.search_from}: with --answer_from it must name "
                "two models"
            )
        replayed = (pair[0], pair[1])
        known = [entry.name for entry in models]
        models += [entry for entry in pair if entry.name not in known]
    noted = ("limit", "limit_seed", "samples", "temperature", "resamples")
    return Comparison(
        entries=models,
        rows=read_rows(options.benchmark, options.limit, options.limit_seed),
        judge=judges.named(options.judge, config, options.chat),
        second=options.second_judge,
        samples=options.samples,
        temperature=options.temperature,
        baseline=options.baseline,
        replayed=replayed,
        how=results.Bootstrap(resamples=options.resamples, seed=0),
        out=options.out,
        noted={name: getattr(options, name) for name in noted},
    )


def main(argv: Sequence[str]) -> int:
    config, options = parse(argv)
    if options.run is not None and not (options.run / "config.json").is_file():
        raise UserError(
            f"--run {options.run}: no run is there: name its folder, or leave --run "
            "out to score the base model alone"
        )
    os.environ.update(config.placement.trainer.environment())
    tracking.setup_logging()
    stopping.catch_signals(what="ends")
    if options.benchmark:
        config = resolve(config)
        compare.run(config, compared(config, options))
        return 0
    folder = options.run or Path("runs") / config.name
    checkpoints.evaluate(
        config, folder, file=options.file, count=options.count, split=options.split
    )
    return 0


if __name__ == "__main__":
    cli.run_main(main)
