"""The recipe "preference": a Solver trained on the best and worst answers of a run.

Offline: nothing is sampled, and no inference process is started. The pairs come from
the rollouts that a run has stored; the run folder is like that of a run of one Solver
stage, so that reports, evaluation and export read it as any other.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models import hf, sharding
from models.chat import ChatRenderer
from models.errors import UserError
from rl.learner import data_order, preferences
from rl.learner.update import NonFiniteUpdateError
from rl.records import Datum
from scope_jax.config import Config
from scope_jax.method import preference, prompts
from scope_jax.method.solver import NO_RUBRICS, UNREADABLE
from scope_jax.report import page, stored
from scope_jax.run.folder import RunFolder
from scope_jax.run.sizes import check_base, check_sizes
from scope_jax.run.tracking import Tracker
from scope_jax.selfplay.metering import memory
from scope_jax.selfplay.own_parts import pinned
from scope_jax.selfplay.parts import base_model, renderer_of
from scope_jax.selfplay.pipeline import open_folder
from scope_jax.selfplay.trainer import Trainer
from scope_jax.small_world.assets import resolve
from scope_jax.system import stopping
from scope_jax.system.compilation import keep_programs
from scope_jax.system.files import read_json_lines, write_json_lines
from scope_jax.system.hosts import ONE_HOST
from scope_jax.system.stopping import Stopped

log = logging.getLogger("scope_jax")

ITERATION, ROLE = 1, "solver"
STAGE = f"iter_{ITERATION}/{ROLE}"
SCORE = "reward/rubric_score"
PAIRS = "pairs.jsonl"
"""File of a run folder: of each pair what it is, and the reference's log-probs."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one task.

    Attributes:
      task: its uid.
      uids, scores: of the better rollout and of the worse one.
      members: the data of both.
    """

    task: str
    uids: tuple[str, str]
    scores: tuple[float, float]
    members: tuple[preferences.Member, preferences.Member]

    def json(self) -> dict[str, Any]:
        """What the file says of it, before the reference is asked."""
        return {
            "task": self.task,
            "uids": list(self.uids),
            "scores": list(self.scores),
            "tokens": [sum(len(d.ids) for d in own) for own in self.members],
        }


def run(config: Config, path: Path, *, fresh: bool = False) -> None:
    """Trains on a run's pairs in a folder, or resumes what is there.

    Args:
      config: the configuration, its recipe "preference".
      path: run folder; made if it is not there.
      fresh: delete what an earlier run left there.

    Raises:
      UserError: one line for the user.
    """
    check_sizes(config)
    if config.placement.hosts.count > 1:
        raise UserError(
            f"placement.hosts.count={config.placement.hosts.count}: the recipe "
            "preference trains in one process: leave it at 1"
        )
    config = pinned(config)
    with open_folder(path, config, ONE_HOST, fresh=fresh) as folder:
        if folder.done(STAGE):
            log.info("%s is finished: see report.html; --fresh starts over", path)
            return
        check_base(config)
        with Tracker(path, config.tracking, began=folder.began, copied=True) as tracker:
            _run(config, folder, tracker)
        page.write(path)
        log.info("finished: everything is in %s, report.html first", path)


def _run(config: Config, folder: RunFolder, tracker: Tracker) -> None:
    """From the pairs of the other run to the exported Solver."""
    config = resolve(replace(config, model=replace(config.model, date=folder.date)))
    tokenizer = hf.load_tokenizer(config.model.path)
    renderer = renderer_of(config, tokenizer)
    tools = prompts.load(config.prompts, config.tool_format).tools()
    pairs = pairs_of(config, renderer, tools)
    keep_programs()
    with (
        stopping.nothing_to_save(alone=True),
        tracker.waiting("starting: loading weights, compiling programs"),
    ):
        base, weights = base_model(config, tokenizer, renderer, ONE_HOST)
        trainer = Trainer(_of_pairs(config), folder, base, weights, plays=False)
        del weights
    train(config, folder, tracker, trainer, pairs)


def _of_pairs(config: Config) -> Config:
    """The configuration whose Solver's update is that of ``preferences.update``."""
    stage = config.solver_train
    update = replace(stage.update, mini_batch_rows=0)
    stage = replace(stage, loss=preferences.SUM, update=update)
    compat = replace(config.compat, micro_batch_mean=False)
    return replace(config, solver_train=stage, compat=compat)


