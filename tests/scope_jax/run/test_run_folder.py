"""A run's folder: whole files, one writer, one configuration."""

import datetime
import json
import os
import pathlib
import subprocess
from dataclasses import replace

import jax
import pytest

import configs
from models import checksums
from models.errors import UserError
from scope_jax.config import Config
from scope_jax.run.folder import RunFolder
from scope_jax.system import settings
from scope_jax.system.files import (
    read_json,
    replacing,
    write_json_lines,
    write_text,
)


@pytest.fixture
def config():
    return configs.load("ci")


def test_manifest_survives_a_new_start(tmp_path, config):
    folder = RunFolder(tmp_path / "run", config)
    folder.record("iter_1/challenger", status="done", step=4)
    folder.close()
    again = RunFolder(tmp_path / "run", config)
    assert again.done("iter_1/challenger")
    assert again.stage("iter_1/challenger")["step"] == 4
    assert not again.done("iter_1/tasks")


def test_another_configuration_is_refused_with_the_difference(tmp_path, config):
    RunFolder(tmp_path / "run", config).close()
    with pytest.raises(UserError, match="seed: 42 -> 7"):
        RunFolder(tmp_path / "run", replace(config, seed=7))
    kept = RunFolder(tmp_path / "run", config)
    assert kept.path.joinpath("config.json").is_file()


def test_a_run_has_the_day_on_which_it_started(tmp_path, config):
    """A template that prints the day is told the same one whenever the run goes on."""
    run = tmp_path / "run"
    days = {datetime.date.today()}
    folder = RunFolder(run, config)
    folder.close()
    days.add(datetime.date.today())  # midnight may have passed
    assert folder.date in map(str, days)
    saved = settings.load(Config, run / "config.json")
    assert saved.model.date == folder.date
    started = replace(saved, model=replace(saved.model, date="2025-01-31"))
    settings.save(started, run / "config.json", recorded=True)
    later = RunFolder(run, config)
    later.close()
    assert later.date == "2025-01-31"
    given = replace(config, model=replace(config.model, date="2025-02-01"))
    with pytest.raises(UserError, match=r'date: "2025-01-31" -> "2025-02-01"'):
        RunFolder(run, given)
    fresh = RunFolder(run, given, fresh=True)
    fresh.close()
    assert fresh.date == "2025-02-01"


def test_a_lost_configuration_is_written_again_with_the_day_of_its_start(
    tmp_path, config
):
    run = tmp_path / "run"
    RunFolder(run, config).close()
    saved = settings.load(Config, run / "config.json")
    started = replace(saved, model=replace(saved.model, date=last_week()))
    settings.save(started, run / "config.json", recorded=True)
    whole = (run / "config.json").read_bytes()
    (run / "config.json").unlink()
    RunFolder(run, config).close()
    assert (run / "config.json").read_bytes() == whole


def last_week() -> str:
    return str(datetime.date.today() - datetime.timedelta(days=7))


def test_a_run_from_before_days_were_recorded_goes_on_with_that_of_its_start(
    tmp_path, config
):
    run, file = tmp_path / "run", tmp_path / "run" / "config.json"
    RunFolder(run, config).close()
    older = json.loads(file.read_text())
    del older["model"]["date"]
    file.write_text(json.dumps(older))
    file.with_name(checksums.NAME).unlink()  # of a later version, too
    noon = datetime.datetime(2025, 3, 1, 12).timestamp()
    os.utime(file, (noon, noon))
    for _ in range(2):
        folder = RunFolder(run, config)
        folder.close()
        assert folder.date == "2025-03-01"
    assert settings.load(Config, file).model.date == "2025-03-01"


def test_more_iterations_may_be_asked_for_and_no_fewer(tmp_path, config):
    RunFolder(tmp_path / "run", replace(config, iterations=2)).close()
    RunFolder(tmp_path / "run", replace(config, iterations=3)).close()
    file = tmp_path / "run/config.json"
    assert settings.load(Config, file).iterations == 3
    assert checksums.recorded(file) == (checksums.of(file),)
    with pytest.raises(UserError, match="iterations: 3 -> 2"):
        RunFolder(tmp_path / "run", replace(config, iterations=2))


