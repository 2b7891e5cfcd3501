"""Rollouts and their rewards, with a scripted judge and Solver, for tests."""

import asyncio
import json
from dataclasses import replace

from scope_jax.method.challenger import ChallengerConfig
from scope_jax.method.compat import Compat
from scope_jax.method.formats import Reward
from scope_jax.method.types import Document, Rubric, Task
from scope_jax.selfplay.documents import ChallengerPrompt
from scope_jax.selfplay.rewards import reward_challenger, reward_solver
from scope_jax.selfplay.rollouts import Limits, converse
from tests.scope_jax.selfplay.scripted import (
    SCORE,
    ScriptedPlayers,
    attempts,
    rubrics,
    settings,
)

SEED = ("reward", 7)
K = 8


def call(tool_format, query="q"):
    if tool_format == "tool_call":
        arguments = {"query_list": [query]}
        value = json.dumps({"name": "search", "arguments": arguments})
        return f"<tool_call>\n{value}\n</tool_call>"
    if tool_format == "search_r1":
        return f"<search>{query}</search>"
    return f'<function_calls>search(query="{query}")</function_calls>'


def thought(text):
    return f"<think>t</think>\n{text}"


def played(players, kind, opening, texts, *, n=None, response=8192):
    """The rollout of a policy that says ``texts``."""
    config, script = players.config, list(texts)

    async def policy(request):
        return players.completion(script.pop(0))

    spec = players.world.challenger_spec(kind, n, 5)
    if kind == "solver":
        spec = players.world.solver_spec("solver")
    return asyncio.run(
        converse(
            players.world,
            spec,
            opening,
            complete=policy,
            sampling=config.challenger_train.sampling,
            limits=Limits(context=16384, response=response),
            seed=SEED,
        )
    )


def earned(rollout):
    """The reward that a rollout got, as the method states it."""
    trace = rollout.trace
    assert (trace["reward"], trace["errors"]) == (rollout.reward, [*rollout.errors])
    return Reward(rollout.reward, trace["parts"], trace, rollout.errors)


def meeting(*counts, n=4):
    """A judge and Solvers such that answer i meets ``counts[i]`` of the n rubrics.

    None: rollout i gives no answer.
    """
    texts = [
        ["plain"] + ["no"] * 5 if count is None else [f"<answer>met={count}</answer>"]
        for count in counts
    ]

    def judge(stem, text, retry):
        if stem == "rubric":
            return rubrics(n)
        if stem.startswith("gate"):
            return SCORE[1]
        number = int(text.split("Names fact ")[1].split(".")[0])
        met = int(text.split("met=")[1][0])
        return SCORE[int(number <= met)]

    return judge, attempts(SEED, *texts)


def challenger_reward(
    tool_format="search_r1",
    texts=None,
    *,
    n=1,
    judge=None,
    solver=None,
    counts=(2,) * K,
    task_type="writing",
    compat=None,
    challenger=None,
    response=8192,
):
    """(reward, players) of a Challenger that searches once and writes its task."""
    default_judge, default_solver = meeting(*counts)
    config = settings(tool_format, compat=compat or Compat())
    config = replace(config, challenger=challenger or ChallengerConfig(rollouts=K))
    players = ScriptedPlayers(
        config, judge=judge or default_judge, solver=solver or default_solver
    )
    document = Document(id="1", title="Bern", text="(Title: Bern)\nA city.\n")
    prompt = ChallengerPrompt(
        index=0, document=document, task_type=task_type, searches=n
    )
    if texts is None:
        texts = [thought(call(tool_format)), thought("<task>T</task>")]
    opening = players.prompts.challenger(document.text, task_type, n)
    rollout = played(players, "challenger", opening, texts, n=n, response=response)
    work = reward_challenger(players.world, rollout, prompt)
    return earned(asyncio.run(work)), players


def numbers(reward):
    return (reward.parts["format"], reward.parts["difficulty"], reward.value)


def short(tool_format, answers, *, reference="Bern", counts=()):
    """A Challenger's reward for a short question with a reference answer."""
    judge, _ = meeting(*counts)

    def gated(stem, text, retry):
        assert stem != "gate_source_relevance"
        return judge(stem, text, retry)

    texts = [
        thought(call(tool_format, f"city of {reference}")),
        thought(f"<answer>{reference}</answer><task>Which city?</task>"),
    ]
    solver = attempts(
        SEED,
        *(
            ["plain"] + ["no"] * 5 if a is None else [f"<answer>{a}</answer>"]
            for a in answers
        ),
    )
    return challenger_reward(
        tool_format,
        texts,
        judge=gated,
        solver=solver,
        task_type="short_form_qa",
        challenger=ChallengerConfig(rollouts=len(answers)),
    )


def solver_reward(
    tool_format="search_r1",
    texts=None,
    *,
    grades=(1, 1, 1, 0),
    target=None,
    n=4,
    compat=None,
    lengths=None,
    response=8192,
):
    """(reward, players) of a Solver whose answer gets ``grades``."""

    def judge(stem, text, retry):
        number = int(text.split("Names fact ")[1].split(".")[0])
        said = grades[number - 1]
        return said if isinstance(said, str) else SCORE[said]

    config = settings(tool_format, compat=compat or Compat())
    if lengths:
        config = replace(config, solver=replace(config.solver, length=lengths))
    players = ScriptedPlayers(config, judge=judge)
    task = Task(
        uid="t",
        type="writing",
        text="Name the facts.",
        document=Document(id="1", title="T", text="x"),
        searches=1,
        rubrics=tuple(Rubric(f"Names fact {i}.") for i in range(1, n + 1)),
        gate_scores={},
        difficulty=0.5,
        target=target,
    )
    if texts is None:
        texts = [
            thought(call(tool_format)),
            thought(call(tool_format)),
            thought("<answer>a b c</answer>"),
        ]
    opening = players.prompts.solver(task.text, 4)
    rollout = played(players, "solver", opening, texts, response=response)
    return earned(asyncio.run(reward_solver(players.world, rollout, task))), players
