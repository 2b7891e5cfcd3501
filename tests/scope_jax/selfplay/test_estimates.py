"""Which advantage each datum gets, and what of a step is trained on."""

import asyncio
import itertools
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import configs
from models.errors import UserError
from rl.learner import checkpoint
from rl.learner.config import OverlongConfig
from rl.learner.losses import LossConfig
from rl.records import Datum
from scope_jax.config import StageConfig
from scope_jax.method.transcript import TrainedTurn
from scope_jax.selfplay import drawing, stages, training
from scope_jax.selfplay.estimates import (
    advantages,
    masked,
    with_advantages,
    with_overlong,
    worth,
)
from scope_jax.selfplay.training import TrainingStage, train
from scope_jax.system.hosts import ONE_HOST
from scope_jax.system.stopping import Stopped
from tests.scope_jax.selfplay.scripted import empty_rollout
from tests.scope_jax.selfplay.test_carry_over import STEPS, Run, play


def datum(mask, turn=0):
    return Datum(
        uid="u",
        turn=turn,
        ids=tuple(range(len(mask))),
        loss_mask=mask,
        sampled_mask=mask,
        logprobs=tuple(-1.0 if m else math.nan for m in mask),
    )


def rollout(reward, group=0, *, masks=((0, 1, 1),), turns=(2,), calls=(), **fields):
    return replace(
        empty_rollout(("run", 1, "solver", 1, group, 0)),
        reward=reward,
        group=group,
        role="solver",
        datums=tuple(datum(mask, i) for i, mask in enumerate(masks)),
        trained=tuple((i, TrainedTurn(n, n)) for i, n in enumerate(turns)),
        turn_log=tuple({"calls": ["q"]} if c else {} for c in calls),
        trace={"task_type": "writing"},
        **fields,
    )


@pytest.mark.parametrize(
    ("masks", "parts"),
    [
        # One datum of both turns, with a tool's result between; or one for each.
        (((0, 1, 1, 0, 0, 1, 1, 1),), [[0, 1, 1, 0, 0, 2, 2, 2]]),
        (((0, 1, 1), (0, 0, 0, 1, 1, 1)), [[0, 1, 1], [0, 0, 0, 2, 2, 2]]),
    ],
)
def test_each_token_has_its_turn_s_advantage(masks, parts):
    long = rollout(1.1, masks=masks, turns=(2, 3), calls=(True, False))
    long = replace(long, metrics={"reward/search": 1.0})
    settings = StageConfig(advantage="turn")
    found = advantages([long, rollout(0.2)], settings, search_weight=0.1)
    first, last = found[0]
    # Centred, searching was worth less than the mean turn, and so the first's return.
    assert last > first > found[1][0]
    datums = with_advantages([long, rollout(0.2)], found, settings)
    values = {0: 0.0, 1: first, 2: last}
    for one, want in zip(datums, parts, strict=False):
        assert one.advantages == tuple(values[part] for part in want)
    assert datums[-1].advantages == (0.0, found[1][0], found[1][0])
    record = long.json(found[0])
    assert [turn["advantage"] for turn in record["trained"]] == [first, last]
    assert record["advantage"] == pytest.approx((first + last) / 2)


def test_a_rollout_of_no_turn_has_no_part_in_turn_advantages():
    none = rollout(0.0, masks=(), turns=())
    settings = StageConfig(advantage="turn")
    found = advantages([none, rollout(1.0), rollout(0.0)], settings)
    assert found[0] == () and found[1][0] > 0 > found[2][0]
    assert none.json(())["advantage"] == 0


def test_the_stage_chooses_its_estimator():
    group = [rollout(r) for r in (1.0, 0.0, 0.0)]
    assert advantages(group, StageConfig(advantage="rloo")) == [1.0, -0.5, -0.5]
    bare = advantages(group, StageConfig(advantage_std=False))
    assert bare == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    memory = {}
    role = StageConfig(advantage="role")
    assert advantages(group, role, memory) == pytest.approx([1.0, -0.05, -0.0475])
    kept = {"writing/solver": pytest.approx(0.05 * 0.95**2)}
    assert memory == {"baselines": kept}
    again = advantages([rollout(0.0)], role, memory)
    assert again == pytest.approx([-0.05 * 0.95**2])


