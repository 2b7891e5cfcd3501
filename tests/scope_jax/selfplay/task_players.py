"""Task creation with a scripted Challenger, judge and Solver, for tests.

Everybody's answer is a function of what was asked, so that only order and timing can
differ between two runs; and those must not show.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

from retrieval.passages import Passages
from rl.engine.counters import COUNTERS, Meter
from scope_jax.method.compat import OFF
from scope_jax.run.folder import RunFolder
from scope_jax.selfplay import tasks as stage
from scope_jax.selfplay.metering import StepMeter
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.task_file import read_tasks
from scope_jax.system.hosts import ONE_HOST
from tests.scope_jax.method.rewarded import call, thought
from tests.scope_jax.selfplay.scripted import SCORE, ScriptedPlayers, rubrics, settings


def draw(text, of):
    """A number below ``of`` that depends on ``text`` only."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % of


def task_of(text):
    return re.findall(r"Write about \w+, take \d+", text)[-1]


def judge(stem, text, retry):
    """One gate in six fails, one rubric block in six, grades vary with the task."""
    if stem.startswith("gate"):
        return SCORE[int(draw(stem + task_of(text), 6) > 0)]
    if stem == "rubric":
        return rubrics(2 if draw("r" + task_of(text), 6) == 0 else 5)
    return SCORE[int(draw(text, 10) < draw("g" + task_of(text), 13))]


def solver(seed):
    return f"<answer>{seed}</answer>"


class Bar:
    def inside(self, what, done, total):
        assert done <= total

    def advance(self, metrics, n):
        pass


class Tracker:
    """Keeps the records, like the real one."""

    def __init__(self):
        self.records = []

    def log(self, metrics, *, iteration, stage, step):
        self.records.append({"step": step} | metrics)

    def rewind(self, iteration, stage, step):
        self.records = [r for r in self.records if r["step"] <= step]

    @contextlib.contextmanager
    def stage(self, iteration, stage, *, total, done):
        yield Bar()


class TaskPlayers(ScriptedPlayers):
    """Players of task creation; ``jitter`` seeds who answers when."""

    def __init__(self, folder, config, *, jitter=0, judge=judge, solver=solver):
        rng = random.Random(jitter)

        async def delay():
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)

        super().__init__(config, judge=judge, solver=solver, delay=delay)
        passages = folder.parent / "passages.jsonl"
        passages.parent.mkdir(exist_ok=True)
        if not passages.exists():
            lines = [
                json.dumps({"id": str(i), "contents": f"Town{i}\nIt lies by {i}."})
                for i in range(40)
            ]
            passages.write_text("\n".join(lines) + "\n")
        self.passages = Passages(passages)
        self.folder = RunFolder(folder, config)
        self.tracker = Tracker()
        self.written = []
        self._meter = Meter()

    def parts(self):
        """A run around these players: no weights, real files and real metering."""
        engine = SimpleNamespace(work=self.no_work)
        serving = SimpleNamespace(
            run=self.run, work=self.judge_work, load_solver=lambda path: None
        )
        return Parts(
            folder=self.folder,
            tracker=self.tracker,
            hosts=ONE_HOST,
            world=self.world,
            serving=serving,
            trainer=SimpleNamespace(use_trained=lambda iteration, role: None),
            meter=StepMeter(engine, serving, ONE_HOST),
        )

    async def no_work(self):
        return {}

    async def judge_work(self):
        """As if every answer of the judge had been one token of one slot."""
        now = {"judge": dict.fromkeys(COUNTERS, float(len(self.asked)))}
        return self._meter.since(now)

    def run(self, work):
        return asyncio.run(asyncio.wait_for(work, 300))

    async def policy(self, request):
        """Searches as often as it was asked to, then writes; one in eight does not."""
        await self._delay()
        text = self.renderer.decode(request.ids)
        self.written.append(request.seed64)
        n = int(re.search(r"exactly \*\*(\d+)\*\* search turn", text)[1])
        turns = text.count("<|im_start|>assistant\n") - 1
        town = re.search(r"\(Title: (\w+)\)", text)[1]
        if turns < n:
            said = call(self.config.tool_format, town)
        elif request.seed64 % 8 == 0:
            said = "bye"
        else:
            said = f"<task>Write about {town}, take {request.seed64 % 97}</task>"
        return self.completion(thought(said))


def small(tool_format="search_r1", *, compat=OFF, **changes):
    config = settings(tool_format, compat=compat)
    tasks = replace(
        config.tasks,
        **{"target": 12, "prompts_per_batch": 8, "sub_batch": 6, "samples": 2}
        | {"solver_rollouts": 3, "max_batches": 6}
        | changes,
    )
    return replace(config, tasks=tasks)


def create(folder, config, **options):
    """What task creation leaves behind: tasks, records of candidates, metrics."""
    players = TaskPlayers(folder / "run", config, **options)
    try:
        stage.create_tasks(players.parts(), 1)
        return result(players), players
    finally:
        players.folder.close()


def result(players):
    paths = sorted((players.folder.path / "rollouts/iter_1/tasks").glob("*.jsonl"))
    kept = [
        {k: v for k, v in record.items() if not k.startswith(("time/", "perf/"))}
        for record in players.tracker.records
    ]
    return (
        read_tasks(players.folder.tasks(1)),
        [path.read_text() for path in paths],
        kept,
    )


def outcomes(players):
    lines = "".join(result(players)[1]).splitlines()
    return Counter(json.loads(line)["outcome"] for line in lines)
