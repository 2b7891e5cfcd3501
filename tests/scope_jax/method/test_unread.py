"""Settings without an effect beside others are refused in one line."""

from dataclasses import replace

import pytest

import configs
from models.errors import UserError
from rl.learner.config import OverlongConfig
from rl.learner.losses import LossConfig
from scope_jax.method.axpo import ResamplingConfig
from scope_jax.method.compat import Compat
from scope_jax.method.rubric_weights import RubricWeights
from scope_jax.method.teacher import TeacherConfig

OUTCOMES = {"policy": "nft"}
DUAL_PATH = {"distillation": 1.0, "likelihood": 1.0}


def build(kind, stage=(), solver=(), weights="equal", role="solver"):
    """``tiny`` with a kind of training that reads no rewards, and other settings."""
    config = configs.load("tiny")
    own = getattr(config, f"{role}_train")
    loss = OUTCOMES if kind == "nft" else DUAL_PATH if kind == "dual_path" else {}
    own = replace(own, loss=replace(own.loss, **loss), **dict(stage))
    teacher = TeacherConfig(kind="dual_path" if kind == "dual_path" else "none")
    judge = replace(config.judge, weights=RubricWeights(kind=weights))
    changed = replace(config.solver, teacher=teacher, **dict(solver))
    return replace(config, solver=changed, judge=judge, **{f"{role}_train": own})


OF_THE_STAGE = [
    {"advantage": "rloo"},
    {"advantage": "turn"},
    {"advantage": "role", "drop_zero": True},
    {"advantage_std": False},
    {"overlong": OverlongConfig(buffer=8)},
]
OF_THE_SOLVER = [
    {"search_decay": "cosine"},
    {"reward": "mine.py:score"},
    {"resampling": ResamplingConfig(count=4)},
]


@pytest.mark.parametrize("kind", ["nft", "dual_path"])
@pytest.mark.parametrize("stage", OF_THE_STAGE, ids=str)
def test_what_is_made_of_rewards_is_refused_where_none_are_read(kind, stage):
    build("plain", stage)
    name = next(iter(stage))
    with pytest.raises(UserError, match=rf"solver_train\.{name}.*no rewards") as said:
        build(kind, stage)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("kind", ["nft", "dual_path"])
@pytest.mark.parametrize("solver", OF_THE_SOLVER, ids=str)
def test_parts_of_the_solvers_reward_are_refused_likewise(kind, solver):
    build("plain", solver=solver)
    with pytest.raises(UserError, match=rf"solver\.{next(iter(solver))}.*no rewards"):
        build(kind, solver=solver)
    with pytest.raises(UserError, match=r"judge\.weights\.kind=pow3r_instant"):
        build(kind, weights="pow3r_instant")


def test_the_challengers_outcomes_leave_the_solver_its_rewards():
    build("nft", solver={"search_decay": "cosine"}, role="challenger")
    with pytest.raises(UserError, match=r"challenger_train\.advantage=rloo"):
        build("nft", {"advantage": "rloo"}, role="challenger")


def test_what_still_means_something_is_not_refused():
    masked = {"overlong": OverlongConfig(mask=True)}
    for kind in ("nft", "dual_path"):
        build(kind, masked)
    build("nft", {"dynamic_sampling": True})
    with pytest.raises(UserError, match=r"dynamic_sampling=True"):
        build("dual_path", {"dynamic_sampling": True})


@pytest.mark.parametrize(
    "loss",
    [{"ratio": "sequence"}, {"aggregation": "constant_length"}],
    ids=str,
)
@pytest.mark.parametrize("role", ["solver", "challenger"])
def test_the_reference_s_mean_does_not_replace_a_method_s_own(role, loss):
    config = configs.load("tiny")
    stage = replace(getattr(config, f"{role}_train"), loss=LossConfig(**loss))
    changed = replace(config, **{f"{role}_train": stage})
    [name] = loss
    with pytest.raises(UserError, match=rf"{role}_train\.loss\.{name}.*micro_batch"):
        replace(changed, compat=Compat(micro_batch_mean=True))


def test_one_continuation_has_nothing_to_be_compared_with():
    assert ResamplingConfig(count=2).count == 2
    with pytest.raises(UserError, match=r"count=1: .* give 2 or more"):
        ResamplingConfig(count=1)


def test_what_another_setting_turns_off_is_refused():
    config = configs.load("tiny")
    weightless = replace(config.solver, search_weight=0.0)
    assert replace(config, solver=weightless)
    with pytest.raises(
        UserError, match=r"search_decay=cosine: .*search_weight=0: leave"
    ):
        replace(config, solver=replace(weightless, search_decay="cosine"))
    evaluation = replace(config.evaluation, count=0)
    assert replace(config, evaluation=evaluation).evaluation.each_iteration
    with pytest.raises(UserError, match=r"evaluation\.every=2: .* evaluation\.count=0"):
        replace(config, evaluation=replace(evaluation, every=2))
