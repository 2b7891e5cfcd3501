"""Measures what the small world's model can do, job by job, as it is used.

The Challenger and the Solver play whole conversations under the method's own rules,
sampled as in training; the judge's jobs are sampled greedily and compared with what the
script of ``transcripts`` would have written.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.chat import ChatRenderer
from models.config import DecoderConfig
from pretraining.transcripts import MAX_SEARCHES, Script
from pretraining.wording import document_text, passages_text
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.engine.sampling import seed64
from rl.records import Request, SamplingParams
from scope_jax.method import (
    challenger_output,
    conversation,
    judge,
    prompts,
    solver_output,
)
from scope_jax.method.conversation import ConversationSpec, Generate, Search, State
from scope_jax.method.formats import assistant_texts
from scope_jax.method.types import TOOL_FORMATS, ToolFormat
from scope_jax.small_world.world import (
    RELATIONS,
    World,
    heldout_tasks,
    wanted_facts_stated,
)

MAX_LENGTH = 640
TURN = SamplingParams(max_new_tokens=96)
_JUDGE_JOBS = ("rubric", "gate_entity", "gate_source", "grader")


class Player:
    """Plays conversations and judge calls with one model."""

    def __init__(
        self, config: DecoderConfig, params: Any, world: World, tokenizer: Any
    ):
        sizes = EngineConfig(
            slots=16, max_length=MAX_LENGTH, decode_steps=8, prefill_chunk=64
        )
        self.engine = Engine(params, config, tokenizer, sizes)
        self.renderer = ChatRenderer.from_tokenizer(tokenizer)
        self.world = world
        self._script = Script(world, np.random.default_rng(0))

    def complete(
        self,
        conversations: Sequence[Sequence[dict]],
        sampling: SamplingParams,
        *,
        stop: tuple[str, ...] = (),
        turn: int = 0,
        job: str = "",
    ) -> list[str]:
        """One completion per conversation."""
        requests = [
            Request(
                ids=tuple(self.renderer.prompt_ids(messages)),
                sampling=sampling,
                stop=stop,
                stop_ids=self.renderer.stop_ids,
                seed64=seed64("probe", turn, job, index),
            )
            for index, messages in enumerate(conversations)
        ]
        return [completion.text for completion in self.engine.generate(requests)]

    def play(
        self,
        specs: Sequence[tuple[ConversationSpec, Sequence[dict]]],
        sampling: SamplingParams,
    ) -> list[State]:
        """Plays conversations to their end, turn by turn together."""
        opened = [conversation.start(spec, messages) for spec, messages in specs]
        states = [state for state, _ in opened]
        actions = [found for _, found in opened]
        for turn in itertools.count(1):
            waiting = [i for i, do in enumerate(actions) if isinstance(do, Generate)]
            if not waiting:
                break
            texts = self.complete(
                [states[i].messages for i in waiting],
                sampling,
                stop=actions[waiting[0]].stop,
                turn=turn,
                job=states[waiting[0]].spec.kind,
            )
            for i, text in zip(waiting, texts, strict=True):
                state, found = conversation.step(states[i], text)
                while isinstance(found, Search):
                    results = [self._search(query) for query in found.queries]
                    state, found = conversation.observe(state, results)
                states[i], actions[i] = state, found
        return states

    def _search(self, query: str) -> str:
        if query not in self.world.by_name:
            query = self._script.pick(self.world.entities).name
        return passages_text(self._script.retrieve(query))


def measure(player: Player, *, count: int) -> dict[str, dict[str, float]]:
    """Per job, and per tool format where it matters, a few rates.

    Args:
      player: of the model.
      count: conversations per job and format; the judge's jobs get four times as many.
    """
    found = {}
    for form in TOOL_FORMATS:
        found[f"challenger/{form}"] = _challenger(player, form, count)
        for name, top_p in (("1", 1.0), ("0.7", 0.9)):
            sampling = replace(TURN, temperature=float(name), top_p=top_p)
            scores = _solver(player, form, sampling, count)
            found[f"solver/{form}/T={name}"] = scores
    for job in _JUDGE_JOBS:
        found[job] = _judge(player, job, 4 * count)
    return found


def describe(found: dict[str, dict[str, float]]) -> str:
    """One line per job."""
    return "\n".join(
        f"  {job}: " + ", ".join(f"{name} {value:.3f}" for name, value in rates.items())
        for job, rates in found.items()
    )


def _challenger(player: Player, tool_format: ToolFormat, count: int):
    script = Script(player.world, np.random.default_rng([0, 11]))
    texts = prompts.load("small_world", tool_format)
    specs = []
    for _ in range(count):
        chain = script.chain()
        source = document_text(*script.document(chain.source.name))
        searches = len(chain.searched)
        opening = texts.challenger(source, chain.task_type, searches)
        spec = ConversationSpec(
            kind="challenger",
            tool_format=tool_format,
            prompts=texts,
            num_searches=searches,
            style="chain2_xml" if tool_format == "function_calls_xml" else "chain2",
        )
        specs.append((spec, opening))
    states = player.play(specs, TURN)
    rows = []
    for state in states:
        said = "\n".join(assistant_texts(state.played))
        parse = challenger_output.parse_task(said, tool_format)
        form = challenger_output.format_score(
            state.played, state.spec.num_searches, tool_format
        )
        wanted = _blanks(parse.task)
        known = [_value(player.world, *pair) for pair in wanted]
        shown = " ".join(state.passages) + str(state.messages[0]["content"])
        visible = [
            value is not None and f"{name}'s {relation} is {value}" in shown
            for (name, relation), value in zip(wanted, known, strict=True)
        ]
        rows.append(
            {
                "parsed": float(parse.valid),
                "format": form.value,
                "searches": float(state.searches == state.spec.num_searches),
                "facts": float(len(wanted)),
                "facts seen": float(np.mean(visible)) if visible else 0.0,
                "good task": float(len(wanted) >= 3 and all(visible)),
            }
        )
    return _means(rows)


def _blanks(task: str) -> list[tuple[str, str]]:
    pairs = []
    for part in task.partition(": ")[2].rstrip(".").split(", "):
        name, _, rest = part.partition("'s ")
        if rest.endswith(" is _"):
            pairs.append((name, rest.removesuffix(" is _")))
    return pairs


def _value(world: World, name: str, relation: str) -> str | None:
    entity = world.by_name.get(name)
    if entity is None or relation not in RELATIONS[entity.kind]:
        return None
    return next((f.value for f in entity.facts if f.relation == relation), None)


def _solver(player, tool_format: ToolFormat, sampling, count: int):
    texts = prompts.load("small_world", tool_format)
    group = 4
    tasks = heldout_tasks(count, 0)
    tasks = [task for task in tasks for _ in range(group)]
    specs = [
        (
            ConversationSpec(kind="solver", tool_format=tool_format, prompts=texts),
            texts.solver(task.text, MAX_SEARCHES),
        )
        for task in tasks
    ]
    states = player.play(specs, sampling)
    rows = []
    for task, state in zip(tasks, states, strict=True):
        parse = solver_output.parse_answer(state.played)
        rows.append(
            {
                "parsed": float(parse.valid),
                "format": solver_output.format_score(state.played, tool_format).value,
                "searches": float(state.searches),
                "true score": wanted_facts_stated(parse.answer, task.facts),
            }
        )
    means = _means(rows)
    scores = np.array([row["true score"] for row in rows]).reshape(-1, group)
    means["std in group"] = float(scores.std(axis=1).mean())
    entities = np.array([len(task.entities) for task in tasks])
    for number in (1, 2, 3):
        chosen = scores.ravel()[entities == number]
        means[f"{number} entities"] = float(np.mean(chosen))
    return means


def _judge(player: Player, job: str, count: int):
    script = Script(player.world, np.random.default_rng([0, 13]))
    played = [script.play(job) for _ in range(count)]
    texts = player.complete(
        [transcript.messages[:-1] for transcript in played],
        SamplingParams(temperature=0.0, max_new_tokens=64),
        job=job,
    )
    expected = [transcript.messages[-1]["content"] for transcript in played]
    read: Callable[[str], Any] = {
        "rubric": lambda text: judge.parse_rubrics(text).rubrics or None,
        "grader": judge.parse_grade,
    }.get(job, judge.parse_gate)
    rows = [
        {
            "parsed": float(read(text) is not None),
            "right": float(read(text) == read(wanted)),
            "word for word": float(text.strip() == wanted),
        }
        for text, wanted in zip(texts, expected, strict=True)
    ]
    means = _means(rows)
    if job != "rubric":
        verdicts = np.array([read(wanted) for wanted in expected])
        right = np.array([row["right"] for row in rows])
        for verdict in (1, 0):
            means[f"right where {verdict}"] = float(np.mean(right[verdicts == verdict]))
    return means


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
