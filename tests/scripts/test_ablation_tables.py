"""Means over seeds with their intervals; the figure; the speed board's rules."""

import math
import shutil
from pathlib import Path

import pytest

from ablation import board, collect, methods, summaries, swaps
from ablation.arms import METHODS, PARTS
from models.errors import UserError
from tests.scripts.ablation_runs import summary_of


def test_intervals_are_students():
    mean, half = collect.interval([0.6, 0.7, 0.8])
    assert mean == pytest.approx(0.7)
    assert half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert math.isnan(collect.interval([0.6])[1])


def test_cells_name_the_interval_where_there_is_one():
    assert collect.cell([0.6, 0.7, 0.8, None]) == "0.700 ± 0.248"
    assert collect.cell([0.6]) == "0.600"
    assert collect.cell([0.1], sign=True) == "+0.100"
    assert collect.cell([12.34]) == "12.3"
    assert collect.cell([None]) == "-"


def test_differences_are_paired_by_seed():
    full = [summary_of("full", s, (0.4, 0.5, 0.6 + s / 10)) for s in (1, 2)]
    other = [summary_of("none", s, (0.4, 0.5, 0.5 + s / 10)) for s in (1, 2, 3)]
    value = collect.against(full, collect.score("iter_2", "sampled"))
    assert [value(one) for one in other] == [pytest.approx(-0.1)] * 2 + [None]
    assert collect.gain("sampled")(full[0]) == pytest.approx(0.3)


def test_the_page_has_every_arm_and_only_what_is_known(tmp_path):
    kept = tmp_path / "runs"
    for arm in PARTS:
        for seed in (1, 2):
            one = summary_of(arm, seed, (0.4, 0.5, 0.6 + seed / 100))
            summaries.save(one, kept / f"{arm}_{seed}.json")
    found = summaries.read_all(kept)
    page, figure = collect.write(found, kept)
    text = page.read_text()
    assert text.count("| `full` | 2 |") == text.count("| `none` | 2 |") >= 4
    assert "## Truth at the end of iteration 2, solver" in text
    assert "0.615 ± 0.064" in text and "nan" not in text
    assert "Answer length" in text and "tokens |" not in text
    drawn = figure.read_text()
    for arm in PARTS:
        assert f">{arm}</text>" in drawn
    assert drawn.count("<polyline") == len(PARTS)
    assert drawn.count("stroke-opacity") == 3 * len(PARTS)
    before = text, drawn
    collect.write(list(reversed(found)), kept)
    assert (page.read_text(), figure.read_text()) == before


def test_methods_are_compared_at_the_tokens_that_they_sampled(tmp_path):
    kept = tmp_path / "methods"
    for arm, more in (("default", 0), ("zppo", 0.02)):
        for seed in (1, 2):
            one = summary_of(arm, seed, (0.4, 0.6 + seed / 100 + more))
            tokens = {"rollout": 20_000.0 * seed, "judge": 5_000.0}
            summaries.save(
                one | {"sampled_tokens": tokens}, kept / f"{arm}_{seed}.json"
            )
    [page] = methods.write(summaries.read_all(kept), kept)
    text = page.read_text()
    assert "| `zppo` | 2 | 0.400 ± 0.000 | 0.635 ± 0.064 | +0.020 ± 0.000 |" in text
    assert "| arm | seeds | Solver steps | judge | rollout | together |" in text
    assert "| `default` | 2 | 8.000 ± 0.000 | 5.000 ± 0.000 | 30.0 ± 127.1 |" in text
    assert f"- `zppo`: {METHODS['zppo'].about}" in text and "`nft`" not in text
    summaries.save(summary_of("full", 1), kept / "full_1.json")
    with pytest.raises(UserError, match="full is no arm of this study"):
        methods.write(summaries.read_all(kept), kept)
    with pytest.raises(UserError, match="holds no summary"):
        methods.write([], kept)


def test_no_summary_and_a_broken_one_are_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no summary"):
        collect.write([], tmp_path / "runs")
    (tmp_path / "x.json").write_text('{"arm": "full"}')
    with pytest.raises(UserError, match=r"x\.json: is no summary"):
        summaries.read_all(tmp_path)


def test_a_row_has_the_median_of_what_each_seed_needed():
    three = [
        summary_of("full", 1, (0.4, 0.6, 0.66)),
        summary_of("full", 2, (0.4, 0.65, 0.7)),
        summary_of("full", 3, (0.4, 0.5, 0.6)),
    ]
    assert [board.seconds(one) for one in three] == [200, 100, math.inf]
    row = board.row(three)
    assert row == "| 200 | 200, 100, not reached | abc1234 | `tiny` |"
    slow = [summary_of("full", s, (0.4, 0.5, 0.6)) for s in (1, 2, 3)]
    assert board.row(slow).startswith("| not reached | not reached, not")


def test_a_row_is_refused_that_was_not_measured_by_the_rules():
    with pytest.raises(UserError, match="3 runs: 1 are here"):
        board.row([summary_of("full", 1)])
    with pytest.raises(UserError, match="on 450 tasks"):
        board.seconds(summary_of("full", 1, n=150))
    with pytest.raises(UserError, match="was interrupted"):
        board.seconds(summary_of("full", 1, until=(None, None)))


def test_swaps_are_a_table():
    row = {"searches": "iter_3", "answers": "iter_1", "score": 0.6, "stderr": 0.01}
    row |= {"gain": 0.05, "gain_stderr": 0.02, "unfinished": 0.12, "n": 450}
    last = swaps.table({"sampled": [row]}).splitlines()[-1]
    assert last == (
        "| sampled | iter_3 | iter_1 | 0.600 ± 0.020 | +0.050 ± 0.039 | 12% | 450 |"
    )


def test_the_page_in_docs_is_made_from_the_summaries_beside_it(tmp_path):
    docs = Path(__file__).parents[2] / "docs" / "small_world"
    shutil.copytree(docs / "runs", tmp_path / "runs")
    found = summaries.read_all(tmp_path / "runs")
    collect.write(found, tmp_path / "runs")
    assert "## Replay swaps" in (tmp_path / "ablations.md").read_text()
    for name in ("ablations.md", "ablations.svg"):
        assert (tmp_path / name).read_bytes() == (docs / name).read_bytes(), name
