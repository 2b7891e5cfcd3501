"""Tests say which worked examples and which quirks of the specification they are.

``@pytest.mark.example(77)`` on a test, ``example(9, ..)`` for a case of a parametrised
one; ``@pytest.mark.quirk(33)`` likewise for a row of its section 15. ``test_examples``
collects them and misses none.
"""

import pytest


def example(number: int, *values, id: str = ""):
    """A case that is worked example ``number``."""
    name = f"{number} {id}".strip()
    return pytest.param(*values, id=name, marks=pytest.mark.example(number))