def test_display_settings_may_change(tmp_path, config):
    RunFolder(tmp_path / "run", config).close()
    quiet = replace(config, tracking=replace(config.tracking, progress=False))
    RunFolder(tmp_path / "run", quiet).close()


@pytest.fixture
def older(tmp_path):
    """The folder of a `tiny` from before some settings, and other sizes of engines."""
    RunFolder(tmp_path / "run", configs.load("tiny")).close()
    file = tmp_path / "run" / "config.json"
    found = json.loads(file.read_text())
    del found["model"]["dtype"]
    for engine in (found["engine"], found["inference"]["engine"]):
        del engine["attention"]
        engine |= {"prefill_chunk": 64, "prefill_rows": 8}
    for name in ("index", "index_parameters", "gpus"):
        del found["retrieval"][name]
    write_text(file, json.dumps(found), recorded=True)
    return tmp_path / "run"


def test_an_older_run_goes_on_with_the_same_command(older):
    RunFolder(older, configs.load("tiny")).close()


def test_where_a_default_means_another_arithmetic_it_does_not(older, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r'\(model\.dtype: "bfloat16" -> "float32"\)'):
        RunFolder(older, configs.load("tiny"))


def test_what_an_engine_accepts_may_not_change(tmp_path, config):
    RunFolder(tmp_path / "run", config).close()
    engine = replace(config.engine, slots=4, max_length=2 * config.engine.max_length)
    with pytest.raises(UserError, match=r"configuration \(engine\.max_length: "):
        RunFolder(tmp_path / "run", replace(config, engine=engine))


def test_fresh_starts_anew_even_with_another_configuration(tmp_path, config):
    folder = RunFolder(tmp_path / "run", config)
    folder.record("iter_1/challenger", status="done")
    write_text(folder.rollouts(1, "challenger", 1), "x")
    folder.close()
    fresh = RunFolder(tmp_path / "run", replace(config, seed=7), fresh=True)
    assert not fresh.done("iter_1/challenger")
    assert not fresh.rollouts(1, "challenger", 1).exists()


def test_a_start_anew_that_was_cut_off_is_finished_by_the_next_start(tmp_path, config):
    folder = RunFolder(tmp_path / "run", config)
    folder.record("iter_1/challenger", status="done")
    folder.close()
    (tmp_path / "run" / ".emptying").touch()  # as a killed --fresh leaves it
    again = RunFolder(tmp_path / "run", replace(config, seed=7))
    assert not again.done("iter_1/challenger")
    assert not (tmp_path / "run" / ".emptying").exists()


def test_two_writers_are_refused(tmp_path, config):
    folder = RunFolder(tmp_path / "run", config)
    with pytest.raises(UserError, match="another process"):
        RunFolder(tmp_path / "run", config)
    folder.close()
    RunFolder(tmp_path / "run", config)


def test_a_folder_of_something_else_is_left_alone(tmp_path, config):
    (tmp_path / "thesis.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(UserError, match=r"no config\.json"):
            RunFolder(tmp_path, config, fresh=fresh)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ['{"model_type": "qwen3"}', "{}", "[1]", "{", ""])
def test_fresh_never_empties_a_folder_that_is_no_run(tmp_path, config, text):
    """A model's folder has a config.json too: it was deleted, without a question."""
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").write_text("weights")
    with pytest.raises(UserError, match="is no run's"):
        RunFolder(tmp_path, config, fresh=True)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl"])