def test_rollouts_that_were_asked_otherwise_have_a_running_mean_of_their_own():
    memory, settings = {}, StageConfig(advantage="role")
    kinds = ("", "ncq", "resampled", "replay")
    group = [replace(rollout(1.0), posed=posed) for posed in kinds]
    found = advantages(group, settings, memory)
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.95])
    kept = memory["baselines"]
    assert set(kept) == {f"writing/solver{k}" for k in ("", "/ncq", "/resampled")}


def test_outcomes_are_set_where_the_loss_reads_them():
    scores = (0.5, 0.49, math.nan)
    group = [
        replace(rollout(1.0), metrics={"reward/rubric_score": score})
        for score in scores
    ]
    group += [replace(rollout(1.0, 1), role="challenger", metrics={})]
    group[3].metrics["reward/difficulty"] = 0.9
    settings = StageConfig(loss=LossConfig(policy="nft"))
    datums = with_advantages(group, settings=settings)
    assert [(d.outcome, d.group_rate) for d in datums] == [
        (1.0, 1 / 3),
        (0.0, 1 / 3),
        (0.0, 1 / 3),
        (1.0, 1.0),
    ]
    plain = with_advantages(group)
    assert {(d.outcome, d.group_rate) for d in plain} == {(0.0, 0.0)}


def test_a_long_rollout_loses_and_says_so():
    long = replace(rollout(1.0), sampled_tokens=90)
    settings = StageConfig(overlong=OverlongConfig(limit=100, buffer=20))
    got = with_overlong(long, settings)
    assert got.reward == got.trace["reward"] == 0.5
    assert got.metrics["reward/overlong"] == -0.5
    assert "90 tokens" in got.trace["why"][-1]
    assert with_overlong(long, StageConfig()) is long
    begun = with_overlong(replace(long, begun_tokens=5), settings)
    assert begun.metrics["reward/overlong"] == -0.75


def test_rollouts_that_were_cut_off_keep_their_part_in_their_group_s_mean(caplog):
    group = [rollout(1.0), rollout(0.0), replace(rollout(0.5), cut_off=True)]
    settings = StageConfig(overlong=OverlongConfig(mask=True), advantage_std=False)
    found = advantages(group, settings)
    assert found == [0.5, -0.5, 0.0]
    kept, metrics = masked(group, found, settings)
    assert metrics == {"rollout/unmasked": 2}
    assert kept[:2] == group[:2] and kept[2].datums == ()
    assert kept[2].json(0.0)["trained"][0]["trained"] == 0
    datums = with_advantages(kept, found, settings)
    assert [datum.advantage for datum in datums] == [0.5, -0.5]
    assert masked(group, found) == (group, {})
    assert not caplog.records
    none, metrics = masked(group[2:], [1.0], settings)
    assert metrics == {"rollout/unmasked": 0} and not none[0].datums
    assert "no rollout is left" in caplog.text


def test_rollouts_without_an_advantage_move_their_running_mean_all_the_same():
    settings = StageConfig(advantage="role", drop_zero=True)
    memory = {}
    group = [rollout(r) for r in (0.0, 1.0, 0.05, 0.05)]
    found = advantages(group, settings, memory)
    # By hand: b is 0, then 0, 0.05 (the third is at it), and 0.95 b + 0.05 b.
    assert found == pytest.approx([0.0, 1.0, 0.0, 0.0], abs=1e-15)
    kept, metrics = masked(group, found, settings)
    exact = sum(a != 0 for a in found)
    assert metrics == {"rollout/unmasked": exact} and not kept[0].datums
    assert [one.datums for one in kept if one.datums] == [
        one.datums for one, a in zip(group, found, strict=True) if a
    ]
    assert memory["baselines"] == {"writing/solver": pytest.approx(0.05)}
    with pytest.raises(UserError, match=r"drop_zero with advantage=group: .* both"):
        StageConfig(drop_zero=True)


@pytest.mark.parametrize(
    "given", [{"advantage": "rloo"}, {"dynamic_sampling": True}], ids=str
)
def test_a_group_of_one_is_refused_where_others_are_needed(given):
    with pytest.raises(UserError, match=r"group_size=1: .* give 2 or more"):
        StageConfig(group_size=1, **given)
    StageConfig(group_size=1, advantage="role")


# ---------------------------------------------------------------- drawing again


