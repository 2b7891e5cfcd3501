"""Benchmarks: turns with a peer in its own interpreter, the report, bad peers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from benchmarks import harness, notes
from models.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, sys
settings = json.loads(sys.argv[1])
print(json.dumps({"told": settings}), flush=True)
for turn, _ in enumerate(sys.stdin):
    print(json.dumps({"seconds": [9.0, 2.0, 4.0][turn]}), flush=True)
"""


def test_turns_rates_and_ratios(tmp_path, capsys):
    script = tmp_path / "peer.py"
    script.write_text(SCRIPT)
    ours = iter([7.0, 1.0, 2.0])
    asked = [f"other={sys.executable}"]
    with harness.peers(asked, {"other": str(script)}, {"a": 1}) as peers:
        assert peers[0].ready == {"told": {"a": 1, "peer": "other"}}
        seconds = harness.take_turns(lambda: next(ours), peers, 2)
    assert seconds == {"ours": [1.0, 2.0], "other": [2.0, 4.0]}  # the first: warm-up
    result = harness.Result(what="work", unit="tokens", amount=12.0, seconds=seconds)
    assert result.rates()["other"] == {"median": 4.0, "lowest": 3.0, "highest": 6.0}
    assert result.ratios() == {"other": 2.0}
    harness.report(result, tmp_path / "deep" / "out.json")
    said = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert said["machine"]["cores"] and "other: 4.0 tokens/s" in capsys.readouterr().out


def test_notes_are_tables_for_people(capsys):
    spread = {"median": 2.0, "lowest": 1.98765, "highest": 12345.6}
    found = {
        "bytes": {
            "full": {"held": 123456, "temporary": 7},
            "adapters": {"held": 12, "temporary": 1},
        },
        "ratio": spread,
        "peer": {"version": "1.2", "odd": {"a": {"b": 1}, "c": {}}},
    }
    result = harness.Result(
        what="work",
        unit="tokens",
        amount=1.0,
        seconds={"ours": [1.0]},
        notes={"update": found, "same": True, "none": {}},
    )
    harness.report(result, None)
    said = capsys.readouterr().out
    assert said[said.index("  update:") :].splitlines() == [
        "  update:",
        "    bytes:",
        "                   held  temporary",
        "      full      123,456          7",
        "      adapters       12          1",
        "    ratio: 2 (1.988 to 12,346)",
        "    peer:",
        "      version: 1.2",
        "      odd:",
        "        a:",
        "          b: 1",
        "        c: {}",
        "  same: True",
        "  none: {}",
    ]
    assert notes.said(0.000123456) == "0.0001235" and notes.said(-5000.4) == "-5,000"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("other", "expected NAME=PYTHON"),
        ("vllm=python3", "where NAME is one of other"),
        ("other=/nowhere/python", "cannot be started"),
        (f"other={sys.executable}", "No module named 'nothing_like_it'"),
    ],
)
def test_a_bad_peer_is_one_line(tmp_path, entry, words):
    script = tmp_path / "peer.py"
    script.write_text("import nothing_like_it")
    with (
        pytest.raises(UserError, match=words) as caught,
        harness.peers([entry], {"other": str(script)}, {}),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_forward_beside_transformers(tmp_path):
    pytest.importorskip("torch")
    from tests.models.oracle import make_model

    make_model("qwen2").save_pretrained(tmp_path / "model")
    command = [sys.executable, "scripts/bench.py", "forward", "--repeats", "1"]
    command += ["--model", str(tmp_path / "model"), "--length", "24"]
    command += ["--peer", f"transformers={sys.executable}"]
    command += ["--json", str(tmp_path / "out.json")]
    environment = os.environ | {"PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    said = json.loads((tmp_path / "out.json").read_text())
    assert said["ratios"]["transformers"] > 0
    assert said["notes"]["same next token as transformers"] == 1.0


def test_search_beside_both_of_faisss_ways(tmp_path):
    out = tmp_path / "out.json"
    options = ["--vectors", "500", "--dim", "16", "--together", "1,4"]
    command = ["search", *options, "--repeats", "2", "--json", str(out)]
    assert bench.main(command) == 0
    said = json.loads(out.read_text())
    assert said["notes"]["equal to the bit alone"] is True
    assert said["notes"]["ms a query, 1 together"]["direct"]["median"] >= 0
    with pytest.raises(UserError, match="--together x: needs numbers"):
        bench.main(["search", "--together", "x"])
