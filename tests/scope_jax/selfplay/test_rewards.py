"""What a reward says of itself, line by line, and the judge's settings in it."""

import asyncio
import json
import math

from scope_jax.method.judge import JudgeConfig
from scope_jax.method.solver import LengthConfig
from scope_jax.method.types import Rubric
from scope_jax.selfplay.judging import Judging
from tests.scope_jax.method.rewarded import (
    SEED,
    K,
    call,
    challenger_reward,
    meeting,
    short,
    solver_reward,
    thought,
)
from tests.scope_jax.selfplay.scripted import SCORE, ScriptedPlayers, settings


def test_a_challenger_s_trace_can_be_added_up_with_a_pencil():
    reward, _ = challenger_reward(counts=(3, None, 1, None, 3, None, 1, 4), n=3)
    assert reward.trace["why"] == [
        "format 0.7778: the mean of thinking 1, searching 0.3333 (3 searches asked "
        "for), task 1",
        "rubrics: 4 written by the judge",
        "gates: entity 1, source_relevance 1: sum 2 of 2 needed: passed",
        "Solver rollout 1: 3 of 4 met",
        "Solver rollout 2: left out: no valid answer",
        "Solver rollout 3: 1 of 4 met",
        "Solver rollout 4: left out: no valid answer",
        "Solver rollout 5: 3 of 4 met",
        "Solver rollout 6: left out: no valid answer",
        "Solver rollout 7: 1 of 4 met",
        "Solver rollout 8: 4 of 4 met",
        "mean score of 5 rollouts 0.6: difficulty 0.8 (tent that is 1 at 0.5)",
        "reward 1.189 = 0.5 x format 0.7778 + 1 x difficulty 0.8",
    ]


def test_a_solver_s_trace_says_each_grade_and_what_length_took():
    lengths = LengthConfig(soft=5, hard=7)
    texts = [thought(call("search_r1")), thought("<answer>sixsix</answer>")]
    reward, _ = solver_reward(texts=texts, grades=(1, None, 0, 1), lengths=lengths)
    assert reward.trace["why"] == [
        "format 1: the mean of thinking 1, searching before the last turn 1, answer 1",
        "rubrics: 2 of 4 met, 1 unreadable (counted 0 each): score 0.5",
        "answer of 6 tokens (loses from 5 on, all but 0.05 from 7 on): length factor "
        "0.525",
        "accuracy 0.2625 = 0.5 x 0.525",
        "1 search call, 3 wanted: search 0.3333",
        "reward 0.7958 = 0.5 x format 1 + 1 x accuracy 0.2625 + 0.1 x search 0.3333",
    ]
    assert [grade["score"] for grade in reward.trace["judge"]] == [1, None, 0, 1]


def test_every_branch_explains_itself():
    """No branch without lines, none of them with a number that is not there."""
    judge, solver = meeting(*[2] * K)

    def without(part):
        def say(stem, text, retry):
            return "?" if stem.startswith(part) else judge(stem, text, retry)

        return say

    found = [
        challenger_reward(judge=without(part), solver=solver)[0]
        for part in ("rubric", "gate", "grader")
    ]
    found += [
        challenger_reward(texts=["bye", "bye"])[0],
        short("tool_call", ("Bern", "x"))[0],
        short("tool_call", ("x",), reference=" ")[0],
        solver_reward(texts=["plain"])[0],
        solver_reward(target="x")[0],
        solver_reward(n=0)[0],
        solver_reward(lengths=LengthConfig(soft=1, hard=2))[0],
    ]
    branches = [reward.trace["branch"] for reward in found]
    assert len(set(branches)) == 9  # "exact match" is one of either role
    for reward in found:
        why = "\n".join(reward.trace["why"])
        assert "nan" not in why and why.count("reward ") >= 1
        json.dumps(reward.trace)
        assert math.isfinite(reward.value)


def test_the_judge_s_settings_are_used():
    config = JudgeConfig(retry=False, gates=("entity",), required_gates=1)
    judge, solver = meeting(*[2] * K)
    players = ScriptedPlayers(settings(judge=config), judge=judge, solver=solver)
    judging = Judging(players.world, "challenger")
    gates = asyncio.run(judging.gates("T", "writing", "d", SEED))
    assert gates == ({"entity": 1}, {"entity": SCORE[1]})
    players = ScriptedPlayers(settings(judge=config), judge=lambda *_: "?")
    judging = Judging(players.world, "challenger")
    [grade] = asyncio.run(judging.grade("T", "a", [Rubric("Names fact 1.")], SEED))
    assert grade.score is None and not grade.retried
    assert len(players.asked) == 1
