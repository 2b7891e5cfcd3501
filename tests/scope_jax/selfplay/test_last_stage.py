"""Evaluation is a run's last stage: once, with what is open, and again when asked."""

import contextlib
import functools
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

import configs
from models.errors import UserError
from scope_jax.config import EvaluationConfig
from scope_jax.evaluation import checkpoints, in_a_run, small_world
from scope_jax.report import page
from scope_jax.run import tracking
from scope_jax.run.folder import LostArtefactError, RunFolder
from scope_jax.selfplay import pipeline
from scope_jax.system.hosts import ONE_HOST
from tests.records import comparable
from tests.scope_jax.report.run_folders import embedded

SCORE = {"base": 0.25, "iter_1": 0.5, "iter_2": 0.75}


class Killed(Exception):
    """Stands for the end of the process."""


class Run:
    """A run whose stages do nothing, and whose Solvers have known scores."""

    def __init__(self, path, monkeypatch):
        self.path, self.opened, self.loaded, self.deadly = path, 0, [], ""
        self.evaluations, self.played = [], []

        def stage(name):
            def play(parts, iteration):
                parts.folder.record(f"iter_{iteration}/{name}", status="done")
                parts.tracker.log({"reward/mean": 1.0}, **at(iteration, name))
                parts.folder.export(iteration, name).mkdir(parents=True, exist_ok=True)
                self.played.append((iteration, name))

            return play

        def at(iteration, name):
            return {"iteration": iteration, "stage": name, "step": 1}

        monkeypatch.setattr(pipeline, "STAGES", {n: stage(n) for n in pipeline.STAGES})
        monkeypatch.setattr(pipeline, "open_parts", self.open)
        monkeypatch.setattr(small_world, "evaluate", self.score)

    @contextlib.contextmanager
    def open(self, config, folder, tracker, hosts, *, profile, score):
        self.opened += 1
        yield SimpleNamespace(
            folder=folder,
            tracker=tracker,
            hosts=ONE_HOST,
            world=SimpleNamespace(config=config),
            serving=SimpleNamespace(run=lambda found: found),
            trainer=SimpleNamespace(use_folder=self.loaded.append),
        )

    def lose(self, monkeypatch, needing, iteration, made_by, times=1):
        """A stage that finds, ``times`` times, that what another made is damaged."""
        play, left = pipeline.STAGES[needing], [None] * times

        def needs(parts, number):
            if number == iteration and left:
                left.pop()
                raise LostArtefactError("FILE", "damaged", "restore it", made_by)
            play(parts, number)

        monkeypatch.setitem(pipeline.STAGES, needing, needs)

    def score(self, world, count, split, name, progress):
        if name == self.deadly:
            raise Killed
        self.evaluations.append((name, count, split))
        shown = {"true_score": SCORE[name], "answer": name, "messages": []}
        record = {"task": "t", "wanted": ["w"], "greedy": shown, "sampled": shown}
        return {"eval/sampled/true_score": SCORE[name]}, [record] * count

    def start(self, count=3, each_iteration=False, **options):
        options["each_iteration"] = each_iteration
        config = replace(
            configs.load("ci"), evaluation=EvaluationConfig(count=count, **options)
        )
        pipeline.run(config, self.path, evaluations=in_a_run.EVALUATIONS)
        return [comparable(record) for record in tracking.read(self.path)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path / "run", monkeypatch)


def evaluated(records):
    return [
        (record["iteration"], record["step"], record["eval/sampled/true_score"])
        for record in records
        if record["stage"] == "evaluation"
    ]


def test_every_solver_is_scored_once_and_what_is_shown_is_written(run, capsys):
    records = run.start()
    assert evaluated(records) == [(2, 1, 0.25), (2, 2, 0.5), (2, 3, 0.75)]
    assert run.loaded == [
        "demo",
        *(str(run.path / f"export/iter_{i}/solver") for i in (1, 2)),
    ]
    folder = run.path / "eval" / "small_world"
    names = {"base.jsonl", "iter_1.jsonl", "iter_2.jsonl", "scores.json", "SHA256SUMS"}
    assert {p.name for p in folder.iterdir()} == names | {
        "before_after.md",
        "before_after.json",
    }
    printed = capsys.readouterr().err
    assert "True scores on 3 held-out tasks (test)" in printed
    assert "iter_2: true score 0.75" in printed
    about, _ = embedded((run.path / "report.html").read_text())
    (shown,) = about["runs"][0]["evaluations"]
    assert shown["compared"]["after"]["answer"] == "iter_2"
    assert run.start() == records
    assert run.opened == 1


def test_each_solver_is_scored_at_the_end_of_its_iteration_and_then_no_more(run):
    records = run.start(each_iteration=True)
    assert evaluated(records) == [(1, 1, 0.25), (1, 2, 0.5), (2, 1, 0.75)]
    assert [name for name, _, _ in run.evaluations] == ["base", "iter_1", "iter_2"]
    order = [(r["iteration"], r["stage"]) for r in records]
    assert order.index((1, "evaluation")) < order.index((2, "challenger"))
    written = (run.path / "eval/small_world/scores.json").read_text()
    plain = run.start(count=3)  # the same figures, wherever they are measured
    assert plain == records and len(run.evaluations) == 3
    run.start(count=5)
    assert [count for _, count, _ in run.evaluations[3:]] == [5] * 3
    assert (run.path / "eval/small_world/scores.json").read_text() == written


def test_killed_between_iterations_it_scores_what_is_not_scored_yet(run):
    run.deadly = "iter_1"
    with pytest.raises(Killed):
        run.start(each_iteration=True)
    run.deadly = ""
    run.start(each_iteration=True)
    names = [name for name, _, _ in run.evaluations]
    assert names == ["base", "base", "iter_1", "iter_2"]
    assert len(run.played) == 6


