"""Whole runs of the ``ci`` configuration, started as a user starts them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl.learner import checkpoint
from scope_jax.run import tracking
from tests.records import comparable
from tests.scope_jax.report.run_folders import embedded

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "train.py"
EVALUATE = ROOT / "scripts" / "eval.py"
DEADLINE = 600.0


def environment(devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, *options, devices=1, script=SCRIPT):
    command = [sys.executable, str(script), "--config", "ci", "--run", str(folder)]
    return subprocess.Popen(
        [*command, "--checkpoint.every", "1", *options],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output[-3000:]
    return output


def kill_when(process, reached, number=signal.SIGKILL):
    """Sends the trainer a signal once ``reached()`` is true, and waits for its end."""
    end = time.monotonic() + DEADLINE
    while not reached():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()


def records(folder):
    return [comparable(record) for record in tracking.read(folder)]


def same_weights(one, other):
    found = 0
    for path in sorted((one / "export").rglob("*.safetensors")):
        twin = other / path.relative_to(one)
        assert path.read_bytes() == twin.read_bytes(), path.name
        found += 1
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, finish(start(folder))


def test_a_run_leaves_everything_that_the_readme_names(whole):
    folder, output = whole
    for name in (
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "report.html",
        "tasks/iter_1.parquet",
        "tasks/iter_2.parquet",
        "rollouts/iter_1/challenger/step_0001.jsonl",
        "export/iter_2/solver/model.safetensors",
        "eval/small_world/scores.json",
        "eval/small_world/before_after.md",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "tb").rglob("*tfevents*"))
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert {stage["status"] for stage in stages.values()} == {"done"}
    for heading in (
        "iteration 1: challenger",
        "iteration 2: tasks",
        "tokens_per_s",
        "True scores on 4 held-out tasks (test)",
        "iter_2: true score",
    ):
        assert heading in output


def test_rollouts_say_how_their_reward_came_about(whole):
    folder, _ = whole
    path = folder / "rollouts/iter_1/challenger/step_0001.jsonl"
    rollouts = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rollouts) == 4
    for rollout in rollouts:
        assert rollout["trace"]["branch"]
        assert rollout["reward"] == pytest.approx(
            0.5 * rollout["trace"]["parts"]["format"]
            + rollout["trace"]["parts"]["difficulty"]
        )


def test_every_step_says_what_is_true_and_the_last_stage_scores_every_solver(whole):
    stages = {}
    for record in tracking.read(whole[0]):
        stages.setdefault(record["stage"], []).append(record)
    for stage, name in (
        ("challenger", "truth/answerable"),
        ("tasks", "truth/written/answerable"),
        ("solver", "truth/score"),
    ):
        assert all(0 <= record[name] <= 1 for record in stages[stage])
    path = whole[0] / "rollouts/iter_1/solver/step_0001.jsonl"
    for line in path.read_text().splitlines():
        assert json.loads(line)["trace"]["truth"]["why"]
    places = [(r["iteration"], r["step"]) for r in stages["evaluation"]]
    assert places == [(1, 1), (1, 2), (2, 1)]
    for mode in ("sampled", "greedy"):
        names = [f"eval/{mode}/true_score{part}" for part in ("", "_stderr", "_n")]
        assert all(name in stages["evaluation"][0] for name in names)


def test_nothing_is_compiled_after_the_first_step_of_a_stage(whole):
    later = [
        record["perf/compilations"]
        for record in tracking.read(whole[0])
        if record["stage"] in ("challenger", "solver") and record["step"] % 2 == 0
    ]
    assert later and set(later) == {0}


def prompt_tokens(record, engine):
    """Of a step, computed and saved."""
    names = [f"perf/{engine}_{what}_tokens" for what in ("prefill", "saved")]
    return [record[name] for name in names]


def test_each_step_has_the_work_of_its_engines(whole):
    for record in tracking.read(whole[0]):
        if record["stage"] == "evaluation":
            continue
        if record["stage"] == "tasks":  # written, maybe, while others were sifted
            assert sum(prompt_tokens(record, "judge")) > 0
            continue
        computed, saved = prompt_tokens(record, "rollout")
        assert computed + saved > 0 and min(computed, saved) >= 0
        assert 0 < record["perf/rollout_busy_share"] <= 1
        for kind in ("prefill", "decode"):
            assert record[f"perf/rollout_{kind}_tokens_per_second"] > 0
    first = tracking.read(whole[0])[0]
    # The samples of a group have one prompt. The judge's prompts have no beginning in
    # common in the small world, where the rubric stands before the answer.
    assert min(prompt_tokens(first, "rollout")) > 0
    assert prompt_tokens(first, "judge")[0] > 0
    # Solver and judge have one engine as long as they have the same weights.
    solvers = {
        record["iteration"]
        for record in tracking.read(whole[0])
        if "perf/solver_prefill_tokens" in record
    }
    assert solvers == {2}


def test_sampler_and_trainer_agree(whole):
    found = [r["agree/max"] for r in tracking.read(whole[0]) if "agree/max" in r]
    assert found and max(found) < 1e-3


def test_optimizer_state_and_steps_carry_over(whole):
    """Iteration 2 goes on from iteration 1's step, for both roles."""
    for role in ("challenger", "solver"):
        folders = [whole[0] / "checkpoints" / f"iter_{i}" / role for i in (1, 2)]
        assert [checkpoint.latest(folder) for folder in folders] == [2, 4]


