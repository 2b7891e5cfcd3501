"""What a small-world model must be able to do before it ships.

Each job is done as a run does it, on documents that the transcripts of the warm start
never showed, and compared with what is true. Nothing here reads the test part of the
world. ``REQUIRED`` says what is enough: competent in every job, and a Solver that is
careless, so that there is something to learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

import configs
from pretraining.judging import LONG
from pretraining.player import Player
from pretraining.transcripts import JOBS, MAX_SEARCHES, Script
from pretraining.wording import document_text
from rl.records import SamplingParams
from scope_jax.method import challenger_output, judge, prompts, solver_output
from scope_jax.method.conversation import ConversationSpec, State
from scope_jax.method.formats import assistant_texts
from scope_jax.method.types import TOOL_FORMATS, ToolFormat
from scope_jax.small_world.tasks import heldout_tasks, rubric_text, stated_facts
from scope_jax.small_world.truth import (
    GradeKind,
    answer_truth,
    grade_kind,
    task_metrics,
    task_truth,
)

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=128)


@dataclass(frozen=True)
class Bar:
    """What a measured number must reach, and not exceed."""

    least: float
    most: float = 1.0


REQUIRED: dict[str, Bar] = {
    **{f"challenger/{form}/format": Bar(0.97) for form in TOOL_FORMATS},
    **{f"solver/{form}/format": Bar(0.97) for form in TOOL_FORMATS},
    "challenger/rubrics_true": Bar(0.85),
    "challenger/answerable": Bar(0.8),
    "gate_entity/balanced": Bar(0.9),
    "gate_source/balanced": Bar(0.9),
    **{f"grader/{kind}": Bar(0.9) for kind in get_args(GradeKind)},
    # So rare that chance moves them: one grade in 200, and one in 2,400.
    **{f"grader/{kind}": Bar(0.85) for kind in ("value_elsewhere", "two_values")},
    "grader/long": Bar(0.75, 0.9),
    "solver/true score": Bar(0.40, 0.50),
}

OF_TASKS = (
    "answerable",
    "impossible",
    "repeated",
    "vague",
    "off_document",
    "blanks",
    "hops",
    "rubrics_true",
    "rubrics_generic",
)
"""What is measured of a Challenger's tasks and of the rubrics for them."""


def examine(player: Player, *, count: int = 150) -> dict[str, float]:
    """Every number of ``REQUIRED``, and a few more for people.

    Args:
      player: of the model.
      count: conversations per job and tool format.
    """
    found: dict[str, float] = {}
    for form in TOOL_FORMATS:
        found |= _challenger(player, form, count)
        found |= _solver(player, form, count)
    solver = ("true score", "greedy true score")
    for job, names in (("solver", solver), ("challenger", OF_TASKS)):
        for name in names:
            values = [found[f"{job}/{form}/{name}"] for form in TOOL_FORMATS]
            found[f"{job}/{name}"] = float(np.mean(values))
    for job in ("gate_entity", "gate_source"):
        found |= _gate(player, job, 2 * count)
    return found | _grader(player, 48 * count)


def failures(found: dict[str, float]) -> list[str]:
    """One line per requirement that is not met."""
    return [
        f"{name} is {found.get(name, float('nan')):.3f}, not between "
        f"{bar.least:g} and {bar.most:g}"
        for name, bar in REQUIRED.items()
        if not bar.least <= found.get(name, float("nan")) <= bar.most
    ]


def describe(found: dict[str, float]) -> str:
    """One line per number."""
    return "\n".join(f"  {name:44} {value:.3f}" for name, value in found.items())


def _challenger(player: Player, form: ToolFormat, count: int) -> dict[str, float]:
    """Tasks as task creation samples them, and rubrics for them."""
    config = configs.load("tiny")
    texts = prompts.load("small_world", form)
    script = Script(player.world, np.random.default_rng([0, 11]), splits=("train",))
    chains = [script.chain() for _ in range(count)]
    sources = [document_text(*script.document(c.source.name)) for c in chains]
    style = "chain2_xml" if form == "function_calls_xml" else "chain2"
    specs = [
        (
            ConversationSpec(
                kind="challenger",
                tool_format=form,
                prompts=texts,
                num_searches=len(chain.searched),
                style=style,
            ),
            texts.challenger(source, chain.task.type, len(chain.searched)),
        )
        for chain, source in zip(chains, sources, strict=True)
    ]
    states = player.play(specs, config.tasks.sampling)
    parses = [
        challenger_output.parse_task("\n".join(assistant_texts(s.played)), form)
        for s in states
    ]
    scores = [
        challenger_output.format_score(s.played, len(c.searched), form).value
        for s, c in zip(states, chains, strict=True)
    ]
    good = [i for i, parse in enumerate(parses) if parse.valid]
    asked = [
        texts.rubric(
            parses[i].task,
            chains[i].task.type,
            judge.documents_text(sources[i], states[i].passages),
        )
        for i in good
    ]
    written = player.complete(asked, GREEDY, job="rubric")
    truths = [
        task_truth(
            player.world,
            parses[i].task,
            chains[i].source.name,
            [rubric.text for rubric in judge.parse_rubrics(text).rubrics],
        )
        for i, text in zip(good, written, strict=True)
    ]
    metrics = task_metrics(truths)
    return {f"challenger/{form}/format": float(np.mean(scores))} | {
        f"challenger/{form}/{name}": metrics[f"truth/{name}"] for name in OF_TASKS
    }


