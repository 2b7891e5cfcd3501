"""From rewarded rollouts to what is trained on, and a step's numbers."""

import asyncio
import dataclasses
import json
import logging
import math
from types import SimpleNamespace

import pytest

import configs
from models.errors import UserError
from rl.learner.update import NonFiniteUpdateError
from rl.records import Datum
from scope_jax.run import alarm
from scope_jax.run.tracking import Tracker, TrackingConfig, read
from scope_jax.selfplay import metering, step_end
from scope_jax.selfplay.broken_models import BrokenWeightsError
from scope_jax.selfplay.estimates import with_advantages
from scope_jax.selfplay.metering import StepMeter, step_metrics
from scope_jax.selfplay.training import TrainingStage, stopped, train
from scope_jax.system import stopping
from scope_jax.system.hosts import ONE_HOST
from tests.records import comparable
from tests.scope_jax.selfplay.scripted import empty_rollout


def scored(group, reward, *, turns=1, metrics=None, finish="done"):
    datums = tuple(
        Datum(
            uid=f"u{group}",
            turn=turn,
            ids=(1, 2),
            loss_mask=(0, 1),
            sampled_mask=(0, 1),
            logprobs=(math.nan, -1.0),
        )
        for turn in range(turns)
    )
    return dataclasses.replace(
        empty_rollout(("run", f"u{group}")),
        group=group,
        role="solver",
        datums=datums,
        finish_reason=finish,
        reward=reward,
        metrics=metrics or {},
        sampled_tokens=5,
    )


def test_advantages_of_example_93_are_on_every_datum_of_their_rollout():
    rewards = (1.6, 1.1, 0.6, 0.6)
    datums = with_advantages([scored(0, r, turns=2) for r in rewards])
    expected = [1.305580, 0.261116, -0.783348, -0.783348]
    assert [d.advantage for d in datums] == pytest.approx(
        [a for a in expected for _ in range(2)], abs=1e-6
    )


def test_groups_do_not_mix():
    datums = with_advantages(
        [scored(0, 1.0), scored(1, 5.0), scored(0, 0.0), scored(1, 5.0)]
    )
    assert datums[0].advantage > 0 > datums[2].advantage
    assert datums[1].advantage == datums[3].advantage == 0


def test_metrics_leave_out_what_was_not_measured():
    found = step_metrics(
        [
            scored(0, 1.0, metrics={"reward/rubric_score": math.nan, "judge/x": 1.0}),
            scored(0, 0.0, metrics={"reward/rubric_score": 0.5}, finish="length"),
            scored(1, 0.5),
            scored(1, 0.5),
        ]
    )
    assert found["reward/rubric_score"] == 0.5
    assert found["reward/mean"] == 0.5
    assert found["reward/groups_that_differ"] == 0.5
    assert found["rollout/finished_length"] == 0.25
    assert found["rollout/tokens"] == 20


def test_errors_are_counted_by_class():
    bad = dataclasses.replace(
        scored(0, 0.0), errors=("unclosed task", "empty query", "empty query")
    )
    found = step_metrics([bad, dataclasses.replace(bad, errors=("empty query",))])
    assert found["errors/unclosed_task"] == 1
    assert found["errors/empty_query"] == 3
    assert not [name for name in step_metrics([scored(0, 0.0)]) if "errors" in name]


def test_the_batch_of_a_stop_is_saved_beside_its_rollouts(tmp_path):
    datums = with_advantages([scored(0, 1.0), scored(0, 0.0)])
    error = NonFiniteUpdateError("3 gradients in a row were not finite", datums)
    told = str(stopped(tmp_path / "step_0007.jsonl", error))
    batch = tmp_path / "step_0007.batch.jsonl"
    assert told.startswith(str(batch)) and "3 gradients in a row" in told
    lines = [json.loads(line) for line in batch.read_text().splitlines()]
    assert [line["uid"] for line in lines] == [d.uid for d in datums]
    assert lines[0]["advantage"] == datums[0].advantage
    assert lines[0]["logprobs"] == [None, -1.0]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(metering.time, "monotonic", lambda: self.now)

    def player(self, seconds):
        """An engine that takes so long to say what it has done."""

        async def work():
            self.now += seconds
            return {}

        return SimpleNamespace(work=work)


