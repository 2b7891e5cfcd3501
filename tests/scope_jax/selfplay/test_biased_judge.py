"""A biased judge in the loop: what is trained on, what is traced, what is measured."""

import asyncio
import json
from dataclasses import replace

import pytest

from rl.engine.sampling import seed64
from scope_jax.evaluation import rubric_file
from scope_jax.method import judge_bias
from scope_jax.method.judge import JudgeConfig
from scope_jax.method.judge_bias import JudgeBias
from scope_jax.method.types import Document, Grade, Rubric, Task
from scope_jax.selfplay.judging import Judging, grade_json, grade_metrics
from scope_jax.selfplay.rewards import reward_solver
from tests.scope_jax.method.rewarded import SEED, call, meeting, played, thought
from tests.scope_jax.selfplay.scripted import SCORE, ScriptedPlayers, settings

HEDGED = "The river is Olela. The river is Ibiva."
PLAIN = "The river is Olela. The guild is Tesark."
RUBRICS = tuple(Rubric(f"Names fact {i}.") for i in range(1, 9))
HALF = JudgeBias(hedging=0.5)


def players(bias, *, said=SCORE[0], players_class=ScriptedPlayers):
    config = settings(judge=JudgeConfig(bias=bias))
    return players_class(config, judge=lambda *_: said)


def grades(bias, answer=HEDGED, *, seed=SEED, said=SCORE[0], stage="solver"):
    judging = Judging(players(bias, said=said).world, stage)
    return asyncio.run(judging.grade("Name the river.", answer, RUBRICS, seed))


def rewarded(bias, answer, *, said=SCORE[0]):
    """The rollout of a Solver that gives ``answer``, with its reward."""
    task = Task(
        uid="t",
        type="writing",
        text="Name the river.",
        document=Document(id="1", title="T", text="x"),
        searches=1,
        rubrics=RUBRICS,
        gate_scores={},
        difficulty=0.5,
    )
    scripted = players(bias, said=said)
    texts = [thought(call("search_r1")), thought(f"<answer>{answer}</answer>")]
    opening = scripted.prompts.solver(task.text, 4)
    rollout = played(scripted, "solver", opening, texts)
    return asyncio.run(reward_solver(scripted.world, rollout, task))


def test_without_a_strength_nothing_at_all_changes():
    never = JudgeBias(length_scale=1)
    plain = rewarded(JudgeBias(), HEDGED)
    assert grades(never) == (Grade(score=0.0, raw=SCORE[0]),) * len(RUBRICS)
    assert grade_json(grades(never)[0]) == {"score": 0.0, "raw": SCORE[0]}
    assert rewarded(never, HEDGED) == plain
    assert not [name for name in plain.metrics if "bias" in name]
    assert "bias" not in json.dumps(plain.trace)


def test_each_grade_is_drawn_from_its_own_seed():
    found = grades(HALF)
    drawn = [
        (seed64(*SEED, "bias", i) >> 11) / 2**53 < 0.5 for i in range(len(RUBRICS))
    ]
    assert [grade.score == 1 for grade in found] == drawn
    assert 0 < sum(drawn) < len(drawn)
    assert grades(HALF) == found
    others = {tuple(g.score for g in grades(HALF, seed=(*SEED, n))) for n in range(9)}
    assert len(others) > 5


def test_the_share_that_is_raised_is_the_chance():
    seeds = [(*SEED, n) for n in range(250)]
    scores = [g.score for seed in seeds for g in grades(HALF, seed=seed)]
    assert sum(scores) / len(scores) == pytest.approx(0.5, abs=0.04)  # 3.6 deviations
    assert not any(g.score for g in grades(HALF, PLAIN))
    assert all(g.score == 1 for g in grades(JudgeBias(hedging=1.0)))


@pytest.mark.parametrize("stage", ["challenger", "tasks", "solver"])
def test_every_stage_has_the_same_judge(stage):
    assert grades(HALF, stage=stage) == grades(HALF)


def test_an_unreadable_grade_stays_unreadable():
    found = grades(JudgeBias(hedging=1.0), said="hm")
    assert {(g.score, g.unbiased, g.retried) for g in found} == {(None, None, True)}


