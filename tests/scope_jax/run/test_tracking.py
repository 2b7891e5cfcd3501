"""Metrics survive an interruption; tables and bars say what was measured."""

import io
import json
import logging
import shutil
import struct

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from models.errors import DamagedError
from scope_jax.config import TrackingConfig
from scope_jax.report.tables import stage_table, table_rows
from scope_jax.run import records, tracking
from scope_jax.run.tracking import Tracker, read
from tests.records import comparable

QUIET = TrackingConfig(tensorboard=False)


def steps(tracker, iteration, stage, numbers):
    for step in numbers:
        tracker.log(
            {"reward/mean": step / 10, "loss/policy": -step, "perf/tokens_per_s": 7.0},
            iteration=iteration,
            stage=stage,
            step=step,
        )


def test_records_are_flushed_line_by_line(tmp_path):
    with Tracker(tmp_path, QUIET) as tracker:
        steps(tracker, 1, "challenger", [1, 2])
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["reward/mean"] == 0.2


def test_an_interrupted_run_has_the_records_of_an_uninterrupted_one(tmp_path):
    with Tracker(tmp_path / "whole", QUIET) as whole:
        steps(whole, 1, "challenger", [1, 2, 3, 4])
        steps(whole, 1, "solver", [1, 2])
    with Tracker(tmp_path / "cut", QUIET) as first:
        steps(first, 1, "challenger", [1, 2, 3])
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 1, "stage": "challenger", "st')
    with Tracker(tmp_path / "cut", QUIET) as second:
        second.rewind(1, "challenger", 2)
        steps(second, 1, "challenger", [3, 4])
        steps(second, 1, "solver", [1, 2])
    expected = [comparable(r) for r in read(tmp_path / "whole")]
    assert [comparable(r) for r in read(tmp_path / "cut")] == expected


def positions(run):
    return [(r["iteration"], r["stage"], r["step"]) for r in read(run)]


def test_a_stage_made_again_leaves_the_records_of_finished_later_ones(tmp_path):
    """As after a lost manifest, or a checkpoint that is damaged."""
    with Tracker(tmp_path / "whole", QUIET) as tracker:
        steps(tracker, 1, "challenger", [1, 2])
        steps(tracker, 1, "tasks", [1, 2])
        steps(tracker, 1, "solver", [1])
        steps(tracker, 2, "challenger", [3])
    expected = positions(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    with Tracker(tmp_path / "run", QUIET) as tracker:
        tracker.rewind(1, "tasks", 0)
        assert len(tracker.records) == 4
        steps(tracker, 1, "tasks", [1, 2])
    assert positions(tmp_path / "run") == expected


def broken(run, number, change):
    """Changes line ``number`` of the metrics; returns the whole file."""
    file = run / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n")
    lines[number - 1] = change(lines[number - 1])
    file.write_bytes(b"\n".join(lines))
    return file.read_bytes()


def other_digit(line):
    """As a flipped bit leaves it: JSON as before, with another number."""
    return line.replace(b'"reward/mean": 0.2', b'"reward/mean": 0.3')


@pytest.mark.parametrize(
    "damage", [other_digit, lambda line: line[:9], lambda line: b"\0" * len(line)]
)
def test_a_damaged_line_is_named_and_nothing_is_rewritten(tmp_path, damage):
    with Tracker(tmp_path, QUIET) as tracker:
        steps(tracker, 1, "solver", list(range(1, 13)))
    found = broken(tmp_path, 2, damage)
    with pytest.raises(DamagedError, match=r"metrics\.jsonl:2: .*remove the line"):
        Tracker(tmp_path, QUIET)
    assert (tmp_path / "metrics.jsonl").read_bytes() == found
    # The remedy works.
    (tmp_path / "metrics.jsonl").write_bytes(
        b"\n".join(line for n, line in enumerate(found.split(b"\n"), 1) if n != 2)
    )
    with Tracker(tmp_path, QUIET) as tracker:
        assert [r["step"] for r in tracker.records] == [1, *range(3, 13)]


def test_no_damage_of_a_single_line_makes_it_one_of_an_older_version(tmp_path):
    """Or it would be believed, and get a checksum of its own over the wrong value."""
    with Tracker(tmp_path, QUIET) as tracker:
        steps(tracker, 1, "solver", [2])
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    cases = [whole.replace(b'"reward/mean": 0.2', b'"reward/mean": 0.3')]
    for place in range(len(whole) - 1):
        flipped = bytes([whole[place] ^ 1])
        cases.append(whole[:place] + flipped + whole[place + 1 :])
    for damaged in cases:
        file.write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"metrics\.jsonl:1: damaged"):
            Tracker(tmp_path, QUIET)
        assert file.read_bytes() == damaged
        assert records.readable(file)[0] == []


