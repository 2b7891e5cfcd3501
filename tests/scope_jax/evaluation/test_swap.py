"""Replay swaps: the writer goes on from the searcher's last result, no other."""

import asyncio
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from scope_jax.evaluation import swap
from scope_jax.method.types import TOOL_FORMATS
from scope_jax.small_world.tasks import heldout_tasks
from scope_jax.small_world.world import generate
from tests.scope_jax.method.rewarded import call
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, settings

QUESTIONS = re.compile(r"([A-Z]\w+)'s (\w+) is _")


class Players(ScriptedPlayers):
    """Solvers named by their folder: some can search, some can write.

    ``reads`` searches all entities of a task one after another; ``quits`` none. Both
    answer then: ``..writes`` what results say, ``..lies`` nothing true.
    """

    def __init__(self, tool_format="search_r1"):
        super().__init__(settings(tool_format))
        self.name = ""
        self.openings = []

    def use_folder(self, path):
        self.name = path

    async def policy(self, request):
        text = self.renderer.decode(request.ids)
        task = re.findall(r"(?:Explain|Plan|Report|Sum up): (.*?)\.", text)[-1]
        asked = list(dict.fromkeys(name for name, _ in QUESTIONS.findall(task)))
        known = [name for name in asked if f"about {name}:" in text]
        if self.name.startswith("reads") and len(known) < len(asked):
            unknown = next(name for name in asked if name not in known)
            return self.completion(call(self.config.tool_format, unknown))
        facts = re.findall(r"\w+'s \w+ is [A-Z]\w+", text)
        said = ". ".join(facts) if self.name.endswith("writes") else "Nothing"
        return self.completion(f"<answer>{said}.</answer>")

    async def search(self, queries):
        by_name = generate().by_name
        return [f"about {query}: {by_name[query].text}" for query in queries]

    def parts(self):
        serving = SimpleNamespace(run=asyncio.run)
        trainer = SimpleNamespace(use_folder=self.use_folder)
        return SimpleNamespace(world=self.world, trainer=trainer, serving=serving)


def named(count):
    """Held-out tasks in which every entity is named."""
    return [task for task in heldout_tasks(60, 3) if "that " not in task.text][:count]


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_the_score_needs_one_who_reads_and_one_who_writes(tool_format):
    solvers = {"first": "quits_writes", "last": "reads_lies"}
    found = swap.swap(Players(tool_format).parts(), solvers, named(6))
    assert set(found) == {"greedy", "sampled"}
    for rows in found.values():
        scores = {(row["searches"], row["answers"]): row["score"] for row in rows}
        assert scores == {
            ("first", "first"): 0,
            ("first", "last"): 0,
            ("last", "last"): 0,
            ("last", "first"): 1,
        }
        gains = {(row["searches"], row["answers"]): row["gain"] for row in rows}
        assert gains["last", "first"] == 1 and gains["first", "first"] == 0
        assert all(row["n"] == 6 for row in rows)
        # The last Solver searches where it knows nothing.
        unfinished = [row["unfinished"] for row in rows]
        assert unfinished == [0, 0, 1, 0] and list(scores)[2] == ("first", "last")


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_an_opening_ends_with_the_last_result(tool_format):
    players = Players(tool_format)
    players.name = "reads_writes"
    tasks = named(6)
    openings = asyncio.run(
        swap.searches(players.world, [task.text for task in tasks], "a", 0.0)
    )
    for task, opening in zip(tasks, openings, strict=True):
        spoken = [m for m in opening if m["role"] == "assistant"]
        assert len(spoken) == len(task.subjects)
        assert f"about {task.subjects[-1].name}:" in opening[-1]["content"]


def test_without_a_search_the_writer_gets_the_prompt():
    players = Players()
    players.name = "quits_writes"
    task = named(1)[0].text
    [opening] = asyncio.run(swap.searches(players.world, [task], "a", 0.0))
    limit = players.config.solver.max_searches_eval
    assert opening == tuple(players.prompts.solver(task, limit))


def test_a_writer_who_searches_again_is_told_to_answer():
    players = Players()
    players.name = "reads_writes"
    seen = []
    policy = players.policy

    async def watch(request):
        seen.append(players.renderer.decode(request.ids))
        return await policy(request)

    world = replace(players.world, policy=watch)
    opening = tuple(world.prompts.solver(named(1)[0].text, 5))
    [written] = asyncio.run(swap.answers(world, [opening], "a", 0.0))
    assert written.unfinished
    assert len(seen) == 1 + players.config.solver.forced_rounds
    assert "about " not in seen[-1].removeprefix(seen[0])


def test_gains_are_paired():
    pairs = {
        ("a", "a"): [0.0, 1.0, 0.0, 1.0],
        ("b", "a"): [0.5, 1.5, 0.5, 1.5],
    }
    unfinished = {pair: 0.25 for pair in pairs}
    same, better = swap.summary(pairs, "a", unfinished)
    assert better["unfinished"] == 0.25
    assert (same["score"], same["gain"]) == (0.5, 0)
    assert same["stderr"] == pytest.approx(math.sqrt(1 / 3 / 4))
    assert (better["gain"], better["gain_stderr"]) == (0.5, 0)
    [alone] = swap.summary({("a", "a"): [1.0]}, "a", unfinished)
    assert math.isnan(alone["stderr"])
