"""What docs/examples promise: units, and the documented commands run as they stand."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scope_jax.selfplay.given_tasks import read_given
from scope_jax.selfplay.own_code import load
from scope_jax.selfplay.own_parts import REWARD, TOOL
from tests.test_commands import commands

ROOT = Path(__file__).resolve().parents[1]
COUNTDOWN = ROOT / "docs" / "examples" / "countdown.py"
SQLITE = ROOT / "docs" / "examples" / "sqlite_search.py"


def documented(word):
    """The arguments of the page's only command with this word."""
    (found,) = {
        tuple(arguments)
        for page, script, arguments in commands()
        if (page, script) == ("your-reward.md", "train")
        and any(word in argument for argument in arguments)
    }
    return list(found)


def lines(file):
    return file.read_text(encoding="utf-8").splitlines()


def run(arguments, folder):
    """train.py, as documented, in a run folder of its own."""
    arguments[arguments.index("--run") + 1] = str(folder)
    return subprocess.run(
        [sys.executable, "scripts/train.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("(3 + 5) * 3", 0.0),  # 3 only once
        ("3 * 7 + 5 - 2", 1.0),
        ("2 * (7 + 5)", 1.0),
        ("  2*(7+5)  ", 1.0),
        ("7 + 5", 0.1),
        ("24", 0.0),
        ("72 / 3", 0.0),
        ("7 ** 2", 0.0),
        ("5 / (3 - 3)", 0.0),
        ("5 / (7 - 7)", 0.0),
        ("__import__('os')", 0.0),
        ("7 5", 0.0),
        ("", 0.0),
        ("(" * 500 + "7" + ")" * 500, 0.0),
        ("3.0", 0.0),
        ("-3", 0.0),
        ("True", 0.0),
    ],
)
def test_a_countdown_answer_is_worth_what_it_makes(answer, value):
    score = load("x", f"{COUNTDOWN}:score", REWARD)
    task = SimpleNamespace(text="Make 24 from the numbers 2, 3, 5, 7: ..")
    given = {"task": task, "answer": answer, "conversation": [], "judge": None}
    assert asyncio.run(score(**given)) == value


def test_every_countdown_task_can_be_solved_as_it_says():
    score = load("x", f"{COUNTDOWN}:score", REWARD)
    tasks = read_given(COUNTDOWN.with_suffix(".jsonl"))
    assert len(tasks) == 24
    for task in tasks:
        given = {"task": task, "answer": task.target, "conversation": [], "judge": None}
        assert asyncio.run(score(**given)) == 1.0


def test_the_sqlite_tool_finds_what_is_named(tmp_path, monkeypatch):
    file = tmp_path / "p.jsonl"
    rows = [{"contents": "Bern\nA town."}, {"contents": "Aare\nA river of Bern."}]
    file.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("PASSAGES", str(file))
    search = load("x", f"{SQLITE}:search", TOOL)
    found = asyncio.run(search(queries=["what river?", '"Bern" OR', "zzz", ""]))
    assert found == [
        "Doc 1 (Title: Aare)\nA river of Bern.",
        "Doc 1 (Title: Bern)\nA town.",
        "",
        "",
    ]


def test_the_documented_countdown_runs_and_its_reward_is_in_the_rollouts(tmp_path):
    done = run(documented("countdown.py:score"), tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [json.loads(line) for line in lines(tmp_path / "run" / "metrics.jsonl")]
    assert [step["stage"] for step in steps] == ["solver", "solver"]
    assert all(0 <= step["reward/own"] <= 1 for step in steps)
    (first, *_) = (tmp_path / "run" / "rollouts" / "iter_1" / "solver").iterdir()
    rollouts = [json.loads(line) for line in lines(first)]
    for rollout in rollouts:
        parts, trace = rollout["trace"]["parts"], rollout["trace"]
        assert trace["task"].startswith("Make ")
        expected = 0.5 * parts["format"] + 0.1 * parts["search"] + parts["own"]
        assert rollout["reward"] == pytest.approx(expected)
        assert "countdown.py:score" in trace["why"][-1]
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(saved["solver"]["reward_hash"]) == 16


def test_the_documented_tool_runs_and_models_see_its_texts(tmp_path):
    done = run(documented("sqlite_search.py:search"), tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [
        message["content"]
        for file in (tmp_path / "run" / "rollouts").rglob("step_*.jsonl")
        for line in file.read_text().splitlines()
        for message in json.loads(line)["messages"]
        if "Doc 1 (Title: " in message["content"]
    ]
    assert shown
    state = (tmp_path / "run" / "inference").rglob("*.json")
    assert all(json.loads(file.read_text()).get("retrieval") is None for file in state)


def test_a_reward_that_raises_ends_the_run_in_one_line_with_its_steps_saved(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "calls = 0\n"
        "async def score(task, answer, conversation, judge):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    return 1 / (calls < 5)\n"  # a step has four rollouts
    )
    arguments = documented("countdown.py:score")
    at = arguments.index("--solver.reward")
    arguments[at + 1] = f"{file}:score"
    # The first step is no checkpoint by itself.
    arguments += ["--checkpoint.every", "0", "--checkpoint.permanent_every", "0"]
    done = run(arguments, tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: solver.reward={file}:score: ZeroDivisionError: division by zero "
        "(mine.py, line 5): correct the file, and begin another run (--run, --fresh)"
    )
    assert "Traceback" not in done.stderr + done.stdout
    checkpoints = tmp_path / "run" / "checkpoints" / "iter_1" / "solver"
    assert any(checkpoints.iterdir())
