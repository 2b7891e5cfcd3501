"""Preference training, started as a user starts it, on rollouts of a small run."""

import json
import signal
import subprocess
import sys

import pytest

from rl.learner import checkpoint
from scope_jax.report import page
from scope_jax.system.files import write_json_lines
from tests.test_run import ROOT, environment, finish, kill_when, records, same_weights


def rollout(group, sample, answer, score):
    """A record of the small world's Solver, with one search."""
    town = f"Town{group}"
    messages = [
        {"role": "user", "content": f"Question: What is {town}'s river?"},
        {"role": "assistant", "content": f"<search>{town}</search>"},
        {"role": "user", "content": f"<information>{town}: a town.</information>"},
        {"role": "assistant", "content": f"<answer>{answer}</answer>"},
    ]
    turns = [{"message": i, "tokens": 9, "trained": 9} for i in (1, 3)]
    return {
        "uid": f"1/solver/1/{group}/{sample}",
        "group": group,
        "messages": messages,
        "trained": turns,
        "trace": {"task_uid": f"1/tasks/1/{group}/0", "answer": answer},
        "metrics": {"reward/rubric_score": score},
    }


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run folder with rollouts of 24 tasks; the true answer is the better one."""
    folder = tmp_path_factory.mktemp("played") / "run"
    found = [
        rollout(group, sample, answer, score)
        for group in range(24)
        for sample, (answer, score) in enumerate(
            {f"The river is Aru{group}.": 1.0, "There is no river.": 0.0}.items()
        )
    ]
    write_json_lines(folder / "rollouts/iter_1/solver/step_0001.jsonl", found)
    return folder


def start(folder, played, *options):
    command = [sys.executable, str(ROOT / "scripts/train.py"), "--config", "ci"]
    command += ["--recipe", "preference", "--preference.run", str(played)]
    command += ["--preference.pairs-per-step", "4", "--preference.loss.beta", "0.1"]
    command += ["--run", str(folder), "--checkpoint.every", "1", *options]
    return subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(played, tmp_path_factory):
    """A run of 12 steps that nothing interrupted, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, finish(start(folder, played, "--preference.epochs", "2"))


def test_pairs_are_learned_in_order(whole):
    folder, output = whole
    assert "24 pairs" in output and "pairs in order" in output
    losses = [record["loss/total"] for record in records(folder)]
    assert len(losses) == 12
    assert losses[0] == pytest.approx(0.6931, abs=1e-4) and losses[-1] < 0.6
    assert "preference/accuracy" in page.build(folder)
    rows = (folder / "pairs.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["scores"] == [1.0, 0.0]


def test_a_killed_run_ends_with_the_same_bytes_as_one_that_was_not(
    whole, played, tmp_path
):
    process = start(tmp_path, played, "--preference.epochs", "2")
    checkpoints = tmp_path / "checkpoints/iter_1/solver"
    kill_when(process, lambda: (checkpoint.latest(checkpoints) or 0) >= 3)
    assert '"done"' not in (tmp_path / "manifest.json").read_text()
    finish(start(tmp_path, played, "--preference.epochs", "2"))
    assert records(tmp_path) == records(whole[0])
    assert same_weights(whole[0], tmp_path) == 1


def test_a_signal_saves_the_steps_that_are_done(played, tmp_path):
    rare = "--preference.epochs", "10", "--checkpoint.every", "100"
    process = start(tmp_path, played, *rare)
    metrics = tmp_path / "metrics.jsonl"
    kill_when(
        process, lambda: metrics.is_file() and metrics.read_bytes(), signal.SIGTERM
    )
    assert process.returncode == 143
    done = metrics.read_bytes()
    saved = checkpoint.latest(tmp_path / "checkpoints/iter_1/solver")
    assert 1 <= saved == len(records(tmp_path)) < 60
    finish(start(tmp_path, played, *rare))
    assert metrics.read_bytes().startswith(done)  # no step was made again
    assert len(records(tmp_path)) == 60