def test_killed_in_every_stage_and_started_again_gives_the_same_run(whole, tmp_path):
    folder = tmp_path / "run"

    def step_done(stage):
        return lambda: any(
            r["iteration"] == 1 and r["stage"] == stage and r["step"] == 1
            for r in tracking.read(folder)
        )

    def creating_tasks():
        manifest = folder / "manifest.json"
        return manifest.is_file() and "iter_1/tasks" in manifest.read_text()

    kill_when(start(folder), step_done("challenger"))
    kill_when(start(folder), creating_tasks)
    kill_when(start(folder), step_done("solver"))
    # between batches of tasks, the next one being written already
    kill_when(start(folder), (folder / "tasks/iter_2/batch_0001.parquet").is_file)
    finish(start(folder))
    assert records(folder) == records(whole[0])
    assert same_weights(whole[0], folder) == 4


def test_what_is_damaged_or_lost_is_made_again_to_the_bit(whole, tmp_path):
    """A finished run without its manifest, and a flipped bit in four of its files."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "manifest.json").unlink()
    checkpoints = folder / "checkpoints/iter_1/challenger/2"
    files = [
        max(checkpoints.rglob("d/*"), key=lambda file: file.stat().st_size),
        folder / "tasks/iter_1/batch_0001.parquet",
        folder / "tasks/iter_2.parquet",
        folder / "export/iter_1/solver/model.safetensors",
    ]
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    said = finish(start(folder))
    for words in (
        "manifest.json: no such file: finished stages are found again",
        "iteration 1 challenger: steps 1 to 2 are made again",
        "batch_0001.parquet: not what was written",
    ):
        assert words in said
    assert records(folder) == records(whole[0])
    for pattern in ("export/**/*", "tasks/**/*", "rollouts/**/*"):
        for file in filter(Path.is_file, whole[0].glob(pattern)):
            twin = folder / file.relative_to(whole[0])
            assert twin.read_bytes() == file.read_bytes(), twin


@pytest.mark.parametrize("tool_format", ["tool_call", "function_calls_xml"])
def test_the_other_formats_play_a_whole_iteration_too(tmp_path, tool_format):
    folder = tmp_path / "run"
    one = ["--iterations", "1", "--challenger_train.steps", "1"]
    one += ["--solver_train.steps", "1", "--tool_format", tool_format]
    finish(start(folder, *one))
    stages = {record["stage"]: record for record in records(folder)}
    assert list(stages) == ["challenger", "tasks", "solver", "evaluation"]
    assert stages["challenger"]["reward/format"] > 0.5
    assert stages["tasks"]["tasks/kept"] > 0
    assert stages["solver"]["reward/structure"] > 0.5


def test_late_answers_and_evaluations_in_between_give_the_same_run(whole, tmp_path):
    folder = tmp_path / "run"
    script = ROOT / "tests" / "late_answers.py"
    finish(start(folder, "--evaluation.every", "1", script=script))
    found = records(folder)
    for record in found:
        if record["stage"] == "solver":
            names = [name for name in record if name.startswith("eval/")]
            assert "eval/sampled/true_score" in names
            for name in names:
                del record[name]
    assert found == records(whole[0])
    assert same_weights(whole[0], folder) == 4


def test_a_finished_run_says_so_and_is_not_touched(whole):
    before = (whole[0] / "metrics.jsonl").read_bytes()
    assert "is finished" in finish(start(whole[0]))
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


def test_every_solver_of_a_run_is_evaluated(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    asked = tmp_path / "asked.jsonl"
    rows = [{"prompt": "Say where.", "rubrics": ["It says where."], "id": 7}]
    rows.append({"prompt": "Say when.", "questions": ["When?", "Why then?"]})
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    solvers = {"base", "iter_1", "iter_2"}

    finish(start(folder, "--count", "6", script=EVALUATE))
    scores = json.loads((folder / "eval/small_world/scores.json").read_text())
    assert set(scores) == solvers
    for name, metrics in scores.items():
        path = folder / "eval/small_world" / f"{name}.jsonl"
        answers = [json.loads(line) for line in path.read_text().splitlines()]
        assert [len(answer["wanted"]) for answer in answers] == [3] * 6
        for mode in ("sampled", "greedy"):
            mean = sum(answer[mode]["true_score"] for answer in answers) / 6
            assert metrics[f"eval/{mode}/true_score"] == pytest.approx(mean)
            assert metrics[f"eval/{mode}/true_score_n"] == 6
    about, _ = embedded((folder / "report.html").read_text())
    assert about["runs"][0]["evaluations"][0]["compared"]["after"]["name"] == "iter_2"
    assert not about["problems"]

    finish(start(folder, "--file", str(asked), script=EVALUATE))
    scores = json.loads((folder / "eval/asked/scores.json").read_text())
    assert set(scores) == solvers
    path = folder / "eval/asked/base.jsonl"
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    assert [answer["prompt"] for answer in answers] == ["Say where.", "Say when."]
    assert answers[0]["id"] == 7 and len(answers[0]["grades"]) <= 1


def test_two_processes_of_two_devices_play_a_run_together(whole, tmp_path):
    folder, port = tmp_path / "run", free_port()
    options = ["--iterations", "1", "--placement.trainer.mesh.fsdp", "4"]
    options += ["--placement.hosts.count", "2"]
    options += ["--placement.hosts.address", f"127.0.0.1:{port}"]
    processes = [
        start(folder, *options, "--placement.hosts.index", str(i), devices=2)
        for i in range(2)
    ]
    try:
        first, _ = [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert "iteration 1: solver" in first
    one = [r for r in records(whole[0]) if r["iteration"] == 1]
    two = [r for r in records(folder) if r["iteration"] == 1]
    one, two = ([r for r in of if r["stage"] != "evaluation"] for of in (one, two))
    assert [r["stage"] for r in one] == [r["stage"] for r in two]
    # Each process played half of the first step's rollouts, from the same weights.
    assert two[0]["reward/mean"] == pytest.approx(one[0]["reward/mean"])
    assert two[0]["rollout/tokens"] == one[0]["rollout/tokens"]
    # Where a prompt is computed and where it is saved differs, all of it does not.
    for engine in ("rollout", "judge"):
        work = [tracking.read(run)[0] for run in (whole[0], folder)]
        prompts = [sum(prompt_tokens(record, engine)) for record in work]
        assert prompts[0] == prompts[1]
    assert two[0]["loss/grad_norm"] == pytest.approx(one[0]["loss/grad_norm"], rel=1e-3)
    path = Path("rollouts/iter_1/challenger/step_0001.jsonl")
    uids = [
        [json.loads(line)["uid"] for line in (run / path).read_text().splitlines()]
        for run in (whole[0], folder)
    ]
    assert uids[0] == uids[1] and len(uids[0]) == 4
    assert (folder / "export/iter_1/solver/model.safetensors").is_file()


def test_four_devices_play_a_whole_run(whole, tmp_path):
    folder = tmp_path / "run"
    finish(start(folder, "--placement.trainer.mesh.fsdp", "4", devices=4))
    one, four = records(whole[0]), records(folder)
    assert [r["stage"] for r in one] == [r["stage"] for r in four]
    # the first step's rollouts are sampled from the same weights by the same keys
    assert four[0]["reward/mean"] == pytest.approx(one[0]["reward/mean"])
    assert four[0]["loss/grad_norm"] == pytest.approx(
        one[0]["loss/grad_norm"], rel=1e-3
    )
