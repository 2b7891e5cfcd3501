"""Every worked example that the method must reproduce is a test, by its number."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = ("scope_jax", "models/test_chat.py", "retrieval/test_search.py")

EXAMPLES = {*range(1, 93), *range(99, 105), 111, 112}
"""93-98 belong to the update, 105-110 to benchmarks of evaluation."""


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
