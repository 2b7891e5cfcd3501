"""The truth reaches metrics, traces and people, and nothing that is trained on."""

import asyncio
import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import configs
from rl.records import Datum
from scope_jax.run.folder import RunFolder
from scope_jax.run.tracking import Tracker, TrackingConfig
from scope_jax.selfplay import tasks as task_creation
from scope_jax.selfplay.estimates import with_advantages
from scope_jax.selfplay.metering import StepMeter
from scope_jax.selfplay.parts import Parts
from scope_jax.selfplay.training import TrainingStage, train
from scope_jax.selfplay.truth_metrics import with_truth
from scope_jax.small_world.tasks import heldout_tasks, rubric_text
from scope_jax.small_world.world import generate
from scope_jax.system.hosts import ONE_HOST
from tests.records import comparable
from tests.scope_jax.method.rewarded import challenger_reward, solver_reward, thought
from tests.scope_jax.selfplay.scripted import empty_rollout
from tests.scope_jax.selfplay.task_players import TaskPlayers, result, small

TASK = heldout_tasks(1, seed=3)[0]
RUBRICS = [rubric_text(fact) for fact in TASK.facts]
STATED = " ".join(fact.sentence() for fact in TASK.facts[:2])


def solver_rollout(uid, reward, answer=STATED, group=0):
    """Graded 1, 1, 1 by a generous judge."""
    datum = Datum(
        uid=uid,
        turn=0,
        ids=(1, 2),
        loss_mask=(0, 1),
        sampled_mask=(0, 1),
        logprobs=(0.0, -1.0),
    )
    grades = [{"score": 1.0, "raw": "yes"}] * 3 if answer else []
    return replace(
        empty_rollout((42, *uid.split("/"))),
        group=group,
        role="solver",
        datums=(datum,),
        reward=reward,
        trace={
            "task": TASK.text,
            "answer": answer,
            "rubrics": RUBRICS,
            "judge": grades,
            "why": ["reward"],
        },
    )


def challenger_rollout(task, *, document, rubrics=(), answers=()):
    return replace(
        empty_rollout((42, 1, "challenger", 1, 0, 0)),
        role="challenger",
        reward=0.5,
        trace={
            "task": task,
            "document": document,
            "rubrics": list(rubrics),
            "attempts": [{"answer": answer} for answer in answers],
        },
    )


def test_a_solver_s_step_by_hand():
    rollouts = [solver_rollout("1/s/1/0/0", 0.9), solver_rollout("1/s/1/0/1", 0.1, "")]
    shown, found = with_truth(generate(), rollouts)
    assert found == pytest.approx(
        {
            "truth/score": 1 / 3,
            "truth/unanswerable": 0.0,
            "truth/reward_correlation": 1.0,
            "truth/answer_sentences": 2.0,
            "truth/grades_right": 2 / 3,
            "truth/grades_right_met": 1.0,
            "truth/grades_right_absent": 0.0,
        }
    )
    told = shown[0].json(0.0)["trace"]["truth"]
    assert told["score"] == pytest.approx(2 / 3)
    assert told["why"][-2:] == [
        "rubric 3: absent, so its grade is wrong",
        "true score 0.6667",
    ]


def test_a_challenger_s_step_by_hand():
    """One task of three good blanks, one of nothing, one rollout without a task."""
    title = TASK.subjects[0].name
    good = challenger_rollout(
        TASK.text, document=title, rubrics=RUBRICS, answers=[STATED, ""]
    )
    lost = challenger_rollout(f"Say: {title}'s nose is _.", document="Elsewhere")
    none = challenger_rollout("", document=title)
    shown, found = with_truth(generate(), [good, lost, none])
    assert found == pytest.approx(
        {
            "truth/impossible": 1 / 4,
            "truth/vague": 0.0,
            "truth/repeated": 0.0,
            "truth/answerable": 1 / 2,
            "truth/blanks": 2.0,
            "truth/hops": 1.0,
            "truth/described": 0.0,
            "truth/off_document": 1 / 2,
            "truth/rubrics_true": 1.0,
            "truth/rubrics_generic": 0.0,
            "truth/difficulty": 1 / 3,
        }
    )
    assert shown[1].trace["truth"]["why"][0] == "blank 1: impossible"
    assert "truth" not in shown[2].trace


def test_where_nothing_is_known_nothing_is_measured():
    rollouts = [solver_rollout("1/s/1/0/0", 0.9)]
    assert with_truth(None, rollouts) == (rollouts, {})
    assert with_truth(generate(), []) == ([], {})


