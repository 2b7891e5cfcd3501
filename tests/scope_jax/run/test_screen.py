"""The screen of a run: right at every width, honest about the time that is left."""

import io
import logging

import pytest
from rich.console import Console

from scope_jax.report.comparison import Comparison, Side, comparison_table
from scope_jax.run import progress, tracking
from scope_jax.run.screen import LastWarning, Screen, State


def record(iteration, stage, step, unix, **metrics):
    return {"iteration": iteration, "stage": stage, "step": step, "time/unix": unix} | {
        name.replace("__", "/"): value for name, value in metrics.items()
    }


RECORDS = [
    record(1, "challenger", 1, 110, reward__mean=0.5),
    record(1, "challenger", 2, 120, reward__mean=0.6),
    record(1, "tasks", 1, 150),
    *(
        record(
            1,
            "solver",
            step,
            150 + 10 * step,
            reward__mean=step / 10,
            reward__accuracy=0.25,
            truth__score=0.5,
            rollout__ran_searches=2.0,
            perf__tokens_per_second=1234.0,
            perf__judge_busy_share=0.42,
        )
        for step in (1, 2, 3)
    ),
]


def state(**changes):
    warning = LastWarning()
    state = State(
        name="tiny",
        iteration=1,
        iterations=2,
        stage="solver",
        total=7,
        done=3,
        began=80.0,
        records=lambda: RECORDS,
        warning=warning,
        times=[150.0, 160.0, 170.0, 180.0],
        inner=("rollouts rewarded", 34, 128),
    )
    for name, value in changes.items():
        setattr(state, name, value)
    return state


def drawn(screen, width, **options):
    console = Console(width=width, file=io.StringIO(), **options)
    console.print(screen)
    return console.file.getvalue()


def test_it_shows_where_the_run_is_and_the_numbers_that_matter():
    shown = state()
    text = "the judge may be exploited: the proxy rose by 0.2 and the truth did not"
    shown.warning.emit(logging.LogRecord("x", 30, "", 1, text, None, None))
    lines = drawn(Screen(shown, lambda: 180.0), 60).splitlines()
    lines[-1] = lines[-1].replace(lines[-1][2:11], "")  # the time of day
    assert lines[0] == "tiny  iteration 1/2  Challenger > tasks > Solver"
    assert lines[1] == "1:40, 0:40 left of this stage"
    assert lines[2].startswith("step 3/7 ━") and lines[2].endswith(" 42%")
    assert lines[3].startswith("  rollouts rewarded 34/128 ━")
    assert lines[4] == "reward               0.3  ▁▅█"
    assert lines[5] == "accuracy            0.25  ▄▄▄"
    assert lines[6].startswith("true score") and lines[7].startswith("searches")
    assert lines[8] == "1,234 tokens/s  engines busy: judge 42%"
    assert lines[9].startswith("! the judge may be") and lines[9].endswith("…")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160])
@pytest.mark.parametrize("stage", ["challenger", "tasks", "solver", "evaluation"])
def test_no_line_is_wider_than_the_terminal_and_none_is_lost(width, stage):
    shown = state(stage=stage, name="a run with a rather long name")
    shown.warning.emit(logging.LogRecord("x", 30, "", 1, "w" * 300, None, None))
    screen = Screen(shown, lambda: 200.0)
    lines = drawn(screen, width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert 4 <= len(lines) <= 14
    if width >= 60:
        assert "3/7" in "\n".join(lines) and "! " in lines[-1]


def test_a_wide_terminal_has_two_columns_of_numbers():
    narrow, wide = (drawn(Screen(state(), lambda: 1.0), w) for w in (80, 100))
    assert len(narrow.splitlines()) == len(wide.splitlines()) + 2
    line = next(line for line in wide.splitlines() if line.startswith("reward"))
    assert "accuracy" in line


def test_scores_on_held_out_tasks_stand_beside_the_first_ones():
    scores = {"eval__sampled__true_score": 0.7, "eval__sampled__true_score_stderr": 0.1}
    first = {"eval__sampled__true_score": 0.44}
    found = [
        record(1, "evaluation", 1, 1, **first),
        record(1, "evaluation", 2, 2, **scores),
    ]
    text = drawn(Screen(state(records=lambda: found), lambda: 1.0), 80)
    assert "held-out tasks: true score 0.700 ± 0.196 (base model 0.440)" in text


def test_a_sparkline_runs_from_the_lowest_to_the_highest_of_what_fits():
    assert progress.spark([0, 1, 2, 3, 4, 5, 6, 7], 20) == "▁▂▃▄▅▆▇█"
    assert progress.spark([9, 0, 7], 2) == "▁█"
    assert progress.spark([1, 1], 5) == "▄▄"
    assert progress.spark([], 5) == progress.spark([1], 0) == ""


def test_time_left_is_that_of_the_median_step():
    assert progress.stage_left([0.0], 0, 4) is None
    assert progress.stage_left([0.0, 2, 4, 94, 96], 4, 10) == 6 * 2
    assert progress.stage_left([0.0, 50], 20, 100) == 50 / 20 * 80  # tasks, not steps


def test_time_left_of_the_run_is_known_when_each_stage_has_been_run():
    assert progress.stage_seconds(RECORDS) == {"challenger": 10, "tasks": 30}
    assert progress.run_left(RECORDS, 1, "solver", 40.0, 2) is None
    later = [*RECORDS, record(2, "challenger", 1, 190)]
    # In iteration 2 as in iteration 1: tasks 30 s, Solver 30 s, behind what is left.
    assert progress.run_left(later, 2, "challenger", 5.0, 2) == 5 + 30 + 30
    assert progress.run_left(later, 2, "challenger", 5.0, 3) == 5 + 60 + 10 + 60
    assert progress.run_left(later, 2, "tasks", None, 2) == 30 + 30
    assert progress.run_left(later, 2, "solver", 7.0, 2) == 7


def test_durations_read_as_on_a_clock():
    found = [progress.duration(seconds) for seconds in (0, 59.6, 245, 3723, -1)]
    assert found == ["0:00", "1:00", "4:05", "1:02:03", "0:00"]


HOSTILE = "a\x1b]0;title\x07b\x9b2J\x1b[31m\u202ec"


def test_text_from_outside_cannot_reach_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    tracking.setup_logging()
    logging.getLogger("scope_jax").warning("%s\nsecond line", HOSTILE)
    said = capsys.readouterr().err
    assert "b 2J" in said and "\nsecond line\n" in said
    assert not set(HOSTILE) & set(said) & set("\x1b\x07\x9b\u202e")
    assert "\x1b" not in tracking.last_warning.text
    assert tracking.last_warning.text.endswith("c second line")


def test_conversations_cannot_reach_the_terminal():
    said = ({"role": "user", "content": ""}, {"role": "user", "content": HOSTILE})
    side = Side(name="base", messages=said, answer=HOSTILE, true_score=0.5)
    shown = Comparison(
        rule="r", task=HOSTILE, wanted=(HOSTILE,), before=side, after=side
    )
    out = io.StringIO()
    Console(file=out, width=100).print(comparison_table(shown))
    assert "31m c" in out.getvalue()
    assert not set(out.getvalue()) & set("\x1b\x07\x9b\u202e")