def test_asking_engines_for_their_work_is_no_part_of_a_step_s_times(monkeypatch):
    clock = Clock(monkeypatch)
    meter = StepMeter(clock.player(5.0), clock.player(7.0), ONE_HOST)
    meter.start()
    clock.now += 2
    assert meter.lap("rollout") == 2
    asyncio.run(meter.engine_work())
    clock.now += 3
    assert meter.lap("update") == 3


def test_a_server_that_is_gone_ends_a_step_before_its_update_not_after(tmp_path):
    """An update that is done is kept: whatever needs the server comes before it."""
    events = []

    def run(work):
        if events == ["played"]:
            work.close()
            raise UserError("inference server: died 11 times")
        return asyncio.run(work)

    async def rollout(prompt, seed):
        events.append("played")
        return scored(0, 1.0)

    async def work():
        return {}

    config = configs.load("tiny")
    stage = dataclasses.replace(config.solver_train, steps=1, group_size=1)
    serving = SimpleNamespace(run=run, work=work)
    parts = SimpleNamespace(
        trainer=SimpleNamespace(
            stage_config=lambda role: stage,
            memory={},
            begin=lambda iteration, role: (None, 0),
            update=lambda *_: events.append("updated"),
        ),
        hosts=ONE_HOST,
        meter=StepMeter(SimpleNamespace(work=work), serving, ONE_HOST),
        serving=serving,
        world=SimpleNamespace(config=config, truth=None),
        tracker=Tracker(tmp_path, TrackingConfig(tensorboard=False)),
        folder=SimpleNamespace(
            record=lambda *_, **__: None,
            rollouts=lambda *_: tmp_path / "rollouts.jsonl",
        ),
        profile=0,
    )
    with pytest.raises(UserError, match="died 11 times"):
        train(parts, 1, TrainingStage("solver", lambda step: [None], rollout))
    parts.tracker.close()
    assert events == ["played"]
    assert (tmp_path / "rollouts.jsonl").is_file()


class Solvers:
    """Solver stages of three steps in one folder, with a table in the place of JAX.

    Attributes:
      kept: step, state and memory of the newest checkpoint.
      refused_at: step whose rollouts fail.
      gone: what needs the server fails while this is true.
      error: with this.
    """

    def __init__(self, folder, **checkpoints):
        config = configs.load("tiny")
        self.stage = dataclasses.replace(config.solver_train, steps=3, group_size=1)
        self.config = dataclasses.replace(
            config,
            evaluation=dataclasses.replace(config.evaluation, every=2),
            checkpoint=dataclasses.replace(config.checkpoint, **checkpoints),
        )
        self.folder, self.kept, self.gone = folder, (0, 0, {}), False
        self.refused_at = 0
        self.played, self.error = 0, stopping.Stopped("error: no server", 1)
        self.trainer = SimpleNamespace(
            stage_config=lambda role: self.stage,
            begin=self.begin,
            update=lambda role, state, datums: (state + 1, {"loss/updates": 0}),
            save=self.save,
            finish=lambda *_: None,
        )

    def begin(self, iteration, role):
        step, state, memory = self.kept
        self.trainer.memory = json.loads(memory) if memory else {}
        return state, step

    def save(self, iteration, role, step, state):
        assert step == state
        self.kept = step, state, json.dumps(self.trainer.memory)

    async def needed(self):
        if self.gone:
            raise self.error
        return {}

    def score(self, parts, step):
        parts.serving.run(self.needed())
        return {"eval/score": step / 8}

    async def rollout(self, prompt, seed):
        if self.refused_at == seed[3]:
            raise self.error
        self.played += 1
        return scored(0, 1.0, metrics={"reward/x": seed[3] / 4})

    def train(self):
        serving = SimpleNamespace(run=asyncio.run, work=self.needed)
        folder = SimpleNamespace(
            record=lambda *_, **__: None,
            rollouts=lambda _, __, step: self.folder / f"{step}.jsonl",
        )
        with Tracker(self.folder, TrackingConfig(tensorboard=False)) as tracker:
            parts = SimpleNamespace(
                trainer=self.trainer,
                hosts=ONE_HOST,
                meter=StepMeter(serving, serving, ONE_HOST),
                serving=serving,
                world=SimpleNamespace(config=self.config, truth=None),
                tracker=tracker,
                folder=folder,
                profile=0,
                score=self.score,
            )
            train(parts, 1, TrainingStage("solver", lambda step: [None], self.rollout))

    def records(self):
        return [comparable(record) for record in read(self.folder)]


