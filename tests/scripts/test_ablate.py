"""Arms are options of train.py; runs resume, and what is finished is not run again."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import configs
from ablation import arms, runs, study, summaries, true_tasks
from ablation.arms import METHODS, PARTS, Materials
from models.errors import UserError
from pages.option_rows import OPTIONS
from scope_jax.run import cli
from scope_jax.selfplay.given_tasks import read_given
from scope_jax.small_world.tasks import read_task, rubric_text
from scope_jax.small_world.world import generate
from tests.scripts.ablation_runs import evaluate, train

MATERIALS = Materials(
    weak_model=lambda job: Path(f"/cache/weak_{job}"),
    true_tasks=lambda seed: Path(f"/out/true_{seed}.jsonl"),
)


def settings_of(arm):
    words = ["--config", "tiny", *arms.options(arm, 7, MATERIALS)]
    config, _ = cli.parse(words, configs)
    return summaries.changed(configs.load("tiny"), config)


def test_every_arm_is_a_few_settings():
    assert {arm: settings_of(arm) for arm in PARTS} == {
        "full": {"seed": 7},
        "frozen_challenger": {"seed": 7, "challenger_train.steps": 0},
        "no_gates": {"seed": 7, "judge.gates": (), "judge.required_gates": 0},
        "no_length_control": {
            "seed": 7,
            "solver.length.soft": 1_000_000,
            "solver.length.hard": 1_000_000,
        },
        "weak_rubrics": {"seed": 7, "inference.rubric_model": "weak_rubrics"},
        "weak_grader": {"seed": 7, "inference.grader_model": "weak_grades"},
        "curated": {
            "seed": 7,
            "challenger_train.steps": 0,
            "tasks.file": "true_7.jsonl",
        },
        "none": {"seed": 7, "solver.accuracy_weight": 0},
    }


def test_every_method_is_an_option_of_the_page_of_options():
    rows = [{"seed": 7, **row.settings} for row in OPTIONS]
    for arm in METHODS.keys() - {"default"}:
        found = settings_of(arm)
        found.pop("solver_train.steps", None)
        assert found in rows, arm


def test_an_unknown_arm_is_one_line():
    assert arms.chosen("none,full,none") == ["none", "full"]
    with pytest.raises(UserError, match=r"--arms no_gate: .* did you mean no_gates"):
        arms.chosen("full,no_gate")
    with pytest.raises(UserError, match="names no arm"):
        arms.chosen("")
    with pytest.raises(UserError, match=r"known: default, dr_grpo"):
        arms.chosen("full", METHODS)


def test_true_tasks_are_true_and_of_the_part_that_is_trained_on(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        true_tasks.write(tmp_path / name, 9, seed)
    texts = [(tmp_path / name).read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    world = generate()
    for task in read_given(tmp_path / "a"):
        blanks = read_task(world, task.text)
        assert [blank.flaw for blank in blanks] == [""] * len(task.rubrics)
        for blank, rubric in zip(blanks, task.rubrics, strict=True):
            assert rubric.text == rubric_text(blank.fact)
            assert world.by_name[blank.fact.entity].split == "train"


def test_a_longer_study_in_the_same_folder_has_all_its_true_tasks(made):
    """A run of a file with too few would begin it anew in a later iteration."""
    rows = []
    for iterations in ("1", "3", "2"):
        words = ("--iterations", iterations)
        curated = replace(made, arms=("curated",), seeds=[5], overrides=words)
        [run] = curated.runs(make=True)
        rows.append(Path(run.config.tasks.file).read_text().splitlines())
    target = run.config.tasks.target
    assert list(map(len, rows)) == [target, 3 * target, 3 * target]
    assert rows[1][:target] == rows[0]


class Script:
    """In place of the two scripts: writes what they write, or fails."""

    def __init__(self, monkeypatch, fails=()):
        self.played, self.fails = [], list(fails)
        monkeypatch.setattr(runs.Players, "play", self.play)
        monkeypatch.setattr(runs, "commit", lambda: "abc1234")

    def play(self, run, command):
        script = Path(command[1]).stem
        self.played.append((run.name, script))
        assert command[command.index("--run") + 1] == str(run.folder)
        if (run.name, script) in self.fails:
            self.fails.remove((run.name, script))
            raise UserError(f"{run.name}: exit code 1")
        if script == "train":
            train(run)
        else:
            evaluate(run, int(command[command.index("--count") + 1]))


@pytest.fixture
def made(tmp_path):
    return study.Study(
        config="ci",
        overrides=("--iterations", "2"),
        arms=("full", "none"),
        seeds=range(100, 102),
        out=tmp_path / "out",
        summaries=tmp_path / "kept",
        count=20,
        split="test",
    )


def test_the_board_plays_four_iterations_or_the_fewer_that_were_asked_for(made):
    asked = study.for_board(made)
    assert [run.config.iterations for run in asked.runs(make=False)] == [2, 2, 2]
    whole = study.for_board(replace(made, overrides=()))
    assert [run.config.iterations for run in whole.runs(make=False)] == [4, 4, 4]
    more = replace(made, overrides=("--iterations", "5"))
    with pytest.raises(UserError, match="--iterations 5: the board allows 4"):
        study.for_board(more)


def test_seeds_are_the_outer_loop_and_finished_runs_are_left_alone(made, monkeypatch):
    script = Script(monkeypatch)
    assert made.play([None]) == []
    names = ["full_100", "none_100", "full_101", "none_101"]
    assert script.played == [(name, s) for name in names for s in ("train", "eval")]
    found = made.found()
    assert [(one["arm"], one["seed"]) for one in found] == [
        (*name.split("_")[:1], int(name.split("_")[1])) for name in names
    ]
    assert made.play([None]) == [] and len(script.played) == 8
    assert made.described(None).count("finished") == 4
    more = replace(made, seeds=range(100, 103))
    assert more.play([None]) == [] and len(script.played) == 12


def test_what_failed_resumes_where_it_stopped(made, monkeypatch):
    script = Script(monkeypatch, fails=[("full_100", "train"), ("none_100", "eval")])
    assert len(made.play([None])) == 2
    assert len(script.played) == 4 + 3  # the other two, and what failed
    assert made.play([None]) == []
    assert script.played[7:] == [
        ("full_100", "train"),
        ("full_100", "eval"),
        ("none_100", "eval"),
    ]
    full, none, *_ = made.found()
    assert set(full["seconds"]["until"].values()) == {None}  # was interrupted
    assert None not in none["seconds"]["until"].values()


def test_a_summary_of_other_settings_is_not_taken_for_this_run(made, monkeypatch):
    Script(monkeypatch)
    made.play([None])
    other = replace(made, overrides=("--iterations", "1"))
    with pytest.raises(UserError, match=r"full_100\.json: is of other settings"):
        other.play([None])
    with pytest.raises(UserError, match="is of other evaluation"):
        replace(made, count=30).play([None])


def test_the_same_run_has_the_same_summary_but_for_seconds(made, monkeypatch, tmp_path):
    Script(monkeypatch)
    made.play([None])
    again = replace(made, out=tmp_path / "b", summaries=tmp_path / "b_kept")
    again.play([None])
    one, two = made.found()[0], again.found()[0]
    del one["seconds"], two["seconds"]
    assert one == two
    assert one["commit"] == "abc1234"
    assert one["settings"] == {"seed": 100}
    assert one["scores"]["iter_1"] == {
        **{"greedy": 0.8, "sampled": 0.6, "n": 20},
        **{"greedy_stderr": 0.016, "sampled_stderr": None},
    }
    solver = one["iterations"][0]["solver"]
    assert solver["steps"] == 6
    assert solver["mean"]["reward/rubric_score"] == pytest.approx(0.35)
    assert solver["last"]["reward/rubric_score"] == pytest.approx(0.45)
    assert solver["last"]["truth/score"] == 0.5
    assert "perf/compilations" not in solver["last"]
    assert one["sampled_tokens"] == {"rollout": 100.0 * 6 * 3 * 2}


def test_seconds_are_of_steps_and_from_the_start(made, monkeypatch):
    Script(monkeypatch)
    frozen = replace(made, arms=("frozen_challenger",), seeds=[5])
    frozen.play([None])
    [run] = frozen.runs(make=False)
    run.started.write_text(json.dumps([{"unix": 990.0, "commit": "c"}]))
    found = summaries.summary(run, configs.load("ci"), count=20, split="test")
    assert found["seconds"]["stages"]["iter_1/challenger"] == 0
    assert found["seconds"]["stages"]["iter_1/tasks"] == 60
    assert found["seconds"]["stages"]["iter_1/solver"] == 60
    assert found["seconds"]["until"] == {"iter_1": 131.0, "iter_2": 251.0}
    assert found["iterations"][0]["challenger"] == {}


def test_options_that_every_run_has_for_itself_are_refused(made):
    for word in ("--seed", "--run=x", "--fresh"):
        with pytest.raises(UserError, match="every run has its own"):
            replace(made, overrides=(word,)).runs(make=False)
    with pytest.raises(UserError, match="no such field"):
        replace(made, overrides=("--tasks.lwo", "1")).runs(make=False)


def test_each_device_has_one_run_at_a_time_and_both_its_processes(made):
    two = runs.Players()
    together = threading.Barrier(2, timeout=30)
    seen = []

    def one(run, device):
        together.wait()
        seen.append(device)

    assert two.play_all(made.runs(make=False), ["0", "3"], one) == []
    assert sorted(seen) == ["0", "0", "3", "3"]
    train, score = made.runs(make=False)[0].commands("3", 450, "test")
    assert train[2:] == score[2:-4]
    config, _ = cli.parse(train[2:], configs)
    assert config.placement.trainer.devices == "3"
    assert config.placement.inference.devices == "3"


def test_a_command_that_fails_says_its_last_line(made):
    run = made.runs(make=False)[0]
    code = "import sys; print('a'); print('error: b'); sys.exit(2)"
    with pytest.raises(UserError, match=r"full_100: exit code 2: error: b: see .*log"):
        runs.Players().play(run, [sys.executable, "-c", code])
    assert run.log.read_text() == "a\nerror: b\n"


def test_cores_are_limited(made):
    run = made.runs(make=False)[0]
    code = "import os; print(len(os.sched_getaffinity(0)))"
    runs.Players(cores=1).play(run, [sys.executable, "-c", code])
    assert run.log.read_text() == "1\n"


@pytest.mark.parametrize(
    ("wanted", "platforms", "visible", "found"),
    [
        ("cpu", "", "0,1", [None]),
        ("auto", "cpu", "0,1", [None]),
        ("auto", "", "4,5", ["4", "5"]),
        ("0,2", "cpu", "", ["0", "2"]),
    ],
)
def test_devices(monkeypatch, wanted, platforms, visible, found):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert runs.devices(wanted) == found
    with pytest.raises(UserError, match="--devices gpu: write"):
        runs.devices("gpu")