def reward_of(one):
    return worth(one, StageConfig())


class Drawn:
    """Plays groups of two; a prompt is the difference of its rewards."""

    def __init__(self, prompts, others=()):
        self.prompts, self.others, self.asked = prompts, others, []

    def play(self, prompts, first):
        return [
            rollout(0.3 + gap * sample, group)
            for group, gap in enumerate(prompts, first)
            for sample in range(2)
        ]

    def more(self, start, count):
        self.asked.append((start, count))
        return self.others[start : start + count]

    def run(self):
        given = self.prompts, self.play, self.more
        return drawing.until_full(*given, step=7, worth=reward_of)


def trained_groups(rollouts):
    return sorted({one.group for one in rollouts if one.datums})


def test_groups_of_equal_rewards_are_replaced_until_the_step_is_full(caplog):
    drawn = Drawn([0.0, 1.0, 0.0, 0.5], [0.0, 1e-9, 0.25, 0.0, 1.0, 1.0, 1.0])
    rollouts, metrics = drawn.run()
    # Half of the first four are missing: four more; one of these differs: at 3 of 8
    # that is three more, of which the first is the fourth group with spread.
    assert drawn.asked == [(0, 4), (4, 3)]
    assert trained_groups(rollouts) == [1, 3, 6, 8]
    assert len(rollouts) == 22  # all that were played are shown
    assert metrics == {
        "rollout/draws": 3,
        "rollout/groups_flat": 5,
        "rollout/groups_trained": 4,
    }
    assert not caplog.records
    left = [one for one in rollouts if one.group in (0, 9)]
    assert all(turn.trained == 0 for one in left for _, turn in one.trained)
    for value, one in zip(advantages(rollouts), rollouts, strict=True):
        assert one.json(value)["uid"] == one.uid


def test_a_step_that_is_full_at_once_draws_nothing():
    drawn = Drawn([1.0, 0.5])
    rollouts, metrics = drawn.run()
    assert drawn.asked == [] and metrics["rollout/draws"] == 1
    assert rollouts == drawn.play(drawn.prompts, 0)


@pytest.mark.parametrize(
    ("others", "why", "draws"),
    [([0.0, 1.0], "no prompt is left", 2), ([0.0] * 99, "10 draws were made", 10)],
)
def test_a_step_that_stays_small_is_counted_and_warned_of(others, why, draws, caplog):
    drawn = Drawn([0.0, 0.0, 1.0], others)
    with caplog.at_level(logging.WARNING):
        rollouts, metrics = drawn.run()
    kept = 1 + others.count(1.0)
    assert metrics["rollout/draws"] == draws
    assert metrics["rollout/groups_trained"] == kept == len(trained_groups(rollouts))
    [record] = caplog.records
    assert f"step 7: {kept} of 3 groups" in record.message and why in record.message


def test_what_was_sampled_again_for_a_group_stays_with_it():
    group = [rollout(r, g) for g, r in [(0, 0.3), (0, 0.3), (1, 0.0), (1, 1.0)]]
    group += [rollout(0.5, -1), rollout(0.5, -2)]
    rollouts, _ = drawing.until_full(
        [0, 1], lambda *_: group, lambda *_: (), step=1, worth=reward_of
    )
    assert trained_groups(rollouts) == [-2, 1]


def test_with_outcomes_groups_differ_by_them_and_not_by_rewards():
    scores = [(0, 0.9), (0, 0.6), (1, 0.4), (1, 0.5)]
    group = [
        replace(rollout(reward, g), metrics={"reward/rubric_score": score})
        for reward, (g, score) in enumerate(scores)
    ]
    nft = StageConfig(loss=LossConfig(policy="nft"))
    differ = {
        name: drawing.differing(group, lambda one, own=own: worth(one, own))
        for name, own in (("rewards", StageConfig()), ("outcomes", nft))
    }
    assert differ == {"rewards": [0, 1], "outcomes": [1]}