def test_scores_that_are_damaged_are_measured_again(run):
    run.start(each_iteration=True)
    manifest = run.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"split": "test"', '"split": ""'))
    (run.path / "eval/small_world/iter_1.jsonl").write_text("{")
    run.evaluations.clear()
    run.start(each_iteration=True)
    assert [name for name, _, _ in run.evaluations] == ["base", "iter_1", "iter_2"]


def test_without_a_count_nothing_is_evaluated_and_training_is_the_same(run, tmp_path):
    plain = run.start(count=0)
    assert not run.evaluations and not (run.path / "eval").exists()
    run.path = tmp_path / "other"
    records = run.start()
    assert plain == [r for r in records if r["stage"] != "evaluation"]


def test_killed_in_the_evaluation_it_goes_on_there(run):
    run.deadly = "iter_2"
    with pytest.raises(Killed):
        run.start()
    run.deadly, run.evaluations = "", []
    records = run.start()
    assert [name for name, _, _ in run.evaluations] == ["base", "iter_1", "iter_2"]
    assert evaluated(records) == [(2, 1, 0.25), (2, 2, 0.5), (2, 3, 0.75)]
    assert len([r for r in records if r["stage"] == "solver"]) == 2


def test_a_finished_run_is_evaluated_again_where_more_is_asked_for(run):
    run.start()
    records = run.start(count=5)
    assert [count for _, count, _ in run.evaluations] == [3] * 3 + [5] * 3
    assert len(evaluated(records)) == 3
    run.start(count=5, split="dev")
    assert (run.path / "eval" / "small_world_dev" / "scores.json").is_file()
    assert run.evaluations[-1] == ("iter_2", 5, "dev")


def test_a_stage_whose_result_is_lost_is_run_again_and_no_other(
    run, monkeypatch, caplog
):
    run.lose(monkeypatch, "tasks", 2, "iter_1/challenger")
    run.start()
    order = ("challenger", "tasks", "solver")
    first, second = ([(i, name) for name in order] for i in (1, 2))
    assert run.played == [*first, second[0], first[0], *second[1:]]
    assert caplog.messages[0] == "FILE: damaged: iter_1/challenger makes it again"


def test_what_is_lost_again_at_once_ends_the_run_with_one_line(run, monkeypatch):
    run.lose(monkeypatch, "tasks", 2, "iter_1/challenger", times=2)
    with pytest.raises(UserError, match="FILE: damaged: restore it"):
        run.start()
    assert run.path.joinpath("manifest.json").is_file()


def test_a_damaged_export_is_found_before_it_is_scored(run, monkeypatch):
    run.start(count=0)
    (export := run.path / "export/iter_1/solver").joinpath("config.json").write_text(
        "{"
    )
    (export / "SHA256SUMS").write_text(f"{'0' * 64}  config.json\n")
    with pytest.raises(UserError, match=r"iter_1/solver/config\.json: not what was"):
        run.start()  # again and again: this stage does not write it anew
    assert run.played.count((1, "solver")) == 2


def test_a_lost_export_is_made_again_before_it_is_scored(run):
    run.start(count=0)
    shutil.rmtree(run.path / "export/iter_1/solver")
    run.start()
    assert [name for name, _, _ in run.evaluations] == ["base", "iter_1", "iter_2"]
    assert run.played.count((1, "solver")) == 2 and len(run.played) == 7


def test_an_iterations_evaluation_is_of_its_solvers_where_one_is_lost(run):
    """Not of the later ones, which an evaluation that is made again finds there."""
    run.start(each_iteration=True)
    shutil.rmtree(run.path / "export/iter_1/solver")
    folder = RunFolder(run.path, configs.load("ci"))
    for name in ("iter_1/evaluation", "evaluation"):
        folder.record(name, status="running")
    folder.close()
    run.evaluations.clear()
    run.start(each_iteration=True)
    names = [name for name, _, _ in run.evaluations]
    assert names == ["base", "iter_1", "base", "iter_1", "iter_2"]  # then the end's
    assert run.played.count((1, "solver")) == 2


def test_outside_a_run_a_lost_export_is_one_line_each_time(run, monkeypatch):
    """The table would look whole without it."""
    run.start(count=0)
    shutil.rmtree(run.path / "export/iter_1/solver")
    opened = functools.partial(run.open, profile=0, score=None)
    monkeypatch.setattr(checkpoints, "open_parts", opened)
    why = "iter_1/solver: no such folder: give train.py the command of the run"
    for _ in range(2):
        with pytest.raises(UserError, match=why):
            checkpoints.evaluate(configs.load("ci"), run.path, count=3)
    assert not run.evaluations  # before the others have been scored
    run.start(count=0)
    found = checkpoints.evaluate(configs.load("ci"), run.path, count=3)
    assert list(found) == ["base", "iter_1", "iter_2"]


@pytest.mark.parametrize("name", ["small_world", "small_world_dev", "."])
def test_prompts_of_a_file_do_not_take_the_place_of_held_out_tasks(name, tmp_path):
    file = tmp_path / f"{name}.jsonl"
    file.write_text('{"prompt": "p", "rubrics": ["r"]}\n')
    with pytest.raises(UserError, match=rf"eval/{file.stem}/, .*: rename it"):
        checkpoints.evaluate(configs.load("ci"), tmp_path / "run", file=file)
    assert not (tmp_path / "run").exists()


def test_a_report_that_cannot_be_made_does_not_end_the_run(run, caplog, monkeypatch):
    def build(folder):
        raise UserError(f"{folder}/config.json: not JSON: restore the file")

    monkeypatch.setattr(page, "build", build)
    run.start()
    assert "report.html: not written" in caplog.text
    assert "config.json: not JSON" in caplog.text
