"""Compares models on benchmarks: answers, one judge's verdicts, a table.

Everything is kept in one folder, so that the same command goes on after a kill, and a
further model, benchmark or judge costs only what is new:

    answers/MODEL/SOURCE.jsonl           conversations, and what of them is graded
    verdicts/JUDGE/MODEL/SOURCE.jsonl    every call of the judge, with its prompt
    scores/JUDGE/                        scores.json, table.md, cost.json, and
                                         MODEL/SOURCE.jsonl with a score per answer
"""

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.evaluation import (
    answer_pages,
    answering,
    grading,
    replay,
    results,
    searched,
)
from scope_jax.evaluation.answering import Question
from scope_jax.evaluation.comparison import Comparison
from scope_jax.evaluation.entries import Entry
from scope_jax.evaluation.grading import Graded
from scope_jax.evaluation.journal import agree
from scope_jax.evaluation.judges import judging
from scope_jax.evaluation.players import facts, playing
from scope_jax.evaluation.progress import shown
from scope_jax.method import prompts
from scope_jax.report import answers
from scope_jax.report.scores import score_table
from scope_jax.run.mistakes import check_folder
from scope_jax.run.tracking import console
from scope_jax.selfplay.serving import Serving
from scope_jax.suite.verdicts import Asking
from scope_jax.system.compilation import keep_programs
from scope_jax.system.files import write_json_lines, write_text
from scope_jax.system.hosts import ONE_HOST

log = logging.getLogger("scope_jax")

Records = dict[str, dict[str, dict[str, Any]]]
"""Verdicts by model, source and key."""