def test_fresh_empties_a_run_whose_configuration_is_damaged(tmp_path, config, name):
    folder = RunFolder(tmp_path, config)
    folder.record("iter_1/challenger", status="done")
    write_text(tmp_path / "metrics.jsonl", "")
    folder.close()
    for other in {"manifest.json", "metrics.jsonl"} - {name}:
        (tmp_path / other).unlink()
    (tmp_path / "config.json").write_text("{")
    RunFolder(tmp_path, config, fresh=True).close()
    assert not (tmp_path / name).exists()


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path):
    def records():
        yield {"a": 1}
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_json_lines(tmp_path / "x.jsonl", records())
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "x", "before")
    with pytest.raises(RuntimeError), replacing(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError("stopped")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_two_processes_never_write_to_one_temporary_file(tmp_path, monkeypatch):
    with replacing(tmp_path / "x") as mine:
        mine.write_text("mine")
        with monkeypatch.context() as other:
            other.setattr("os.getpid", lambda: -1)
            write_text(tmp_path / "x", "theirs")
        assert (tmp_path / "x").read_text() == "theirs"
    assert (tmp_path / "x").read_text() == "mine"


def test_what_a_killed_start_was_writing_is_no_obstacle_and_goes(tmp_path, config):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json.tmp", "config.json.17.tmp"):  # the first of old versions
        (run / name).write_text('{"half')
    RunFolder(run, config).close()
    (run / "tasks").mkdir()
    (run / "tasks/iter_1.parquet.17.tmp").write_text("half")
    RunFolder(run, config).close()
    assert not list(run.rglob("*.tmp"))


DAMAGE = {
    "emptied": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "flipped": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
}
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


@damaged
def test_a_damaged_configuration_is_refused_or_written_again(tmp_path, config, damage):
    run = tmp_path / "run"
    RunFolder(run, config).close()
    file = run / "config.json"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.raises(UserError, match=r"config\.json: not .*exactly") as caught:
        RunFolder(run, replace(config, seed=7))
    assert "\n" not in str(caught.value)
    RunFolder(run, config).close()
    assert file.read_bytes() == whole
    assert (run / "config.json.damaged").read_bytes() == damage(whole)


def test_a_lost_configuration_is_written_again_from_the_same_options(tmp_path, config):
    run = tmp_path / "run"
    folder = RunFolder(run, config)
    folder.record("iter_1/challenger", status="done")
    folder.close()
    (run / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no such file: .*exactly"):
        RunFolder(run, replace(config, seed=7))
    assert RunFolder(run, config).done("iter_1/challenger")


@damaged
def test_a_damaged_manifest_is_set_aside(tmp_path, config, damage, caplog):
    run = tmp_path / "run"
    folder = RunFolder(run, config)
    folder.record("iter_1/challenger", status="done", step=4)
    folder.close()
    file = run / "manifest.json"
    file.write_bytes(damage(file.read_bytes()))
    assert RunFolder(run, config).manifest == {"stages": {}}
    assert (run / "manifest.json.damaged").is_file()
    (line,) = [r.getMessage() for r in caplog.records]
    assert "manifest.json: not what was written" in line and "found again" in line


@pytest.mark.parametrize(
    "result",
    [
        "checkpoints/iter_1/solver/2/state/x",
        "tasks/iter_1.parquet",
        "rollouts/iter_1/solver/step_0001.jsonl",
        "export/iter_1/solver/config.json",
        "tb/solver/events.out",
        "eval/small_world/scores.json",
        "report.html",
    ],
)
def test_a_failed_start_deletes_nothing_where_one_result_is(tmp_path, config, result):
    """Whatever else is lost: no clean-up concludes from one file that there is none."""
    run = tmp_path / "run"
    RunFolder(run, config).close()
    write_text(run / result, "x")
    write_text(run / "metrics.jsonl", "")
    before = {file for file in run.rglob("*") if file.is_file()}
    RunFolder(run, config).abandon()
    assert {file for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("fresh", [False, True])
def test_killed_before_its_configuration_appeared_the_same_command_starts(
    tmp_path, config, monkeypatch, fresh
):
    run = tmp_path / "run"
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("scope_jax.system.files.checksums.forget", lambda path: None)
        killed.setattr("scope_jax.system.files.os.replace", interrupt)
        RunFolder(run, config)
    assert "config.json" in (run / "SHA256SUMS").read_text()
    RunFolder(run, config, fresh=fresh).close()
    assert (run / "config.json").is_file()


@pytest.mark.parametrize("left", range(4))
def test_killed_while_a_start_is_taken_back_the_same_command_starts(
    tmp_path, config, monkeypatch, left
):
    run = tmp_path / "run"
    folder = RunFolder(run, config)
    folder.record("iter_1/challenger", status="running")
    folder.manifest["stages"].clear()
    write_text(run / "metrics.jsonl", "")
    unlink, gone = pathlib.Path.unlink, []

    def until_killed(path, **options):
        if len(gone) == left:
            raise KeyboardInterrupt
        gone.append(path.name)
        unlink(path, **options)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(pathlib.Path, "unlink", until_killed)
        folder.abandon()
        raise KeyboardInterrupt  # after the last one
    folder.close()
    RunFolder(run, config).close()
    assert (run / "config.json").is_file()


def test_metrics_are_results(tmp_path, config):
    folder = RunFolder(tmp_path / "run", config)
    write_text(tmp_path / "run" / "metrics.jsonl", "one line\n")
    folder.abandon()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "one line\n"
    assert (tmp_path / "run" / "config.json").is_file()


def test_a_persons_file_is_no_rest_of_a_killed_process(tmp_path, config):
    RunFolder(tmp_path / "run", config).close()
    (tmp_path / "run" / "notes.tmp").write_text("mine")
    RunFolder(tmp_path / "run", config)
    assert (tmp_path / "run" / "notes.tmp").read_text() == "mine"


def test_every_hash_is_what_sha256sum_checks(tmp_path, config):
    folder = RunFolder(tmp_path / "run", config)
    for status in ("running", "done"):
        folder.record("iter_1/challenger", status=status)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder.path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert checked.stdout.split() == ["config.json:", "OK", "manifest.json:", "OK"]


def test_a_file_that_could_not_appear_has_no_hash(tmp_path, monkeypatch):
    (tmp_path / "SHA256SUMS").write_text("")
    with monkeypatch.context() as refusing, pytest.raises(KeyboardInterrupt):
        refusing.setattr("scope_jax.system.files.os.replace", interrupt)
        write_text(tmp_path / "x.json", "1", recorded=True)
    assert "x.json" not in (tmp_path / "SHA256SUMS").read_text()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("kills", [1, 2, 3])
def test_a_process_killed_between_hash_and_file_left_both_whole(
    tmp_path, monkeypatch, kills, recorded
):
    """However often it was, and where an older version had recorded no hash."""
    file = tmp_path / "x.json"
    write_text(file, "1", recorded=recorded)
    for new in range(2, 2 + kills):
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr("scope_jax.system.files.os.replace", interrupt)
            write_text(file, str(new), recorded=True)
        assert read_json(file) == 1
    write_text(file, "2", recorded=True)
    assert read_json(file) == 2
    file.write_text("1")
    with pytest.raises(UserError, match=r"x\.json: not what was written"):
        read_json(file)


def test_a_damaged_file_stays_one_when_a_process_is_killed_that_replaces_it(
    tmp_path, monkeypatch
):
    file = tmp_path / "x.json"
    write_text(file, "1", recorded=True)
    for new in ("2", "3"):
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr("scope_jax.system.files.os.replace", interrupt)
            write_text(file, new, recorded=True)
        file.write_text("0")
        with pytest.raises(UserError, match=r"x\.json: not what was written"):
            read_json(file)


def interrupt(source, target):
    """The rename of data is where a process is killed; that of hashes is not."""
    if not str(target).endswith("SHA256SUMS"):
        raise KeyboardInterrupt
    pathlib.Path(source).rename(target)