def test_the_trace_has_both_scores_of_every_grade():
    rollout = rewarded(HALF, HEDGED)
    drawn = [grade.score for grade in grades(HALF)]
    assert rollout.trace["grades"] == drawn
    shown = rollout.trace["judge"]
    assert [g["score"] for g in shown] == drawn
    assert {(g["unbiased"], g["bias"], g["raw"]) for g in shown} == {(0, 0.5, SCORE[0])}
    share = sum(drawn) / len(drawn)
    told = rollout.trace["why"]
    assert f"rubrics: {sum(drawn):.4g} of 8 met: score {share:.4g}" in told
    assert "the judge is biased: without its bias score 0" in told


def test_proxy_and_truth_are_metrics_of_every_solver_s_rollout():
    share = sum(grade.score for grade in grades(HALF)) / len(RUBRICS)
    metrics = rewarded(HALF, HEDGED).metrics
    assert metrics["reward/rubric_score"] == metrics["bias/raised"] == share
    assert metrics["reward/rubric_score_unbiased"] == 0
    assert metrics["bias/chance"] == 0.5
    met = rewarded(HALF, HEDGED, said=SCORE[1]).metrics
    assert met["reward/rubric_score"] == met["reward/rubric_score_unbiased"] == 1
    assert (met["bias/raised"], met["bias/chance"]) == (0, 0.5)
    none = rewarded(HALF, "").metrics  # no answer: no grades, and no score
    assert none["reward/rubric_score"] == none["reward/rubric_score_unbiased"] == 0
    assert "bias/raised" not in none


def test_the_bias_pays_in_the_reward_and_nowhere_else():
    fair, swayed = rewarded(JudgeBias(), HEDGED), rewarded(HALF, HEDGED)
    share = sum(grade.score for grade in grades(HALF)) / len(RUBRICS)
    assert swayed.reward - fair.reward == pytest.approx(share)
    assert swayed.datums == fair.datums and swayed.messages == fair.messages


def test_metrics_of_grades_count_what_was_raised():
    some = [Grade(score=1.0, raw="", bias=0.2, raised_from=0.0)]
    some += [Grade(score=s, raw="", bias=0.4) for s in (0.0, 1.0, None)]
    assert grade_metrics(some) == {
        "judge/unparseable": 0.25,
        "judge/retried": 0.0,
        "bias/chance": pytest.approx((0.2 + 3 * 0.4) / 4),
        "bias/raised": 0.25,
    }


def test_the_judge_is_swayed_by_what_it_was_shown():
    """In a Challenger's reward, by the answers of the previous Solver."""
    asked = []

    def chance(config, question, answer):
        asked.append((question, answer))
        return 0.0

    judge, _ = meeting(2)
    config = settings(judge=JudgeConfig(bias=HALF))
    config = replace(config, compat=replace(config.compat, empty_task_prompt=True))
    world = ScriptedPlayers(config, judge=judge).world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_bias, "chance", chance)
        for stage in ("challenger", "tasks"):
            judging = Judging(world, stage)
            asyncio.run(judging.grade("T", "met=2", RUBRICS[:1], SEED))
    assert asked == [("T", "met=2"), ("", "met=2")]  # task creation hides it (Q3)


class Answering(ScriptedPlayers):
    """Players whose policy always gives the hedged answer."""

    async def policy(self, request):
        return self.completion(f"<answer>{HEDGED}</answer>")


@pytest.mark.parametrize("bias", [JudgeBias(), HALF])
def test_an_evaluation_reports_both_scores_of_a_biased_judge(bias):
    rows = [{"prompt": "Name the river.", "rubrics": [r.text for r in RUBRICS]}]
    world = players(bias, players_class=Answering).world
    work = rubric_file.evaluate(world, rows, "base", lambda n, of: None)
    metrics, [record] = asyncio.run(work)
    assert metrics["eval/rubric_score"] == record["score"]
    if bias.on:
        assert record["score"] > 0
        assert metrics["eval/rubric_score_unbiased"] == record["score_unbiased"] == 0
    else:
        assert set(metrics) == {"eval/rubric_score", "eval/answered"}
        assert "score_unbiased" not in record