def test_traces_of_real_rewards_have_all_that_the_truth_needs():
    """Whatever came of a rollout: no format, no rubrics, no grades."""
    made = {
        "challenger": [challenger_reward(), challenger_reward(texts=["bye", "bye"])],
        "solver": [
            solver_reward(),
            solver_reward(texts=["x"]),
            solver_reward(target="a b c"),
        ],
    }
    traces = {role: [reward.trace for reward, _ in made[role]] for role in made}
    for role, found in traces.items():
        rollouts = [
            replace(empty_rollout((42, n)), role=role, reward=0.0, trace=trace)
            for n, trace in enumerate(found)
        ]
        _, metrics = with_truth(generate(), rollouts)
        assert metrics
    assert traces["challenger"][0]["document"] == "Bern"


def test_a_grade_of_a_cut_answer_is_of_what_was_left_of_it():
    words = "a b c d e f g h i j k l m n o p"
    lengths = configs.load("qwen25_7b").solver.length
    lengths = replace(lengths, soft=2, hard=20)
    trace = solver_reward(texts=[thought(f"<answer>{words}</answer>")], lengths=lengths)
    assert trace[0].trace["graded"] == words[:20]
    assert "graded" not in solver_reward()[0].trace


def step(path, truth):
    """What one step of Solver training updates with, and what it leaves behind."""
    config = replace(configs.load("ci"), tracking=TrackingConfig(tensorboard=False))
    stage = replace(config.solver_train, steps=1, prompts_per_step=2, group_size=3)
    trained = []

    def update(role, state, datums):
        trained.extend(datums)
        return state, {"loss/updates": 0.0}

    async def no_work():
        return {}

    async def play(prompt, seed):
        rng = np.random.default_rng([ord(prompt), seed[-1]])
        uid = "/".join(map(str, seed[1:]))
        answer = " ".join(f.sentence() for f in TASK.facts[: rng.integers(4)])
        return solver_rollout(uid, float(rng.random()), answer)

    work = SimpleNamespace(run=asyncio.run, work=no_work)
    folder = RunFolder(path, config)
    with Tracker(path, config.tracking) as tracker:
        parts = Parts(
            folder=folder,
            tracker=tracker,
            hosts=ONE_HOST,
            world=SimpleNamespace(config=config, truth=truth),
            serving=work,
            trainer=SimpleNamespace(
                stage_config=lambda role: stage,
                memory={},
                begin=lambda iteration, role: (None, 0),
                update=update,
                save=lambda *_: None,
                finish=lambda *_: None,
            ),
            meter=StepMeter(work, work, ONE_HOST),
        )
        train(parts, 1, TrainingStage("solver", lambda step: ["a", "b"], play))
        [record] = tracker.records
    folder.close()
    lines = folder.rollouts(1, "solver", 1).read_text().splitlines()
    return trained, comparable(record), [json.loads(line) for line in lines]


def test_training_is_the_same_to_the_bit_without_the_truth(tmp_path):
    """What is updated with, and every stored number and word but those of the truth."""
    blind, usual, plain = step(tmp_path / "without", None)
    trained, record, rollouts = step(tmp_path / "with", generate())
    assert trained == blind and any(datum.advantage for datum in trained)
    true = {name: record.pop(name) for name in [*record] if name.startswith("truth/")}
    del record["alarm/reward_hacking"]  # it compares with the truth
    assert record == usual and {"truth/score", "truth/reward_correlation"} <= set(true)
    assert all(rollout["trace"].pop("truth") for rollout in rollouts)
    assert json.dumps(rollouts) == json.dumps(plain)


def test_the_rollouts_that_are_trained_on_are_not_touched():
    rollouts = [solver_rollout("1/s/1/0/0", 0.9), solver_rollout("1/s/1/0/1", 0.1, "")]
    before = copy.deepcopy(rollouts)
    shown, _ = with_truth(generate(), rollouts)
    assert rollouts == before
    assert with_advantages(shown) == with_advantages(rollouts)


class Towns(TaskPlayers):
    """Task creation over a world whose facts the test may know."""

    def __init__(self, folder, truth):
        super().__init__(folder, small())
        self.truth = truth


def test_task_creation_is_the_same_without_the_truth(tmp_path):
    found = {}
    for name, truth in (("without", None), ("with", generate())):
        players = Towns(tmp_path / name / "run", truth)
        task_creation.create_tasks(players.parts(), 1)
        players.folder.close()
        tasks, files, metrics = result(players)
        records = [json.loads(line) for text in files for line in text.splitlines()]
        found[name] = tasks, records, metrics
    tasks, records, metrics = found["with"]
    known = [
        {name: one.pop(name) for name in [*one] if name.startswith("truth/")}
        for one in metrics
    ]
    for record in records:
        assert ("truth" in record) == (record["outcome"] != "bad_format")
        record.pop("truth", None)
    assert (tasks, records, metrics) == found["without"]
    # The scripted tasks have no blank, and there is no such town.
    for one in known:
        assert one["truth/written/blanks"] == one["truth/written/answerable"] == 0
        assert one["truth/kept/rubrics_true"] == 0
        assert one["truth/kept/rubrics_generic"] == 1