STOPS = [
    stopping.Stopped("error: no server", 1),
    UserError("http://judge: 401 expired: no server"),
    BrokenWeightsError("judge", "no server"),
]


@pytest.mark.parametrize("every", [1, 2, 100])
@pytest.mark.parametrize("error", STOPS, ids=lambda error: type(error).__name__)
def test_a_server_that_is_gone_during_an_evaluation_costs_no_step(
    tmp_path, every, error, monkeypatch
):
    whole = Solvers(tmp_path / "whole", every=every)
    whole.train()
    assert [r.get("eval/score") for r in whole.records()] == [None, 0.25, None]
    run = Solvers(tmp_path / "run", every=every)
    score, run.error = run.score, error

    def fails(parts, step):
        run.gone = True
        return score(parts, step)

    monkeypatch.setattr(run, "score", fails)
    for _ in range(2):  # and again when it is given again
        with pytest.raises(type(error), match="no server"):
            run.train()
        run.gone = False
        assert run.kept[0] == run.played == 2 and len(run.records()) == 1
    monkeypatch.setattr(run, "score", score)
    run.train()
    assert run.played == 3
    assert run.records() == whole.records()
    assert run.kept == whole.kept


@pytest.mark.parametrize("error", STOPS, ids=lambda error: type(error).__name__)
def test_what_ends_rollouts_costs_no_step_that_was_done(tmp_path, error):
    whole = Solvers(tmp_path / "whole", every=100)
    whole.train()
    run = Solvers(tmp_path / "run", every=100)
    run.error, run.refused_at = error, 3
    for _ in range(2):
        with pytest.raises(type(error), match="no server"):
            run.train()
        assert run.kept[0] == run.played == 2
    run.refused_at = 0
    run.train()
    assert run.played == 3
    assert run.records() == whole.records() and run.kept == whole.kept


def test_a_policy_of_broken_weights_takes_the_place_of_no_whole_one(tmp_path):
    run = Solvers(tmp_path / "run", every=100)
    run.error = BrokenWeightsError("policy", "10 completions in a row")
    score, saved = run.score, []
    run.trainer.save = lambda _, __, step, ___: saved.append(step)

    def fails(parts, step):
        run.gone = True
        return score(parts, step)

    run.refused_at = 2  # behind a step that is not saved yet
    with pytest.raises(BrokenWeightsError):
        run.train()
    run.refused_at, run.score = 0, fails
    with pytest.raises(BrokenWeightsError):
        run.train()
    assert saved == []


def test_a_step_gets_the_alarm_of_its_role_s_steps_so_far(tmp_path, caplog):
    """One warning when it goes on; the same numbers where every step is a resume."""
    caplog.set_level(logging.WARNING, logger="scope_jax")
    parts = SimpleNamespace(
        hosts=SimpleNamespace(is_leader=True),
        world=SimpleNamespace(config=SimpleNamespace(tracking=TrackingConfig())),
    )
    found = []
    for step, score in enumerate([0.4, 0.4, 0.4, 0.4, 0.6, 0.7, 0.7, 0.4, 0.3], 1):
        record = {"step": step, alarm.PROXY: score, "truth/score": 0.3}
        with Tracker(tmp_path, TrackingConfig(tensorboard=False)) as parts.tracker:
            assert step_end._watched(parts, "challenger", {"step": step}) == {}
            metrics = step_end._watched(parts, "solver", record)
            parts.tracker.log(record | metrics, iteration=1, stage="solver", step=step)
        found.append(metrics[alarm.METRIC])
    assert found == [0, 0, 0, 0, 0, 0, 1, 1, 0]
    assert [record.message for record in caplog.records] == [
        "step 7: the judge's score rose by 0.27 and the true score rose by 0.00 since "
        "step 1: the policy may be exploiting the judge"
    ]
    parts.hosts.is_leader = False  # it may not have the earlier records
    assert step_end._watched(parts, "solver", record) == {}
