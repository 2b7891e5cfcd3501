"""What came of a run, on one screen."""

import io
import json

import pytest
from rich.console import Console

from scope_jax.report.summary import summary
from tests.scope_jax.report.run_folders import HOSTILE, make


def printed(run, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(summary(run))
    return console.file.getvalue()


def compared(run, answer):
    sides = {
        side: {"name": name, "true_score": score, "answer": answer, "messages": []}
        for side, name, score in (("before", "base", 0.0), ("after", "iter_1", 1.0))
    }
    text = json.dumps({"rule": "r", "task": "Name it.", "wanted": []} | sides)
    (run / "eval/small_world/before_after.json").write_text(text)


def test_it_says_what_was_learned_how_sure_and_shows_one_task(tmp_path):
    run = make(tmp_path / "run")
    compared(run, "X is Y.")
    text = " ".join(printed(run, 400).split())
    assert "true score, sampled: base 0.188 ± 0.098 iter_1 0.438 ± 0.098" in text
    assert "task by task: +0.250 ± 0.000 (more than chance explains)" in text
    assert "Solver's reward: 0.25 → 0.75" in text
    assert "one task: Name it." in text
    assert "iter_1: true score 1: X is Y." in text
    assert "report.html" in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_it_fits_one_screen_whatever_a_model_has_said(tmp_path, width):
    run = make(tmp_path / "run")
    compared(run, HOSTILE * 50)
    lines = printed(run, width).splitlines()
    assert len(lines) <= 30 and all(len(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines) and "\u202e" not in "".join(lines)


def test_a_run_without_an_evaluation_has_one_too(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "ci"}')
    assert "report.html" in printed(tmp_path, 400)  # a long path is folded
