"""Pairs of stored answers, the data that they become, and the stage that they train."""

import json
import logging
from dataclasses import replace

import jax
import numpy as np
import pytest

import configs
from models.errors import UserError
from rl.learner import checkpoint, preferences
from rl.learner.preferences import PairLossConfig
from rl.records import Datum
from scope_jax.config import CheckpointConfig, PreferenceConfig
from scope_jax.method import prompts
from scope_jax.method.preference import best_and_worst
from scope_jax.run import tracking
from scope_jax.selfplay import preference, trainer
from scope_jax.selfplay.preference import Pair, datums_of, pairs_of, train
from scope_jax.system.files import write_json_lines
from scope_jax.system.stopping import Stopped
from tests.records import comparable
from tests.scope_jax.selfplay.scripted import renderer
from tests.scope_jax.selfplay.test_carry_over import Run
from tests.scope_jax.selfplay.test_rollouts import CALL, GUIDED, play

POP = {"min_spread": 0.001, "max_word_gap": 100}


@pytest.mark.parametrize(
    ("words", "scores", "found"),
    [
        ([5, 5, 5, 5], [0.2, 0.8, 0.0, 0.8], (1, 2, "kept")),
        ([5, 5], [0.5, 0.5], (0, 0, "alike")),
        ([5, 5], [0.5, 0.5019], (1, 0, "alike")),  # deviation 0.00095
        ([5, 5], [0.5, 0.5021], (1, 0, "kept")),
        ([105, 5], [1.0, 0.0], (0, 1, "kept")),
        ([5, 106], [1.0, 0.0], (0, 1, "of other lengths")),
        ([5], [1.0], (0, 0, "alike")),
    ],
)
def test_the_best_stands_against_the_worst_unless_they_are_alike(words, scores, found):
    answers = [" word" * count for count in words]
    assert best_and_worst(answers, scores, **POP) == found


def stored(rollout):
    """As it is read from a file."""
    return json.loads(json.dumps(rollout.json(0.0)))


@pytest.mark.parametrize(
    ("tool_format", "texts"),
    [
        ("search_r1", GUIDED),
        (
            "tool_call",
            (f"<think>\nA\n</think>\n\n{CALL}", "<think>B</think><task>T</task>"),
        ),
    ],
)
def test_what_is_trained_on_is_what_the_run_trained_on(tool_format, texts):
    """Bytes are cut in one way only, so that the ids are those that were sampled."""
    shows = renderer(tool_format)
    rollout, _ = play(shows, texts, tool_format=tool_format, n=len(texts) - 1)
    tools = prompts.load("default", tool_format).tools()
    found = datums_of(shows, tools, stored(rollout))
    assert len(found) == len(rollout.datums) == (1 if shows.append_only else 2)
    for one, own in zip(found, rollout.datums, strict=True):
        assert (one.uid, one.turn, one.ids) == (own.uid, own.turn, own.ids)
        assert one.loss_mask == own.loss_mask and not any(one.sampled_mask)


def test_a_turn_that_was_left_out_of_the_loss_is_left_out_here():
    shows = renderer("search_r1")
    rollout, _ = play(shows, GUIDED)
    record = stored(rollout)
    record["trained"][0]["trained"] = 0
    [datum] = datums_of(shows, None, record)
    [own] = rollout.datums
    first = len(GUIDED[0]) + 2
    assert sum(own.loss_mask) - sum(datum.loss_mask) == first


# ------------------------------------------------------------- a run's rollouts


def record(group, sample, score, answer="the answer", **fields):
    return {
        "uid": f"1/solver/1/{group}/{sample}",
        "messages": [
            {"role": "user", "content": f"Question {group}"},
            {"role": "assistant", "content": f"<answer>{answer}</answer>"},
        ],
        "trained": [{"message": 1, "advantage": 0.0, "tokens": 9, "trained": 9}],
        "trace": {"task_uid": f"1/tasks/1/{group}", "answer": answer},
        "metrics": {"reward/rubric_score": score},
    } | fields


def traced(record, **more):
    return record | {"trace": record["trace"] | more}


def a_run(folder, *records):
    write_json_lines(folder / "rollouts/iter_1/solver/step_0001.jsonl", records)
    return str(folder)


def with_pairs(folder, **fields):
    base = configs.load("ci")
    settings = PreferenceConfig(run=str(folder), **fields)
    return replace(base, recipe="preference", preference=settings)


def test_each_task_of_a_run_gives_a_pair_or_a_reason(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    untrained = [{"message": 1, "advantage": 0.0, "tokens": 9, "trained": 0}]
    records = [
        *(record(0, i, score) for i, score in enumerate((0.5, 1.0, 0.0, 0.0))),
        *(record(1, i, 0.5) for i in range(2)),
        record(2, 0, 1.0, "word " * 103),
        record(2, 1, 0.0),
        record(3, 0, 1.0, "a" * 5000),
        record(3, 1, 0.0),
        record(4, 0, 1.0, trained=untrained),
        record(4, 1, 0.0),
        record(5, 0, 1.0),
        record(5, 1, 0.0, answer=None),  # there is no valid answer
        record(5, 2, 0.0, posed="ncq"),
        traced(record(5, 3, 0.0), branch="discarded: too few grades readable"),
        traced(record(5, 4, 0.0), axpo={"begun_tokens": 3}),
    ]
    config = with_pairs(a_run(tmp_path, *records))
    [pair] = pairs_of(config, renderer("search_r1"), None)
    assert pair.uids == ("1/solver/1/0/1", "1/solver/1/0/2")
    assert (pair.task, pair.scores) == ("1/tasks/1/0", (1.0, 0.0))
    assert "2 alike, 1 not trained on, 1 of other lengths, 1 pairs, 1 too long" in (
        caplog.text
    )


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (None, "has no rollouts of a Solver"),
        ([record(0, 0, 0.5), record(0, 1, 0.5)], r"no pair of answers \(1 alike\)"),
        ([record(0, 0, 1.0, answer="")], r"no pair of answers \(none was scored\)"),
    ],
)
def test_a_run_without_pairs_is_refused_in_one_line(records, said, tmp_path):
    if records is not None:
        a_run(tmp_path, *records)
    with pytest.raises(UserError, match=said) as caught:
        pairs_of(with_pairs(tmp_path), renderer("search_r1"), None)
    assert "\n" not in str(caught.value)


