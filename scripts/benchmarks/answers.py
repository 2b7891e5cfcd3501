"""Short-form questions answered by the small model, in all slots and in one.

Whole conversations, with searches by the inference process, as `eval.py --benchmark`
plays and keeps them. The peer is the same program with an engine of one slot.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import configs
from benchmarks import harness
from models import hf
from models.chat import ChatRenderer
from scope_jax.config import Config
from scope_jax.evaluation.answering import Question, answer_all, questions
from scope_jax.evaluation.entries import one
from scope_jax.evaluation.journal import Journal
from scope_jax.evaluation.players import playing
from scope_jax.selfplay.serving import Serving
from scope_jax.selfplay.world import World
from scope_jax.small_world.assets import resolve
from scope_jax.small_world.tasks import heldout_tasks
from scope_jax.suite.rows import Row
from scope_jax.system.hosts import ONE_HOST

SEED = 3
"""Of the questions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rows", type=int, default=200, help="questions")
    parser.add_argument("--slots", type=int, default=32, help="of the engine")


@dataclass
class Player:
    """One engine that answers all questions in a turn."""

    name: str
    world: World
    asked: Sequence[Question]
    serving: Serving
    answers: int = 0

    def turn(self) -> dict[str, float]:
        """Answers everything anew."""
        with tempfile.TemporaryDirectory() as folder:
            with Journal(Path(folder) / "answers.jsonl") as journal:
                start = time.perf_counter()
                work = answer_all(
                    self.world, self.asked, 0.0, journal, lambda done, of: None
                )
                self.serving.run(work)
                seconds = time.perf_counter() - start
            self.answers = sum(bool(r["answer"]) for r in journal.records.values())
        return {"seconds": seconds}


def run(args: argparse.Namespace) -> harness.Result:
    """Answers per second; both engines take turns."""
    config = resolve(configs.load("tiny"))
    asked = questions(
        [
            Row(
                source="small_world",
                judge="equivalence",
                prompt=task.text,
                golds=tuple(fact.sentence() for fact in task.facts),
            )
            for task in heldout_tasks(args.rows, SEED)
        ],
        1,
    )
    entry = one("demo", config, "--model")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        renderer = ChatRenderer.from_tokenizer(hf.load_tokenizer(entry.tokenizer))
        serving = stack.enter_context(
            Serving(config, folder, renderer, ONE_HOST, models={})
        )
        serving.connect()

        def player(name: str, slots: int) -> Player:
            world = stack.enter_context(
                playing(_with_slots(config, slots), entry, serving.search)
            )
            return Player(name, world, asked, serving)

        ours, single = player("ours", args.slots), player("one_slot", 1)
        seconds = harness.take_turns(
            lambda: ours.turn()["seconds"], [single], args.repeats
        )
    return harness.Result(
        what=f"{args.rows} short-form questions, the small model, {args.slots} slots",
        unit="answers",
        amount=args.rows,
        seconds=seconds,
        notes={"answered": {"ours": ours.answers, "one_slot": single.answers}},
    )


def _with_slots(config: Config, slots: int) -> Config:
    rows = min(config.engine.prefill_rows, slots)
    engine = replace(config.engine, slots=slots, prefill_rows=rows)
    return replace(config, engine=engine)