def test_a_step_may_draw_every_other_prompt_once():
    settings = StageConfig(steps=3, prompts_per_step=4)
    for count, step in itertools.product((10, 23), (1, 3, 5)):
        own = set(map(int, stages._chosen(count, step, settings)))
        later = list(stages._later(count, step, settings))
        assert sorted(later) == sorted(set(range(count)) - own)
        assert later == list(stages._later(count, step, settings))
    # What other steps begin with comes last, where there are prompts enough.
    later = list(stages._later(40, 1, settings))[:4]
    firsts = [set(map(int, stages._chosen(40, s, settings))) for s in (1, 2, 3)]
    assert not set(later) & set.union(*firsts)
    assert list(stages._later(3, 1, settings)) == []


@pytest.mark.parametrize("stopped_at", [2, 3])
def test_a_stage_with_running_means_and_draws_resumes_bit_for_bit(
    tiny_config, tiny_params, tmp_path, monkeypatch, stopped_at
):
    """Both are read by what is trained on, so a difference would be another policy."""

    def run(path, stops):
        async def flat_at_first(prompt, seed):
            if seed[3] in stops:
                stops.clear()
                raise Stopped("stopped by SIGINT", 130)
            played = replace(await play(None, seed), trace={"task_type": "writing"})
            sample, at_first = seed[-1], seed[3] == 1
            played = replace(played, cut_off=sample == 1)
            if at_first and sample == 0:  # with the mean at 0: no advantage
                played = replace(played, reward=0.0)
            flat = 0.0 if at_first else 0.5
            return replace(played, reward=flat) if prompt == "flat" else played

        made = Run(path, tiny_config, tiny_params, monkeypatch)
        config = made.parts.world.config
        stage = replace(
            config.solver_train,
            advantage="role",
            drop_zero=True,
            overlong=OverlongConfig(mask=True),
            dynamic_sampling=True,
            group_size=4,
        )
        made.parts.world.config = replace(config, solver_train=stage)
        made.trainer._config = made.parts.world.config
        what = TrainingStage(
            "solver",
            lambda step: ["flat"],
            flat_at_first,
            more=lambda step, start, count: [f"other {step} {start}"][:count],
        )
        for iteration in (1, 2):
            try:
                train(made.parts, iteration, what)
            except Stopped:
                made.trainer.memory = {"baselines": {"writing/solver": 1e6}}
                train(made.parts, iteration, what)
        states = made.trainer.updater("solver").states
        folder = made.folder.checkpoints(2, "solver")
        state, meta, _ = checkpoint.restore(folder, states.abstract())
        every = made.tracker.of(1, "solver") + made.tracker.of(2, "solver")
        return jax.tree.leaves(state), meta["memory"], every

    state, memory, records = run(tmp_path / "run", [stopped_at])
    whole, expected, _ = run(tmp_path / "whole", [])
    assert memory == expected and 0 < memory["baselines"]["writing/solver"] < 1
    for one, other in zip(state, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [record["rollout/unmasked"] for record in records] == [2] + [3] * 3
    assert len(records) == 2 * STEPS
    for record in records:
        assert record["rollout/draws"] == 2 and record["rollout/groups_trained"] == 1


class TwoHosts:
    """Two processes, one after the other."""

    def together(self, work):
        found = []
        for self.index in (0, 1):
            found.append(work())
        return found

    def local_share(self, items):
        return list(items)[self.index :: 2]


def test_two_hosts_draw_what_one_does():
    config = configs.load("ci")
    stage_config = replace(config.solver_train, dynamic_sampling=True, group_size=2)

    async def one(prompt, seed):
        *_, group, sample = seed
        return replace(rollout(0.3 + prompt * sample, group), seed=seed)

    others = [0.0, 0.5, 1.0, 0.0, 0.25, 0.125]
    stage = TrainingStage(
        "solver",
        lambda step: [0.0, 1.0, 0.0],
        one,
        more=lambda step, start, count: others[start : start + count],
    )

    def drawn(hosts):
        parts = SimpleNamespace(
            hosts=hosts,
            trainer=SimpleNamespace(stage_config=lambda role: stage_config),
            serving=SimpleNamespace(run=asyncio.run),
            world=SimpleNamespace(config=config),
        )
        bar = SimpleNamespace(inside=lambda *_: None)
        return training._play_together(parts, 1, stage, 1, bar)

    alone, metrics = drawn(ONE_HOST)
    assert drawn(TwoHosts()) == (alone, metrics)
    assert trained_groups(alone) == [1, 4, 5]
    assert [one.uid for one in alone][-2:] == ["1/solver/1/5/0", "1/solver/1/5/1"]
