"""Metrics of rubrics by hand, and what is the same rubric."""

import math
from dataclasses import replace

import numpy as np
import pytest

from scope_jax.method.judge import parse_rubrics, without_duplicates
from scope_jax.method.rubric_quality import quality
from scope_jax.method.types import Rubric
from tests.scope_jax.selfplay.task_players import create, judge, small

RUBRICS = [Rubric("Names the river."), Rubric("Names it."), Rubric("names  river")]


def test_three_answers_on_three_rubrics_by_hand():
    """Columns 1 0 1, 1 1 0, 1 1 1: variances 2/9, 2/9, 0; the third differs nowhere.

    The first against the mean of the others (1, 1, 1/2): -1/2. The second against
    (1, 1/2, 1): -1/2.
    """
    grades = [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]
    found = quality(RUBRICS, [*grades, None, [1.0, None, 0.0], []])
    assert found == {
        "duplicates": pytest.approx(1 / 3),
        "spread": pytest.approx(4 / 27),
        "agreement": pytest.approx(-0.5),
    }


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_the_correlation_with_the_other_rubrics(seed):
    grades = np.random.default_rng(seed).integers(0, 2, (8, 3)).astype(float)
    found = quality(RUBRICS, grades.tolist())["agreement"]
    expected = []
    for own in range(3):
        x, y = grades[:, own], np.delete(grades, own, 1).mean(1)
        cov = ((x - x.mean()) * (y - y.mean())).mean()
        expected.append(cov / (x.std() * y.std()))
    assert found == pytest.approx(np.mean(expected))


def test_one_answer_says_nothing():
    found = quality(RUBRICS, [[1.0, 0.0, 1.0], None])
    assert math.isnan(found["spread"]) and math.isnan(found["agreement"])


def written(*texts):
    lines = (f'<rubric evidence="{i}">{text}</rubric>' for i, text in enumerate(texts))
    return parse_rubrics(f"<rubrics>{''.join(lines)}</rubrics>")


def test_a_repeated_rubric_is_left_out_with_its_evidence():
    found = without_duplicates(written("A b.", "a  B", "C.", "the a b!", "D."))
    assert [rubric.text for rubric in found.rubrics] == ["A b.", "C.", "D."]
    assert found.valid and found.evidence == ("0", "2", "4")
    few = without_duplicates(written("A.", "a", "B."))
    assert not few.valid and few.errors == ("too few different rubrics",)


def repeating(stem, text, retry):
    if stem != "rubric":
        return judge(stem, text, retry)
    lines = [f"<rubric>Names fact {i}.</rubric>" for i in (1, 2, 3, 4, 1)]
    return f"<rubrics>{''.join(lines)}</rubrics>"


def test_in_task_creation_duplicates_are_counted_and_dropped_where_asked(tmp_path):
    config = small(max_batches=1)
    (kept, _, [record, *_]), _ = create(tmp_path, config, judge=repeating)
    assert kept and {len(task.rubrics) for task in kept} == {5}
    assert record["rubrics/duplicates"] == pytest.approx(0.2)
    assert (
        0 < record["rubrics/spread"] <= 0.25 and -1 <= record["rubrics/agreement"] <= 1
    )
    strict = replace(config, judge=replace(config.judge, drop_duplicates=True))
    (kept, _, [record, *_]), _ = create(tmp_path / "2", strict, judge=repeating)
    assert kept and {len(task.rubrics) for task in kept} == {4}
    assert record["rubrics/duplicates"] == 0
