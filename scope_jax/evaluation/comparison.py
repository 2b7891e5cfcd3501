"""What is compared: models, rows, a judge; and where its records lie."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import UserError
from scope_jax.evaluation import answering, replay, results
from scope_jax.evaluation.answering import Question
from scope_jax.evaluation.entries import Entry
from scope_jax.evaluation.journal import Journal
from scope_jax.evaluation.judges import JudgeSpec
from scope_jax.report.scores import ENDS
from scope_jax.suite import readers
from scope_jax.suite.rows import Row

_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and how.

    Attributes:
      entries: the models.
      rows: by source.
      judge: who judges all of them.
      second: a judge whose verdicts are there; how far they agree is reported.
      samples: answers to each question.
      temperature: of answers; 0 is greedy.
      baseline: name of the model that gains are over; empty: the first one.
      replayed: (searcher, writer) of the replay probe.
      how: intervals are made.
      out: folder.
      noted: for ``scores.json``: how rows were chosen.
    """

    entries: Sequence[Entry]
    rows: Mapping[str, Sequence[Row]]
    judge: JudgeSpec
    second: str = ""
    samples: int = 1
    temperature: float = 0.0
    baseline: str = ""
    replayed: tuple[Entry, Entry] | None = None
    how: results.Bootstrap
    out: Path
    noted: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in (*self.names, self.judge.name, *self.rows):
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"{name}: as a name: use letters, digits and .+-_, a letter first"
                )
        for name in self.rows:
            for end in ENDS:
                if f"{name}{end}" in self.rows:
                    raise UserError(
                        f"source {name}: another one has its name with {end}, which "
                        "tables use: give one of the two another name"
                    )
        if len(set(self.names)) < len(self.names):  # the pair's, and one of a model
            raise UserError(
                f"--model {self.names[-1]}: the replay probe's pair has this name: "
                "give the model another one: NAME=.."
            )
        if self.baseline and self.baseline not in self.names:
            known = ", ".join(self.names)
            raise UserError(f"--baseline {self.baseline}: is none of {known}")

    @property
    def wanted(self) -> dict[str, list[Question]]:
        """The questions of each source."""
        return {s: answering.questions(r, self.samples) for s, r in self.rows.items()}

    def answers(self, model: str, source: str) -> Journal:
        """A model's answers to the rows of a source."""
        return Journal(self.out / "answers" / model / f"{source}.jsonl")

    def verdicts(self, judge: str, model: str, source: str) -> Journal:
        """A judge's verdicts on them."""
        return Journal(self.out / "verdicts" / judge / model / f"{source}.jsonl")

    def missing(self, model: str) -> dict[str, list[Question]]:
        """By source, the questions that a model has not answered yet."""
        found = {}
        for source, wanted in self.wanted.items():
            known = self.answers(model, source).records
            if left := [question for question in wanted if question.key not in known]:
                found[source] = left
        return found

    @property
    def names(self) -> list[str]:
        """Of all that is scored: the models, and the pair of the replay probe."""
        names = [entry.name for entry in self.entries]
        return names + ([replay.pair_name(*self.replayed)] if self.replayed else [])


def read_rows(
    given: Sequence[str], limit: int = 0, seed: int = 42
) -> dict[str, list[Row]]:
    """The rows that ``NAME=FILE[,FILE..]`` name, by source.

    Args:
      given: of the command line; a name may be given several times.
      limit: most rows of a source, drawn as the reference does: by Python's generator
        with this seed, in the order of the file. 0: all.
      seed: of that draw.

    Raises:
      UserError: no such benchmark or file, or rows of another form.
    """
    paths: dict[str, list[Path]] = {}
    for text in given:
        name, equals, files = text.partition("=")
        if not equals or not files:
            raise UserError(f"--benchmark {text}: write NAME=FILE, or NAME=FILE,FILE")
        paths.setdefault(name, []).extend(map(Path, files.split(",")))
    found: dict[str, list[Row]] = {}
    for name, files in paths.items():
        for row in readers.read(name, files):
            found.setdefault(row.source, []).append(row)
    for source, rows in found.items():
        if len({row.short for row in rows}) > 1:
            raise UserError(
                f"source {source}: has rows of the judge equivalence and of others: "
                "give one of the two another source"
            )
    return {source: capped(rows, limit, seed) for source, rows in found.items()}


def capped(rows: list[Row], limit: int, seed: int) -> list[Row]:
    """At most ``limit`` rows; 0 takes all."""
    if not limit or len(rows) <= limit:
        return rows
    chosen = sorted(random.Random(seed).sample(range(len(rows)), limit))
    return [rows[index] for index in chosen]
