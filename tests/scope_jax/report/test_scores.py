"""Scores side by side with intervals, and one task before and after."""

import io
import json

import pytest
from rich.console import Console

from scope_jax.evaluation import before_after
from scope_jax.report import page
from scope_jax.report.comparison import (
    Comparison,
    Side,
    comparison_markdown,
    comparison_table,
)
from scope_jax.report.scores import interval, paired_gain, score_rows, score_table
from tests.scope_jax.report.run_folders import embedded

NAME = "eval/sampled/true_score"
SCORES = {
    "base": {NAME: 0.4733, f"{NAME}_stderr": 0.0158, f"{NAME}_n": 450.0},
    "iter_1": {NAME: 0.573, f"{NAME}_stderr": 0.0158, f"{NAME}_n": 450.0},
}


def side(name, score):
    said = [
        {"role": "user", "content": "Report: [bold]X's y is _."},
        {"role": "assistant", "content": "<think>Look up X.</think>"},
    ]
    return Side(name=name, messages=tuple(said), answer="<b>", true_score=score)


SHOWN = Comparison(
    rule="The first of 4",
    task="Report: [bold]X's y is _.",
    wanted=("X's y is Z.",),
    before=side("base", 1 / 3),
    after=side("iter_2", 1.0),
)


def printed(table):
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()


def test_an_interval_is_two_standard_errors_wide_on_each_side():
    assert interval(SCORES["base"], NAME) == "0.473 ± 0.031"
    assert interval({NAME: 0.25}, NAME) == "0.25"
    assert interval({}, NAME) == "-"


def test_a_bootstrap_interval_is_shown_as_it_is():
    known = {"nq": 0.5, "nq_n": 9.0, "nq_low": 0.25, "nq_high": 0.625}
    assert interval(known, "nq") == "0.500 [0.250, 0.625]"
    assert score_rows({"m": known}) == [("nq", "9", ["0.500 [0.250, 0.625]"])]


def test_rows_say_how_many_tasks_and_show_no_error_alone():
    more = {"base": SCORES["base"] | {"eval/answered": 1.0}, "iter_1": SCORES["iter_1"]}
    part = {f"{NAME}_2_hops": 0.5, f"{NAME}_2_hops_stderr": 0.1, f"{NAME}_2_hops_n": 9}
    more["base"] |= part
    assert score_rows(more) == [
        ("sampled/true_score", "450", ["0.473 ± 0.031", "0.573 ± 0.031"]),
        ("answered", "", ["1", "-"]),
        ("  2 hops", "9", ["0.500 ± 0.196", "-"]),
    ]
    assert "0.573 ± 0.031" in printed(score_table(SCORES, "Solvers"))


def test_before_and_after_are_side_by_side_on_a_terminal():
    lines = printed(comparison_table(SHOWN)).splitlines()
    assert any(
        "base: true score 0.33" in s and "iter_2: true score 1" in s for s in lines
    )
    assert "[bold]X's y is _." in "\n".join(lines)
    assert sum("Look up X" in line for line in lines) == 1


def test_before_and_after_as_a_file_to_read():
    text = comparison_markdown(SHOWN)
    assert text.index("## base: true score 0.33") < text.index(
        "## iter_2: true score 1"
    )
    for part in ("> Report: [bold]X's y is _.", "- X's y is Z.", "Answer: <b>"):
        assert part in text
    assert text.count("    <think>Look up X.</think>") == 2


def test_a_gain_is_taken_task_by_task():
    def record(task, score, greedy=0.5):
        return {"task": task} | {
            mode: {"true_score": value, "messages": []}
            for mode, value in (("sampled", score), ("greedy", greedy))
        }

    before = [record("a", 0.0), record("b", 0.5), record("c", 1.0), record("d", 0.0)]
    after = [record("a", 0.5), record("b", 1.0), record("c", 1.0), record("e", 1.0)]
    gain, half = paired_gain(before, after)["sampled"]
    # of 0.5, 0.5 and 0 (d and e are not one task): mean 1/3, deviation sqrt(1/12)
    assert (gain, half) == (pytest.approx(1 / 3), pytest.approx(1.96 / 6))
    assert paired_gain(before, after)["greedy"] == (0.0, 0.0)
    assert paired_gain(before[:1], after) == {}


@pytest.mark.parametrize("compared", [False, True])
def test_the_report_has_evaluations_and_the_task(tmp_path, compared):
    (tmp_path / "config.json").write_text('{"name": "ci"}')
    folder = tmp_path / "eval" / "small_world"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(SCORES))
    if compared:
        before_after.write(folder, SHOWN)
        assert (folder / "before_after.md").read_text() == comparison_markdown(SHOWN)
    (run,) = embedded(page.build(tmp_path))[0]["runs"]
    (found,) = run["evaluations"]
    assert found["kind"] == "small_world" and found["scores"] == SCORES
    assert found["gains"] == {"iter_1": {}}  # its answers are not there
    if compared:
        assert found["compared"]["after"]["true_score"] == 1.0
    else:
        assert found["compared"] is None


def test_a_metric_that_only_ends_like_a_number_is_shown():
    found = score_rows({"one": {"level_n": 0.5, "x": 1.0, "x_n": 4.0}})
    assert [name for name, _, _ in found] == ["level_n", "x"]