def test_the_recipe_and_its_run_need_each_other():
    base = configs.load("ci")
    with pytest.raises(UserError, match=r"recipe=preference with preference.run=''"):
        replace(base, recipe="preference")
    with pytest.raises(UserError, match=r"recipe=self_play with preference.run='x'"):
        replace(base, preference=PreferenceConfig(run="x"))


def test_a_trace_of_its_steps_is_refused():
    import train as script

    with pytest.raises(UserError, match="--profile 1: the recipe preference traces"):
        script._recipe(with_pairs("x"), 1)


def test_own_code_is_checked_and_pinned_as_in_any_run(tmp_path):
    """Or an evaluation with the same options would be of another configuration."""
    own = tmp_path / "own.py"
    own.write_text("async def search(queries):\n    return [[] for _ in queries]\n")
    pinned = replace(with_pairs("x"), tools=f"{own}:search", tools_hash="0" * 16)
    with pytest.raises(UserError, match=r"has the hash .*, not 0000"):
        preference.run(pinned, tmp_path / "run")


# ------------------------------------------------------------------- the stage


def pair(number):
    rng = np.random.default_rng(number)

    def member(side):
        ids = tuple(int(t) for t in rng.integers(0, 60, 12))
        uid = f"1/solver/1/{number}/{side}"
        mask = (0,) * 5 + (1,) * 7
        given = {"loss_mask": mask, "sampled_mask": (0,) * 12}
        return (Datum(uid=uid, turn=0, ids=ids, logprobs=(0.0,) * 12, **given),)

    uids = (f"1/solver/1/{number}/0", f"1/solver/1/{number}/1")
    members = (member(0), member(1))
    return Pair(task=str(number), uids=uids, scores=(1.0, 0.0), members=members)


PAIRS = [pair(number) for number in range(7)]


class Class(Run):
    """Preference training on seven pairs, two a step, twice: six steps."""

    def __init__(self, path, decoder, weights, monkeypatch, rank=0):
        super().__init__(path, decoder, weights, monkeypatch, rank=rank)
        self.config = replace(
            self.parts.world.config,
            preference=PreferenceConfig(
                epochs=2, pairs_per_step=2, loss=PairLossConfig(beta=0.1)
            ),
            checkpoint=CheckpointConfig(every=2, permanent_every=0),
            compat=replace(self.parts.world.config.compat, micro_batch_mean=True),
        )
        given = (preference._of_pairs(self.config), self.folder)
        base = self.trainer._base
        made = trainer.Trainer(*given, base, weights, plays=False)
        assert made.updater("solver").loss == preferences.SUM
        self.trainer = made

    def train(self, pairs=PAIRS):
        train(self.config, self.folder, self.tracker, self.trainer, pairs)

    def result(self):
        exported = self.exported[self.folder.export(1, "solver")]
        records = [comparable(record) for record in self.tracker.records]
        return records, jax.tree.leaves(exported)


@pytest.fixture(scope="module", params=[0, 2], ids=["full", "rank2"])
def whole(request, tiny_config, tiny_params, tmp_path_factory):
    """A stage that nothing has stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        made = Class(path, tiny_config, tiny_params, patch, rank=request.param)
    made.train()
    return made


def test_a_stage_that_is_stopped_goes_on_bit_for_bit(
    whole, tiny_config, tiny_params, tmp_path, monkeypatch
):
    """Before the fourth step: what is done is saved, though no checkpoint is due."""
    made = Class(tmp_path, tiny_config, tiny_params, monkeypatch, whole.rank)

    def check():
        if len(made.tracker.records) == 3:
            raise Stopped("stopped by SIGINT", 130)

    with monkeypatch.context() as patch:
        patch.setattr(preference.stopping, "check", check)
        with pytest.raises(Stopped):
            made.train()
    assert checkpoint.latest(made.folder.checkpoints(1, "solver")) == 3
    with pytest.raises(UserError, match=r"pairs\.jsonl: has other pairs"):
        made.train(PAIRS[::-1])
    made.train()
    records, exported = made.result()
    expected, weights = whole.result()
    assert records == expected and len(records) == 6
    for one, another in zip(exported, weights, strict=True):
        np.testing.assert_array_equal(one, another)
    assert made.folder.stage("iter_1/solver")["status"] == "done"


def test_the_policy_begins_as_its_reference_and_learns_the_pairs(whole):
    found = tracking.read(whole.folder.path)
    # Exactly, in the update's own batches.
    assert found[0]["loss/total"] == pytest.approx(np.log(2), abs=1e-12)
    # In the second epoch all pairs but one have been seen.
    again = found[3:]
    assert sum(one["loss/total"] for one in again) / 3 < np.log(2)
    assert sum(one["preference/accuracy"] for one in again) / 3 > 0.5
    assert found[-1]["loss/updates"] == 1
    rows = (whole.folder.path / "pairs.jsonl").read_text().splitlines()
    assert len(rows) == 7 and json.loads(rows[0])["uids"] == list(PAIRS[0].uids)