def _solver(player: Player, form: ToolFormat, count: int) -> dict[str, float]:
    """True scores on the world's dev part, sampled at T = 1 and greedily."""
    tasks = heldout_tasks(count, 0, "dev")
    found = {}
    for name, temperature in (("true score", 1.0), ("greedy true score", 0.0)):
        states = _solve(player, form, [task.text for task in tasks], temperature)
        answers = [solver_output.parse_answer(state.played) for state in states]
        found[f"solver/{form}/{name}"] = float(
            np.mean(
                [
                    answer_truth(player.world, task.text, parse.answer).score
                    for task, parse in zip(tasks, answers, strict=True)
                ]
            )
        )
        if temperature:
            scores = [solver_output.format_score(s.played, form).value for s in states]
            found[f"solver/{form}/format"] = float(np.mean(scores))
            found[f"solver/{form}/searches"] = float(
                np.mean([state.searches for state in states])
            )
    return found


def _solve(
    player: Player, form: ToolFormat, tasks: Sequence[str], temperature: float
) -> list[State]:
    texts = prompts.load("small_world", form)
    spec = ConversationSpec(kind="solver", tool_format=form, prompts=texts)
    return player.play(
        [(spec, texts.solver(task, MAX_SEARCHES)) for task in tasks],
        SamplingParams(temperature=temperature, max_new_tokens=96),
    )


def _gate(player: Player, job: str, count: int) -> dict[str, float]:
    """Balanced accuracy on scripted cases."""
    script = Script(player.world, np.random.default_rng([0, 13]), splits=("train",))
    played = [JOBS[job](script, "search_r1") for _ in range(count)]
    asked = [transcript.messages[:-1] for transcript in played]
    wanted = [judge.parse_gate(t.messages[-1]["content"]) for t in played]
    verdicts = [judge.parse_gate(t) for t in player.complete(asked, GREEDY, job=job)]
    right = np.equal(verdicts, wanted)
    sides = [float(right[np.equal(wanted, side)].mean()) for side in (0, 1)]
    return {
        f"{job}/balanced": sum(sides) / 2,
        f"{job}/fails": sides[0],
        f"{job}/passes": sides[1],
    }


def _grader(player: Player, count: int) -> dict[str, float]:
    """Grades right, by kind of error, of the Solver's own answers at T = 1.

    Long answers are kept apart and filled up with scripted ones: there the grader errs.
    """
    rng = np.random.default_rng([0, 17])
    script = Script(player.world, rng, splits=("train",))
    form: ToolFormat = "search_r1"
    texts = prompts.load("small_world", form)
    tasks = [script.chain().task for _ in range(count)]
    states = _solve(player, form, [task.text for task in tasks], 1.0)
    cases = []
    for task, state in zip(tasks, states, strict=True):
        parse = solver_output.parse_answer(state.played)
        if parse.valid:
            cases += [(task.text, parse.answer, fact) for fact in task.facts]
    for _ in range(count // 12):
        chain = script.chain()
        target = script.pick(chain.wanted)
        stated = script.response(target, chain, long=True)
        answer = " ".join(fact.sentence() for fact in stated)
        cases.append((chain.task.text, answer, target))
    asked = [
        texts.grade(task, answer, f"1. {rubric_text(fact)}")
        for task, answer, fact in cases
    ]
    grades = [judge.parse_grade(t) for t in player.complete(asked, GREEDY, job="grade")]
    by_kind: dict[str, list[bool]] = {}
    for (_, answer, fact), grade in zip(cases, grades, strict=True):
        kind = grade_kind(stated_facts(answer), fact)
        right = grade is not None and (grade > 0.5) == (kind == "met")
        long = answer.count(".") >= LONG
        by_kind.setdefault("long" if long else kind, []).append(right)
    found = {f"grader/{k}": float(np.mean(v)) for k, v in sorted(by_kind.items())}
    sizes = {f"grader/{k} (cases)": float(len(v)) for k, v in sorted(by_kind.items())}
    return found | sizes
