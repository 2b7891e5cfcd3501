"""From rewarded rollouts to what is trained on, and a step's numbers."""

import dataclasses
import json
import math

import pytest

from rl.learner.update import NonFiniteUpdateError
from rl.records import Datum
from scope_jax.selfplay.metering import step_metrics
from scope_jax.selfplay.training import stopped, with_advantages
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
