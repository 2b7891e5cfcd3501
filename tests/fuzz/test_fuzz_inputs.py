"""A few of the inputs that nobody means; more by hand, see ``fuzz_inputs``."""

import pytest
from fuzz_inputs import fuzz


@pytest.mark.parametrize(
    ("target", "count", "outcomes"),
    [
        ("parsers", 1500, {"task", "answer", "neither"}),
        ("passages", 400, {"read", "refused"}),
        ("overrides", 60, {"taken", "refused", "stored: refused"}),
    ],
)
def test_no_input_is_anything_but_data_or_one_line(target, count, outcomes):
    counts, wrong, _ = fuzz(target, 1, range(count))
    assert wrong == []
    assert set(counts) >= outcomes and counts.total() == count
