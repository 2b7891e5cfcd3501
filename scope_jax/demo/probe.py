"""Measures what the small world's model can do, job by job, as it is used.

The Challenger and the Solver play whole conversations under the method's own rules,
sampled as in training; the judge's jobs are sampled greedily and compared with what the
script of ``transcripts`` would have written.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.chat import ChatRenderer
from models.config import DecoderConfig
from rl.engine import Engine
from rl.engine_config import EngineConfig
from rl.records import Request, SamplingParams
from rl.sampling import seed64
from scope_jax import challenger, conversation, judge, prompts, solver
from scope_jax.conversation import ConversationSpec, Finish, Generate, Search, State
from scope_jax.demo.transcripts import JOBS, MAX_SEARCHES, Script
from scope_jax.demo.wording import passages_text
from scope_jax.demo.world import RELATIONS, World, heldout_tasks, wanted_facts_stated
from scope_jax.types import TOOL_FORMATS, ToolFormat

MAX_LENGTH = 640
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
        self.longest_prompt: dict[str, int] = defaultdict(int)
        self._script = Script(world, np.random.default_rng(0))

    def complete(
        self,
        conversations: Sequence[Sequence[dict]],
        sampling: SamplingParams,
        *,
        stop: tuple[str, ...] = (),
        seed: int = 0,
        job: str = "",
    ) -> list[str]:
        """One completion per conversation."""
        requests = []
        for index, messages in enumerate(conversations):
            ids = tuple(self.renderer.prompt_ids(messages))
            self.longest_prompt[job] = max(self.longest_prompt[job], len(ids))
            requests.append(
                Request(
                    ids=ids,
                    sampling=sampling,
                    stop=stop,
                    stop_ids=self.renderer.stop_ids,
                    seed64=seed64("probe", seed, job, index),
                )
            )
        return [completion.text for completion in self.engine.generate(requests)]

    def play(
        self,
        specs: Sequence[tuple[ConversationSpec, Sequence[dict]]],
        sampling: SamplingParams,
        *,
        seed: int = 0,
    ) -> list[State]:
        """Plays conversations to their end, turn by turn together."""
        opened = [conversation.start(spec, messages) for spec, messages in specs]
        states = [state for state, _ in opened]
        actions = [found for _, found in opened]
        turn = 0
        while True:
            waiting = [
                i for i, found in enumerate(actions) if isinstance(found[0], Generate)
            ]
            if not waiting:
                return states
            turn += 1
            texts = self.complete(
                [states[i].messages for i in waiting],
                sampling,
                stop=actions[waiting[0]][0].stop,
                seed=seed * 100 + turn,
                job=states[waiting[0]].spec.kind,
            )
            for i, text in zip(waiting, texts, strict=True):
                state, found = conversation.step(states[i], text)
                while isinstance(found[0], Search):
                    results = [self._search(query) for query in found[0].queries]
                    state, found = conversation.observe(state, results)
                states[i], actions[i] = state, found
                assert isinstance(found[0], Generate | Finish)

    def _search(self, query: str) -> str:
        name = query if query in self.world.by_name else None
        if name is None:
            name = self._script.pick(self.world.entities).name
        return passages_text(self._script.retrieve(name))


def measure(
    player: Player, *, count: int = 32, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Per job, and per tool format where it matters, a few rates.

    Args:
      player: of the model.
      count: conversations per job and format; the judge's jobs get four times as many.
      seed: of tasks and samples.
    """
    found = {}
    for tool_format in TOOL_FORMATS:
        found[f"challenger/{tool_format}"] = _challenger(
            player, tool_format, count, seed
        )
        for name, sampling in (
            ("T=1", SamplingParams(temperature=1.0, max_new_tokens=96)),
            ("T=0.7", SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=96)),
        ):
            found[f"solver/{tool_format}/{name}"] = _solver(
                player, tool_format, sampling, count, seed
            )
    for job in _JUDGE_JOBS:
        found[job] = _judge(player, job, 4 * count, seed)
    return found


def describe(found: dict[str, dict[str, float]]) -> str:
    """One line a job."""
    return "\n".join(
        f"  {job}: " + ", ".join(f"{name} {value:.3f}" for name, value in rates.items())
        for job, rates in found.items()
    )


def _challenger(player: Player, tool_format: ToolFormat, count: int, seed: int):
    script = Script(player.world, np.random.default_rng([seed, 11]))
    texts = prompts.load("small_world", tool_format)
    specs = []
    for _ in range(count):
        chain = script.chain()
        title, text = script.document(chain.source.name)
        searches = len(chain.searched)
        opening = texts.challenger(
            f"(Title: {title})\n{text}\n", chain.task_type, searches
        )
        spec = ConversationSpec(
            kind="challenger",
            tool_format=tool_format,
            prompts=texts,
            num_searches=searches,
            style="chain2_xml" if tool_format == "function_calls_xml" else "chain2",
        )
        specs.append((spec, opening))
    sampling = SamplingParams(temperature=1.0, max_new_tokens=96)
    states = player.play(specs, sampling, seed=seed)
    rows = []
    for state in states:
        said = "\n".join(
            message["content"] or ""
            for message in state.episode
            if message["role"] == "assistant"
        )
        parse = challenger.parse_task(said, tool_format)
        form = challenger.format_score(
            state.episode, state.spec.num_searches, tool_format
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


def _solver(player, tool_format: ToolFormat, sampling, count: int, seed: int):
    texts = prompts.load("small_world", tool_format)
    group = 4
    tasks = heldout_tasks(count, seed, world=player.world)
    tasks = [task for task in tasks for _ in range(group)]
    specs = [
        (
            ConversationSpec(kind="solver", tool_format=tool_format, prompts=texts),
            texts.solver(task.text, MAX_SEARCHES),
        )
        for task in tasks
    ]
    states = player.play(specs, sampling, seed=seed)
    rows = []
    for task, state in zip(tasks, states, strict=True):
        parse = solver.parse_answer(state.episode)
        rows.append(
            {
                "parsed": float(parse.valid),
                "format": solver.format_score(state.episode, tool_format).value,
                "searches": float(state.searches),
                "true score": wanted_facts_stated(parse.answer, task.facts),
            }
        )
    means = _means(rows)
    scores = np.array([row["true score"] for row in rows]).reshape(-1, group)
    means["std in group"] = float(scores.std(axis=1).mean())
    for entities in (1, 2, 3):
        chosen = [
            row["true score"]
            for row, task in zip(rows, tasks, strict=True)
            if len(task.entities) == entities
        ]
        means[f"{entities} entities"] = float(np.mean(chosen))
    return means


def _judge(player: Player, job: str, count: int, seed: int):
    script = Script(player.world, np.random.default_rng([seed, 13]))
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
        for verdict in (1, 0):
            chosen = [
                row["right"]
                for row, wanted in zip(rows, expected, strict=True)
                if read(wanted) == verdict
            ]
            means[f"right where {verdict}"] = float(np.mean(chosen))
    return means


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


assert set(_JUDGE_JOBS) < set(JOBS)
