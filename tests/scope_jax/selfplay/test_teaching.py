"""Teachers asked with a scripted judge and policy: tokens, masks, weights."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

import configs
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.method.solver import SolverConfig
from scope_jax.method.teacher import TeacherConfig, perplexity_weights
from scope_jax.method.types import Grade
from scope_jax.selfplay.rollouts import Limits, converse
from scope_jax.selfplay.teaching import answer_place, taught
from scope_jax.selfplay.training import advantages
from tests.scope_jax.method.rewarded import call
from tests.scope_jax.selfplay.scripted import ScriptedPlayers, settings
from tests.scope_jax.selfplay.test_reward_options import TASK

# As Qwen3's template writes it, or turns would be trained on in other tokens.
THOUGHT = "<think>\nt\n</think>\n\n"
FORMATS = ("search_r1", "tool_call", "function_calls_xml")


class Class:
    """Rollouts of one task, and a policy that scores a token by its own id."""

    def __init__(self, tool_format="search_r1", *, judge=None, **teacher):
        kind, base = teacher.get("kind", "none"), settings(tool_format)
        weights = {"distillation": float(kind != "none")}
        weights["likelihood"] = float(kind == "dual_path")
        stage = base.solver_train
        stage = replace(stage, loss=replace(stage.loss, **weights))
        solver = SolverConfig(teacher=TeacherConfig(**teacher))
        config = replace(base, solver=solver, solver_train=stage)
        self.players = ScriptedPlayers(config, judge=judge or self.judge)
        self.scored = []

    def judge(self, stem, text, retry):
        assert "Names fact 1. (graded 1 of 1)" in text and "met=1" in text
        return "<think>hm</think>It meets 1, and should go on."

    @property
    def world(self):
        async def logprobs(ids, temperature):
            assert temperature == self.players.config.solver_train.update.temperature
            self.scored.append(tuple(ids))
            return [-id / 1000 for id in ids[1:]]

        return replace(self.players.world, logprobs=logprobs)

    def played(self, number, answer, score, *, logprob=-1.0):
        """Searches and answers; graded ``score``."""
        tool_format = self.players.config.tool_format
        said = [call(tool_format), f"<answer>{answer}</answer>"]
        texts = [THOUGHT + text for text in said]
        if answer is None:
            texts = ["nothing"] * 9

        async def policy(request):
            said = self.players.completion(texts.pop(0))
            return replace(said, logprobs=(logprob,) * len(said.ids))

        rollout = asyncio.run(
            converse(
                self.players.world,
                self.players.world.solver_spec("solver"),
                self.players.prompts.solver("T", 4),
                complete=policy,
                sampling=self.players.config.solver_train.sampling,
                limits=Limits(context=16384, response=8192),
                seed=(7, 1, "solver", 4, 0, number),
            )
        )
        return replace(
            rollout,
            reward=score,
            grades=tuple(Grade(score=s, raw="") for s in (1.0, 0.0, 0.0)),
            metrics={"reward/rubric_score": score},
            trace={"answer": answer or ""},
        )

    def taught(self, *rollouts):
        return asyncio.run(taught(self.world, TASK, list(rollouts)))


def answer_text(lesson, datum, places):
    return lesson.players.renderer.decode([datum.ids[at] for at in places])


@pytest.mark.parametrize("tool_format", FORMATS)
def test_a_critique_s_teacher_scores_the_same_tokens_behind_another_prompt(tool_format):
    lesson = Class(tool_format, kind="critique")
    [found] = lesson.taught(lesson.played(0, "met=1", 0.25))
    *before, datum = found.datums
    has = [
        at for at, value in enumerate(datum.teacher_logprobs) if not math.isnan(value)
    ]
    assert answer_text(lesson, datum, has) == f"{THOUGHT}<answer>met=1</answer>"
    assert all(one.teacher_logprobs is None for one in before)
    # Each is the score of this very token: the policy scores by id.
    assert [datum.teacher_logprobs[at] for at in has] == pytest.approx(
        [-datum.ids[at] / 1000 for at in has]
    )
    [asked] = lesson.scored
    text = lesson.players.renderer.decode(asked)
    assert text.count("It meets 1, and should go on.") == 1
    assert text.index("Question: T") < text.index("It meets 1") < text.index("met=1")
    # Behind the question all is as it was, up to the answer's end.
    place = answer_place(lesson.world, found)
    behind = datum.ids[place.prompt : place.last + 1]
    assert asked[-len(behind) :] == behind
    assert found.trace["critique"].startswith("It meets 1")
    mean = np.mean([datum.teacher_logprobs[at] for at in has])
    assert found.metrics["teacher/gap"] == pytest.approx(mean + 1)


def test_without_answer_or_critique_there_is_no_teacher():
    lesson = Class(kind="critique", judge=lambda *_: "<think>never closed")
    silent, mute = lesson.played(0, None, 0.0), lesson.played(1, "met=1", 0.5)
    assert lesson.taught(silent, mute) == [silent, mute]
    assert lesson.scored == []
    off = Class()
    rollouts = [off.played(0, "met=1", 0.5)]
    assert off.taught(*rollouts) == rollouts and off.players.asked == []


def test_a_teacher_whose_prompt_has_no_room_is_not_asked():
    lesson = Class(kind="critique")
    rollout = lesson.played(0, "met=1", 0.25)
    config = lesson.players.config
    fits = len(rollout.datums[0].ids)
    engine = replace(config.engine, max_length=fits + 5)
    lesson.players.config = replace(config, engine=engine)
    [found] = lesson.taught(rollout)
    assert found.datums == rollout.datums and lesson.scored == []


def softmax(values):
    each = [math.exp(v - max(values)) for v in values]
    return [e / sum(each) for e in each]


# Two groups of three: mean log-probs of the student, worked by hand.
@pytest.mark.parametrize(
    "logprobs, power, tau, expected",
    [
        ([-1.0, -2.0, -3.0], 1.0, 1.0, [0.2700917, 0.7341854, 1.9957229]),
        ([-1.0, -2.0, -3.0], -1.0, 1.0, [1.9957229, 0.7341854, 0.2700917]),
        ([-0.5, -0.5, -2.5], 1.0, 2.0, [0.6358249, 0.6358249, 1.7283502]),
        ([-4.0], -1.0, 1.0, [1.0]),
        ([], 1.0, 1.0, []),
    ],
)
def test_weights_are_perplexity_to_a_power_with_mean_1(logprobs, power, tau, expected):
    found = perplexity_weights(logprobs, power, tau)
    assert found == pytest.approx(expected, abs=1e-6)
    by_hand = softmax([-power * value / tau for value in logprobs]) if logprobs else []
    assert found == pytest.approx([len(logprobs) * value for value in by_hand])


def test_right_answers_are_made_likelier_and_wrong_ones_follow_the_teacher():
    lesson = Class(kind="dual_path")
    rollouts = [
        lesson.played(0, "met=1", 0.5, logprob=-1.0),
        lesson.played(1, "met=12", 1.0, logprob=-2.0),
        lesson.played(2, "a", 0.25),
        lesson.played(3, "zzzz", 0.0),
        lesson.played(4, None, 0.0),
    ]
    found = lesson.taught(*rollouts)
    assert advantages([replace(one, group=0) for one in found]) == [0.0] * 5
    data = [one.datums[0] if one.datums else None for one in found]
    assert data[4] is None
    # e^1 : e^2 over their mean, and no teacher.
    likely = [2 / (1 + math.e), 2 * math.e / (1 + math.e)]
    assert [d.likelihood_weight for d in data[:2]] == pytest.approx(likely)
    assert data[0].teacher_logprobs is data[1].teacher_logprobs is None
    # The wrong ones: their mean score by the teacher, and no likelihood.
    assert [d.likelihood_weight for d in data[2:4]] == [0, 0]
    means = []
    for datum in data[2:4]:
        has = [v for v in datum.teacher_logprobs if not math.isnan(v)]
        assert len(has) == sum(datum.sampled_mask)
        means.append(sum(has) / len(has))
    close = [2 * w for w in softmax(means)]  # perplexity^-1 = exp(mean log-prob)
    assert [d.teacher_weight for d in data[2:4]] == pytest.approx(close)
    assert len(lesson.scored) == 2
    for asked in lesson.scored:
        assert "Bern" in lesson.players.renderer.decode(asked)
    assert [[t.trained > 0 for _, t in one.trained] for one in found[:4]] == [
        [False, True]
    ] * 4
    # Only the answer is trained on.
    for rollout, datum in zip(rollouts, data[:4], strict=False):
        place = answer_place(lesson.world, rollout)
        inside = set(range(place.first, place.last + 1))
        assert {at for at, m in enumerate(datum.loss_mask) if m} == inside
        assert sum(rollout.datums[0].loss_mask) > len(inside)


def test_the_released_preset_turns_the_student_s_sign():
    assert TeacherConfig().powers == (1, -1)
    assert TeacherConfig(preset="released").powers == (-1, -1)
    lesson = Class(kind="dual_path", preset="released")
    found = lesson.taught(
        lesson.played(0, "met=1", 1.0), lesson.played(1, "met=1", 1.0, logprob=-2.0)
    )
    weights = [one.datums[0].likelihood_weight for one in found]
    assert weights == pytest.approx([2 * math.e / (1 + math.e), 2 / (1 + math.e)])


def with_teacher(kind, role="solver", **loss) -> Config:
    config = configs.load("tiny")
    solver = replace(config.solver, teacher=TeacherConfig(kind=kind))
    own = getattr(config, f"{role}_train")
    own = replace(own, loss=replace(own.loss, **loss))
    return replace(config, solver=solver, **{f"{role}_train": own})


def test_a_teacher_and_its_weight_need_each_other():
    with_teacher("critique", distillation=0.1)
    with_teacher("dual_path", distillation=1.0, likelihood=1.0)
    with pytest.raises(UserError, match=r"kind=critique: .*loss\.distillation is 0"):
        with_teacher("critique")
    with pytest.raises(UserError, match=r"kind=dual_path: .*loss\.likelihood is 0"):
        with_teacher("dual_path", distillation=1.0)
    with pytest.raises(UserError, match=r"loss\.likelihood=1: .*kind=critique"):
        with_teacher("critique", distillation=1.0, likelihood=1.0)
    with pytest.raises(UserError, match="the Challenger has no teacher"):
        with_teacher("none", "challenger", distillation=1.0)