def test_a_last_line_without_its_line_break_takes_no_other_with_it(tmp_path):
    """As an editor leaves it, or a loss of power."""
    with Tracker(tmp_path, QUIET) as tracker:
        steps(tracker, 1, "solver", [1, 2])
    file = tmp_path / "metrics.jsonl"
    file.write_bytes((whole := file.read_bytes()).removesuffix(b"\n"))
    with Tracker(tmp_path, QUIET) as tracker:
        assert file.read_bytes() == whole
        steps(tracker, 1, "solver", [3])
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3]


def test_a_copy_is_kept_before_lines_are_dropped(tmp_path):
    with Tracker(tmp_path, QUIET) as tracker:
        steps(tracker, 1, "solver", [1, 2, 3])
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(before := file.read_bytes() + b'{"iteration": 1, "st')
    with Tracker(tmp_path, QUIET) as tracker:
        tracker.rewind(1, "solver", 1)
    assert (tmp_path / "metrics.jsonl.before").read_bytes() == before
    assert len(read(tmp_path)) == 1


def test_goodput_is_the_share_of_time_in_steps_that_count(tmp_path, monkeypatch):
    """Steps of 10 s; the run starts for 5 s, is killed in step 3 and started again."""
    clock = [1000.0]
    monkeypatch.setattr(tracking.time, "time", lambda: clock[0])

    def step(tracker, number):
        clock[0] += 10
        times = {"time/rollout": 7.0, "time/update": 3.0}
        tracker.log(times, iteration=1, stage="solver", step=number)
        return tracker.records[-1]["perf/goodput"]

    clock[0] += 5
    with Tracker(tmp_path, QUIET, began=1000.0) as tracker:
        assert step(tracker, 1) == pytest.approx(10 / 15)
        assert step(tracker, 2) == pytest.approx(20 / 25)
    clock[0] += 25
    with Tracker(tmp_path, QUIET, began=1000.0) as tracker:
        tracker.rewind(1, "solver", 1)
        assert step(tracker, 2) == pytest.approx(20 / 60)


