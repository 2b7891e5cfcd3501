"""Every worked example of the method, and every quirk that shows, is a test."""

import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
FILES = (
    "scope_jax",
    "models/test_chat.py",
    "retrieval/test_search.py",
    "rl/learner/test_advantages.py",
    "rl/learner/test_data_order.py",
    "rl/learner/test_losses.py",
    "rl/learner/test_packing.py",
)

EXAMPLES = {*range(1, 105), 111, 112}
"""105-110 belong to benchmarks of evaluation."""

QUIRKS = set(range(1, 55))
UNTESTED = {
    1: "of the reference's scripts",
    2: "of the reference's scripts",
    21: "optional, and not taken up",
    23: "tests/test_run.py: whole runs, killed and resumed",
    27: "tests/scope_jax/run/test_run_folder.py: a folder holds one configuration",
    38: "evaluation reports scores; no reward goes into them",
    43: "parts that the reference lacks",
    44: "dead parts of the reference",
    45: "documentation",
    47: "an exception in a reward ends the run: nothing computes it again",
}
"""Rows of section 15 without a test of their own, and why."""


class Claims:
    """What the collected tests say they are; a skipped test claims nothing."""

    def __init__(self):
        self.numbers: dict[str, dict[int, list[str]]] = {"example": {}, "quirk": {}}

    def pytest_collection_finish(self, session):
        for item in session.items:
            if item.get_closest_marker("skip"):
                continue
            for kind, numbers in self.numbers.items():
                for mark in item.iter_markers(kind):
                    for number in mark.args:
                        numbers.setdefault(number, []).append(item.nodeid)


@pytest.fixture(scope="module")
def claims():
    found = Claims()
    paths = [str(TESTS / name) for name in FILES]
    options = ["--collect-only", "-qq", "-p", "no:cacheprovider"]
    assert pytest.main([*options, *paths], plugins=[found]) == 0
    return found.numbers


def test_every_worked_example_is_a_test(claims):
    assert sorted(EXAMPLES - claims["example"].keys()) == []


def test_no_example_is_claimed_that_is_not_there(claims):
    assert sorted(claims["example"].keys() - set(range(1, 113))) == []


def test_what_the_page_calls_kept_is_shown_to_be(claims):
    """No excuse counts for a row that docs/method.md calls kept."""
    page = (TESTS.parent / "docs" / "method.toml").read_text(encoding="utf-8")
    kept = {row["n"] for row in tomllib.loads(page)["quirk"] if row["we"] == "keep"}
    assert len(kept) > 15
    assert sorted(kept - claims["quirk"].keys()) == []


def test_every_quirk_is_a_test_or_says_why_it_is_none(claims):
    assert sorted(QUIRKS - claims["quirk"].keys() - UNTESTED.keys()) == []
    assert sorted(claims["quirk"].keys() & UNTESTED.keys()) == []
    assert sorted(claims["quirk"].keys() - QUIRKS) == []
