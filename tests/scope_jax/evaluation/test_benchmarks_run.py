"""The whole command on the small model: killed, resumed, judged by two, on a server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import configs
from rl.engine.sampling import seed64
from scope_jax.evaluation.journal import Journal
from scope_jax.inference import InferenceConfig, ModelSource
from scope_jax.inference.supervisor import Supervisor
from scope_jax.small_world.assets import MODEL
from scope_jax.small_world.tasks import heldout_tasks
from tests.scope_jax.evaluation import benchmark_world as world
from tests.scope_jax.evaluation.hosted import FAILURES, Hosted, serving

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "eval.py"
DEADLINE = 600.0
TASKS = heldout_tasks(10, 3)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """``--benchmark`` of questions about the small world, for both of its judges."""
    folder = tmp_path_factory.mktemp("data")
    short = [
        {"question": task.text, "data_source": "nq"}
        | {"golden_answers": [fact.sentence() for fact in task.facts]}
        for task in TASKS[:4]
    ]
    mine = [
        {"source": "mine", "judge": "rubrics", "prompt": task.text}
        | {"items": [fact.sentence() for fact in task.facts]}
        for task in TASKS
    ]
    asked = [
        {"prompt": task.text}
        | {"rubrics": [{"criterion": c, "weight": 1, "axis": "a"} for c in "xyz"]}
        for task in TASKS[:3]
    ]
    names = []
    for name, rows in (("nq", short), ("rows", mine), ("researchrubrics", asked)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        names.append(f"{name}={file}")
    return names


def start(out, given, *options, model="demo"):
    command = [sys.executable, str(SCRIPT), "--config", "ci", "--model", model]
    command += ["--benchmark", *given, "--out", str(out), "--temperature", "1"]
    flags = {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [*command, "--samples", "2", "--resamples", "200", *options],
        env=os.environ | flags,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output[-3000:]
    return output


def kill_when(process, out, kind, lines):
    """SIGKILL, once so many answers or verdicts are on the disk."""
    end = time.monotonic() + DEADLINE
    while True:
        found = (
            file.read_bytes().count(b"\n") for file in out.glob(f"{kind}/**/*.jsonl")
        )
        if sum(found) >= lines:
            break
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(start(folder / "out", given))


def test_a_served_judge_grades_what_the_model_answered(whole):
    folder, output = whole
    found = json.loads((folder / "out/scores/demo/scores.json").read_text())
    mine = found["models"]["demo"]["sources"]["mine"]
    assert (mine["n"], mine["answers"], mine["failed"]) == (10, 20, 0)
    assert 0.2 < mine["mean"] < 1 and mine["low"] <= mine["mean"] <= mine["high"]
    nq = found["models"]["demo"]["sources"]["nq"]
    assert nq["n"] == 4 and nq["f1"] > 0.2
    cost = json.loads((folder / "out/scores/demo/cost.json").read_text())["demo"]
    assert cost["mine"]["calls"] >= 30
    # Criteria stand at the end of their prompts: what is before them is shared.
    shared = cost["researchrubrics"]
    assert shared["cached_tokens"] > 0.3 * shared["prompt_tokens"]
    assert "prompt tokens, of which" in output and "were in its cache" in output


def test_killed_twice_it_comes_to_the_same_bytes(whole, given, tmp_path):
    out = tmp_path / "out"
    kill_when(start(out, given), out, "answers", 5)
    kill_when(start(out, given), out, "verdicts", 5)
    finish(start(out, given))
    ours, theirs = (world.written(folder, "demo") for folder in (tmp_path, whole[0]))
    assert ours == theirs and {"scores.json", "table.md"} <= set(ours)


def verdict(messages):
    """Half of the rubrics are met, whichever their texts choose."""
    met = sum(messages[0]["content"].encode()) % 2
    if '"criteria_met"' in messages[0]["content"]:
        return json.dumps({"criteria_met": bool(met)})
    return f"<score>{met}</score>"


def test_a_second_judge_that_fails_in_every_way_needs_no_model(whole, given):
    def fails(digest):
        return (FAILURES[digest % len(FAILURES)],) * (digest % 2)

    out = whole[0] / "out"
    before = {f: f.read_bytes() for f in out.glob("answers/**/*.jsonl")}
    quick = ["--chat.backoff", "0.01", "--chat.rate_pause", "0.01"]
    quick += ["--chat.timeout", "5", "--second_judge", "demo"]
    with serving(Hosted(reply=verdict, fails=fails, slow=7.0)) as server:
        judge = ["--judge", f"far={server.url}#m"]
        kill_when(start(out, given, *judge, *quick), out, "verdicts/far", 5)
        output = finish(start(out, given, *judge, *quick))
    first = world.written(whole[0], "far")
    for file in out.glob("verdicts/far/**/*.jsonl"):
        file.unlink()
    with serving(Hosted(reply=verdict)) as well:
        noted = out / "verdicts/far/judge.json"
        noted.write_text(noted.read_text().replace(server.url, well.url))
        finish(start(out, given, "--judge", f"far={well.url}#m", *quick))
    assert world.written(whole[0], "far") == first
    assert before == {f: f.read_bytes() for f in out.glob("answers/**/*.jsonl")}
    assert "inference process" not in output  # nothing was loaded
    agreed = json.loads(first["scores.json"])["agreement"]
    assert agreed["with"] == "demo" and agreed["sources"]["mine"]["verdicts"] >= 30
    assert "agreement with demo: kappa" in output


def test_a_servers_model_answers_through_the_same_conversations(whole, given, tmp_path):
    served = Supervisor(
        InferenceConfig(engine=configs.load("ci").engine),
        tmp_path / "server",
        models={"m": ModelSource(path=str(MODEL))},
    )
    told = ["--tokenizer", "demo", "--format", "search_r1"]
    try:
        url = served.start()
        with serving(Hosted(reply=verdict)) as judge:
            asked = ["--judge", f"far={judge.url}#m", *told]
            finish(start(tmp_path / "out", given, *asked, model=f"demo={url}/v1"))
    finally:
        served.stop()
    for source in ("nq", "mine"):
        ours, theirs = (
            Journal(folder / f"out/answers/demo/{source}.jsonl").records
            for folder in (tmp_path, whole[0])
        )
        assert len(ours) == len(theirs) > 0
        assert all(record["finish"] == "done" for record in ours.values())
        # Other servers keep seeds in a signed integer, and give no ids: what follows a
        # first turn may be cut into other tokens.
        same = [key for key, record in theirs.items() if fits(source, record)]
        assert len(same) >= 2
        for key in same:
            first, other = (
                next(m for m in r[key]["messages"] if m["role"] == "assistant")
                for r in (ours, theirs)
            )
            assert first == other


def fits(source, record):
    """Whether the seed of the first turn is a number that other servers keep."""
    seed = (configs.load("ci").seed, "benchmark", source, record["question"])
    return seed64(*seed, record["sample"], 0) < 2**63