def test_lines_of_older_versions_are_read_and_get_checksums(tmp_path):
    old = {"iteration": 1, "stage": "solver", "step": 1, "reward/mean": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    with Tracker(tmp_path, QUIET) as tracker:
        assert tracker.records == [old]
    assert b'"checksum": "' in (tmp_path / "metrics.jsonl").read_bytes()
    assert read(tmp_path) == [old]


def test_curves_whose_metrics_are_gone_are_kept(tmp_path):
    with Tracker(tmp_path) as tracker:
        steps(tracker, 1, "challenger", [1, 2])
    (tmp_path / "metrics.jsonl").unlink()
    with Tracker(tmp_path) as tracker:
        steps(tracker, 1, "challenger", [3])
    kept = scalars(tmp_path / "tb.before" / "challenger", "reward/mean")
    assert kept == pytest.approx({1: 0.1, 2: 0.2})


def test_numbers_that_json_lacks_become_null(tmp_path):
    with Tracker(tmp_path, QUIET) as tracker:
        metrics = {"judge/score": float("nan"), "loss/kl": float("inf")}
        tracker.log(metrics, iteration=1, stage="solver", step=1)
    (record,) = read(tmp_path)
    assert record["judge/score"] is None
    assert record["loss/kl"] is None


def scalars(folder, tag):
    """Step -> value of a tag in a folder's event files (length-prefixed records)."""
    found = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                if value.tag == tag:
                    assert event.step not in found
                    found[event.step] = value.simple_value
    return found


def test_tensorboard_holds_each_step_once_after_a_restart(tmp_path):
    with Tracker(tmp_path) as tracker:
        steps(tracker, 1, "challenger", [1, 2, 3])
    with Tracker(tmp_path) as tracker:
        tracker.rewind(1, "challenger", 1)
        steps(tracker, 1, "challenger", [2])
    found = scalars(tmp_path / "tb" / "challenger", "reward/mean")
    assert found == pytest.approx({1: 0.1, 2: 0.2})


def test_a_stage_table_shows_first_last_and_mean():
    records = [
        {"iteration": 1, "stage": "solver", "step": i, "reward/mean": r, "loss/max": 9}
        for i, r in enumerate([0.25, 0.5, 1.5], 1)
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(stage_table(records, "iteration 1: solver"))
    text = console.export_text()
    assert "iteration 1: solver" in text
    row = next(line for line in text.splitlines() if "reward/mean" in line)
    assert [x.strip() for x in row.split("│")[2:5]] == ["0.25", "1.5", "0.75"]
    assert "loss/max" not in text


def test_a_step_without_an_error_counts_as_none_in_the_stage_table():
    """An error that did not occur has no metric; a score that is missing has no value.

    Seen in the table: an error of two steps in four is no error per step in two.
    """
    counts, scores = (None, 3.0, 1.0, None), (0.5, None, 1.0, None)
    records = [
        {"step": i}
        | ({} if count is None else {"errors/empty_task": count})
        | ({} if score is None else {"reward/rubric_score": score})
        for i, (count, score) in enumerate(zip(counts, scores, strict=True), 1)
    ]
    assert list(table_rows(records)) == [
        ("reward/rubric_score", 0.5, None, 0.75),  # not that of another step
        ("errors/empty_task", 0.0, 0.0, 1.0),
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(stage_table(records, "one"))
    row = next(x for x in console.export_text().splitlines() if "rubric_score" in x)
    assert [x.strip() for x in row.split("│")[2:5]] == ["0.5", "-", "0.75"]


def test_without_a_terminal_each_step_is_one_log_line(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="scope_jax")
    tracker = Tracker(tmp_path, QUIET)
    with tracker.stage(1, "solver", total=2) as progress:
        progress.inside("rollouts", 1, 4)
        metrics = {"reward/mean": 0.75, "reward/format": 1.0, "loss/kl": 3.0}
        metrics["eval/sampled/true_score"] = 0.5
        progress.advance(metrics | {"perf/tokens_per_second": 1234.5})
    (line,) = [r.getMessage() for r in caplog.records]
    start = "iteration 1 solver 1/2  reward 0.75  format 1  held-out 0.5  1,234"
    assert line == f"{start} tokens/s  0:00 left of this stage"


def test_on_a_terminal_a_screen_takes_the_place_of_the_lines(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, logger="scope_jax")
    shown = Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    monkeypatch.setattr(tracking, "console", shown)
    tracker = Tracker(tmp_path, QUIET)
    with tracker.stage(1, "solver", total=2, done=1) as progress:
        progress.inside("rollouts", 1, 4)
        tracker.log({"reward/mean": 0.75}, iteration=1, stage="solver", step=2)
        progress.advance({"reward/mean": 0.75})
    text = shown.export_text()
    assert "step 2/2" in text and "reward" in text and "0.75" in text
    assert not caplog.records


def test_what_has_no_steps_has_a_bar_on_a_terminal_only(tmp_path, monkeypatch):
    shown = Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    monkeypatch.setattr(tracking, "console", shown)
    tracker = Tracker(tmp_path, QUIET)
    with tracker.waiting("compiling"):
        pass
    assert "compiling" in shown.export_text()
    monkeypatch.setattr(tracking, "console", Console(file=(file := io.StringIO())))
    with tracker.waiting("compiling"):
        pass
    assert file.getvalue() == ""