def run(config: Config, told: Comparison) -> dict[str, Any]:
    """Answers, judges and scores, as far as it is not done yet; prints the table.

    Args:
      config: resolved (``small_world.assets.resolve``).
      told: what is compared.

    Returns:
      what ``scores.json`` holds.

    Raises:
      UserError: one line for the user.
      Stopped: on a signal, or because a server stays away; the same command goes on.
    """
    with _locked(told.out):
        keep_programs()
        _answer(config, told)
        asking = Asking(
            prompts=prompts.load(config.prompts, config.tool_format),
            thinking=config.judge.thinking,
            retry=config.judge.retry,
            compat=config.compat,
        )
        records = _judge(config, told, asking)
        scored = _scored(told, records, asking)
        found = results.summary(scored, told.baseline or told.names[0], told.how)
        found |= {"judge": told.judge.name, **told.noted}
        if told.second:
            other = _scored(told, _second(told, asking), asking)
            agreed = results.two_judges(scored, other)
            found["agreement"] = {"with": told.second, **agreed}
        _write(told, found, scored, records)
        shown = answer_pages.answers(told, scored, records, asking)
        file = told.out / "scores" / told.judge.name / "report.html"
        log.info(
            "%s: read every answer",
            answers.write(file, answer_pages.about(found), shown),
        )
    return found


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keeps other processes out of the folder."""
    check_folder("--out", out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{out}: another process is evaluating there: wait for it, or name "
                "another folder with --out"
            ) from error
        yield


# Answers ------------------------------------------------------------------------------


def _answer(config: Config, told: Comparison) -> None:
    """Every model's answers, one model after another, then the replay probe's."""
    shared = searched.facts(config)
    for entry in told.entries:
        _agree(config, told, entry.name, {"": entry}, shared)
    pair = replay.pair_name(*told.replayed) if told.replayed else ""
    if told.replayed:
        searcher, writer = told.replayed
        both = {"searcher_": searcher, "writer_": writer}
        _agree(config, told, pair, both, shared)
    left = {name: missing for name in told.names if (missing := told.missing(name))}
    if not left:
        return
    asked = [
        q.row.opening for by in left.values() for each in by.values() for q in each
    ]
    with _searching(
        config, told, any(opening != "raw" for opening in asked)
    ) as serving:
        for entry in told.entries:
            if entry.name in left:
                _play(config, told, entry, left[entry.name], serving)
        if pair in left:
            _replay(config, told, pair, left[pair], serving)


def _agree(
    config: Config,
    told: Comparison,
    name: str,
    players: Mapping[str, Entry],
    shared: Mapping[str, Any],
) -> None:
    """Compares what answers depend on with what earlier ones were made with."""
    known = {
        f"{role}{fact}": value
        for role, entry in players.items()
        for fact, value in facts(entry, config, told.temperature).items()
    }
    later = [*(f"{role}date" for role in players), *searched.LATER]
    file = told.out / "answers" / name / "model.json"
    agree(file, known | shared, "answers", later)


@contextlib.contextmanager
def _searching(config: Config, told: Comparison, searches: bool) -> Iterator[Serving]:
    """The inference process, for search alone."""
    renderer = ChatRenderer.from_tokenizer(
        hf.load_tokenizer(told.entries[0].tokenizer), template=told.entries[0].template
    )
    inference = replace(
        config.inference, judge_url="", rubric_model="", grader_model=""
    )
    config, folder = (
        replace(config, inference=inference),
        told.out / "server" / "search",
    )
    with Serving(
        config, folder, renderer, ONE_HOST, models={}, search=searches
    ) as serving:
        serving.connect()
        yield serving


def _play(
    config: Config,
    told: Comparison,
    entry: Entry,
    missing: Mapping[str, Sequence[Question]],
    serving: Serving,
) -> None:
    with playing(config, entry, serving.search) as world:
        for source, wanted in missing.items():
            with (
                told.answers(entry.name, source) as journal,
                shown(f"{entry.name} answers {source}") as progress,
            ):
                work = answering.answer_all(
                    world, wanted, told.temperature, journal, progress
                )
                serving.run(work)


def _replay(
    config: Config,
    told: Comparison,
    pair: str,
    missing: Mapping[str, Sequence[Question]],
    serving: Serving,
) -> None:
    searcher, writer = told.replayed
    with playing(config, writer, serving.search) as world:
        for source, wanted in missing.items():
            before = told.answers(searcher.name, source).records
            with (
                told.answers(pair, source) as journal,
                shown(f"{pair} answers {source}") as progress,
            ):
                work = replay.replay_all(
                    world, wanted, before, told.temperature, journal, progress
                )
                serving.run(work)


# Verdicts -----------------------------------------------------------------------------


def _graded(told: Comparison, model: str, source: str) -> list[Graded]:
    answers = told.answers(model, source).records
    return grading.graded(told.wanted[source], answers)


def _verdicts(told: Comparison, judge: str) -> Records:
    """What a judge has said so far."""
    return {
        model: {
            source: told.verdicts(judge, model, source).records for source in told.rows
        }
        for model in told.names
    }


def _incomplete(
    told: Comparison, records: Records, asking: Asking
) -> list[tuple[str, str]]:
    """(model, source) of those on which a call is still to be made."""
    return [
        (model, source)
        for model, by in records.items()
        for source, known in by.items()
        if grading.incomplete(_graded(told, model, source), known, asking)
    ]


def _second(told: Comparison, asking: Asking) -> Records:
    """What the second judge has said.

    Raises:
      UserError: not on all of these answers.
    """
    records = _verdicts(told, told.second)
    for model, source, known in (
        (model, source, known)
        for model, by in records.items()
        for source, known in by.items()
    ):
        # What failed for good is a call without a verdict here, too.
        each = _graded(told, model, source)
        if not any(grading.said_of(one, known, asking)[1] for one in each):
            continue
        raise UserError(
            f"--second_judge {told.second}: has not judged all answers of {model} to "
            f"{source} in {told.out}: give it as --judge first"
        )
    return records


def _judge(config: Config, told: Comparison, asking: Asking) -> Records:
    """Every verdict of the judge, asked for where it is not there."""
    spec = told.judge
    folder = told.out / "verdicts" / spec.name
    agree(folder / "judge.json", spec.facts(config), "verdicts", ["date"])
    records = _verdicts(told, spec.name)
    left = _incomplete(told, records, asking)
    if not left:
        return records
    with judging(config, spec, told.out / "server" / spec.name) as judge:
        for model, source in left:
            with (
                told.verdicts(spec.name, model, source) as journal,
                shown(f"{spec.name} judges {model} on {source}") as progress,
            ):
                work = grading.grade_all(
                    judge,
                    _graded(told, model, source),
                    asking,
                    journal,
                    config.seed,
                    progress,
                )
                judge.run(work)
                records[model][source] = journal.records
    return records


# Results ------------------------------------------------------------------------------


def _scored(told: Comparison, records: Records, asking: Asking) -> results.Results:
    found: dict[str, dict[str, results.Scored]] = {}
    for model, by in records.items():
        found[model] = {}
        for source, known in by.items():
            each = _graded(told, model, source)
            scores = grading.scored(each, known, asking)
            found[model][source] = list(zip(each, scores, strict=True))
    return found


def _write(
    told: Comparison, found: dict[str, Any], scored: results.Results, records: Records
) -> None:
    """Writes tables and scores, and prints them.

    What a cache saved is in a file of its own: it depends on what ran together.
    """
    folder = told.out / "scores" / told.judge.name
    for model, by in scored.items():
        for source, each in by.items():
            lines = [results.line(graded, score) for graded, score in each]
            write_json_lines(folder / model / f"{source}.jsonl", lines)
    cost = {
        model: {source: grading.cost(each) for source, each in by.items()}
        for model, by in records.items()
    }
    write_text(folder / "cost.json", json.dumps(cost, indent=2) + "\n")
    write_text(folder / "scores.json", json.dumps(found, indent=2) + "\n")
    scores = {name: results.metrics(one) for name, one in found["models"].items()}
    gains = {name: results.metrics(one) for name, one in found["gains"].items()}
    titles = (f"score, by {told.judge.name}", f"gain over {found['baseline']}")
    parts = [t for t in zip(titles, (scores, gains), strict=True) if t[1]]
    pages = [results.markdown(title, one) for title, one in parts]
    write_text(folder / "table.md", "\n".join(pages))
    for title, one in parts:
        words = f"{title}, with 95% bootstrap intervals over questions"
        console.print(score_table(one, words))
    for line in (*results.remarks(found), results.cost_line(cost)):
        log.info("%s", line)
    log.info("scores, answers and verdicts: %s", told.out)