def train(
    config: Config,
    folder: RunFolder,
    tracker: Tracker,
    trainer: Trainer,
    pairs: Sequence[Pair],
) -> None:
    """Trains from where it stopped, and exports the Solver.

    Raises:
      Stopped: after a checkpoint of all steps that are done.
    """
    settings, updater = config.preference, trainer.updater(ROLE)
    batch = min(settings.pairs_per_step, len(pairs))
    steps = settings.epochs * (len(pairs) // batch)

    def chosen(step: int) -> list[int]:
        order = data_order.order(
            len(pairs), seed=config.seed, step=step - 1, batch=batch
        )
        return [int(index) for index in order]

    reference = _reference(folder, trainer, pairs, map(chosen, range(1, steps + 1)))
    state, done = trainer.begin(ITERATION, ROLE)
    saved = done
    tracker.rewind(ITERATION, ROLE, done)
    folder.record(STAGE, status="running")
    with tracker.stage(ITERATION, ROLE, total=steps, done=done) as bar:
        for step in range(done + 1, steps + 1):
            try:
                stopping.check()
            except Stopped:
                if step - 1 > saved:
                    trainer.save(ITERATION, ROLE, step - 1, state)
                raise
            began, own = time.monotonic(), chosen(step)
            members = [pairs[index].members for index in own]
            given = (trainer.reference, members, reference[own], settings.loss)
            try:
                state, metrics = preferences.update(updater, state, *given)
            except NonFiniteUpdateError as error:
                raise UserError(
                    f"step {step}: training stopped ({error}). The same command "
                    "repeats this, which helps only if the hardware was at fault; "
                    "otherwise start another run (--run) with a lower solver_train."
                    "optimizer.learning_rate"
                ) from error
            metrics |= {"time/update": time.monotonic() - began} | memory()
            tracker.log(metrics, iteration=ITERATION, stage=ROLE, step=step)
            bar.advance(metrics)
            if step == steps or config.checkpoint.is_due(step):
                trainer.save(ITERATION, ROLE, step, state)
                saved = step
    trainer.finish(ITERATION, ROLE, state)
    folder.record(STAGE, status="done", step=steps)


def _reference(
    folder: RunFolder,
    trainer: Trainer,
    pairs: Sequence[Pair],
    batches: Iterator[Sequence[int]],
) -> preferences.Pairs:
    """The base model's log-prob of each sequence; computed once, then read again.

    In the batches of the first epoch: so the policy's are the same bits before its
    first update, and log-ratios begin at 0.
    """
    file, known = folder.path / PAIRS, [pair.json() for pair in pairs]
    if file.is_file():
        records = read_json_lines(file, "remove the file: it is written again")
        found = [record.pop("reference") for record in records]
        if records != known:
            raise UserError(
                f"{file}: has other pairs than the rollouts now give: restore these, "
                "or begin another run"
            )
        return np.array(found, np.float64)
    updater = trainer.updater(ROLE)
    params = sharding.place(
        trainer.first_weights(ROLE), updater.states.shardings.params
    )
    out = np.full((len(pairs), 2), math.nan)
    left = set(range(len(pairs)))
    for own in batches:
        stopping.check()  # of a large model this takes a while, and saves nothing
        if new := [index for index in own if index in left]:
            members = [pairs[index].members for index in new]
            out[new] = preferences.log_probs(
                updater, params, members, trainer.reference
            )
            left -= set(new)
    rows = zip(known, out.tolist(), strict=True)
    write_json_lines(file, ({**pair, "reference": own} for pair, own in rows))
    return out


def pairs_of(config: Config, renderer: ChatRenderer, tools: Any) -> list[Pair]:
    """The pairs of the run that the configuration names, in the order of its tasks.

    Raises:
      UserError: there are no rollouts, or none make a pair.
      DamagedError: a file of rollouts is not what was written.
    """
    settings, counts = config.preference, Counter[str]()
    files = [one for one in stored.sources(Path(settings.run)) if one.stage == ROLE]
    if not files:
        raise UserError(
            f"preference.run={settings.run}: has no rollouts of a Solver: name the "
            "folder of a run"
        )
    pairs: list[Pair] = []
    for file in files:
        tasks: dict[str, list[Mapping[str, Any]]] = {}
        for record in read_json_lines(file.path):
            if _is_answer(record):
                tasks.setdefault(record["trace"]["task_uid"], []).append(record)
        for task, own in tasks.items():
            found = _pair(config, renderer, tools, task, own)
            if isinstance(found, Pair):
                pairs.append(found)
            counts[found if isinstance(found, str) else "pairs"] += 1
    told = ", ".join(f"{count} {why}" for why, count in sorted(counts.items()))
    log.info("tasks of %s: %s", settings.run, told or "none has an answer")
    if not pairs:
        raise UserError(
            f"preference.run={settings.run}: gives no pair of answers "
            f"({told or 'none was scored'}): lower preference.min_spread, or raise "
            "preference.max_word_gap"
        )
    return pairs


def _pair(
    config: Config,
    renderer: ChatRenderer,
    tools: Any,
    task: str,
    records: Sequence[Mapping[str, Any]],
) -> Pair | str:
    """The pair of a task's answers; or why there is none."""
    settings = config.preference
    scores = [record["metrics"][SCORE] for record in records]
    best, worst, kept = preference.best_and_worst(
        [record["trace"]["answer"] for record in records],
        scores,
        min_spread=settings.min_spread,
        max_word_gap=settings.max_word_gap,
    )
    if kept != "kept":
        return kept
    both = records[best], records[worst]
    better, worse = (datums_of(renderer, tools, record) for record in both)
    if not better or not worse:
        return "not trained on"
    if max(len(d.ids) for d in better + worse) - 1 > config.solver_train.update.length:
        return "too long"
    return Pair(
        task=task,
        uids=(both[0]["uid"], both[1]["uid"]),
        scores=(scores[best], scores[worst]),
        members=(better, worse),
    )


def _is_answer(record: Mapping[str, Any]) -> bool:
    """Whether a stored rollout is a valid answer to its task as it was set.

    One whose grades could not be read has a score of 0 that says nothing of it. Of one
    whose search was sampled anew (AXPO), what follows that search is not trained on.
    """
    trace = record["trace"]
    return (
        bool(trace.get("answer"))
        and SCORE in record["metrics"]
        and "posed" not in record
        and "axpo" not in trace
        and trace.get("branch") not in (UNREADABLE, NO_RUBRICS)
    )


def datums_of(
    renderer: ChatRenderer, tools: Any, record: Mapping[str, Any]
) -> tuple[Datum, ...]:
    """What is trained on of a stored rollout: its turns, as the template writes them.

    One datum where each turn continues the text before it, else one for each. Its text
    is encoded anew: where a model has cut words in an unusual way, the ids differ from
    those that it sampled.
    """
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for turn in record["trained"]:
        if not turn["trained"]:
            continue
        end = turn["message"] + 1
        before, messages = record["messages"][: end - 1], record["messages"][:end]
        prompt = tuple(renderer.prompt_ids(before, tools))
        written = renderer.turn_ids(messages, tools)
        if written is None:  # a template that drops thinking: the turn as it was said
            text = messages[-1]["content"].removeprefix(renderer.opening_of(prompt))
            written = [*renderer.encode_text(text), *renderer.turn_end_ids()]
        mask = (0,) * len(prompt) + (1,) * len(written)
        if found and prompt[: len(found[-1][0])] == found[-1][0]:
            _, earlier = found.pop()
            mask = earlier + mask[len(earlier) :]
        found.append(((*prompt, *written), mask))
    return tuple(
        Datum(
            uid=record["uid"],
            turn=number,
            ids=ids,
            loss_mask=mask,
            sampled_mask=(0,) * len(ids),
            logprobs=(math.nan,) * len(ids),
        )
        for number, (ids, mask) in enumerate(found)
    )
