"""Ranges of settings hold in double and in single precision."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ranges import (
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_TEMPERATURE,
    TEMPERATURE,
    Range,
)

SHARE = Range(least=0, below=1)
AT_LEAST_1 = Range(least=1)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.999999, 0, 1e-30])
def test_what_a_range_holds(value):
    assert SHARE.problem(value) == ""


@pytest.mark.parametrize(
    ("allowed", "value", "why"),
    [
        (POSITIVE, 0.0, "must be above 0"),
        (POSITIVE, -1.0, "must be above 0"),
        (POSITIVE, math.nan, "must be above 0"),
        (POSITIVE, math.inf, "must be above 0"),
        (POSITIVE, 1e-50, "must be between 1.18e-38 and 3.4e\\+38 in size"),
        (POSITIVE, 1e-40, "must be between"),  # flushed to 0 on most devices
        (TEMPERATURE, 2e-38, "must be 0 or between 1e-06 and 3.4e\\+38 in size"),
        (POSITIVE_TEMPERATURE, 2e-38, "must be between 1e-06 and 3.4e\\+38 in size"),
        (TEMPERATURE, -0.1, "must be at least 0"),
        (NOT_NEGATIVE, 1e39, "must be 0 or between"),
        (SHARE, 1.0, "must be at least 0 and less than 1$"),
        (SHARE, 0.99999999, "less than 1, but is 1 in single precision"),
        (AT_LEAST_1, 0, "must be at least 1"),
        (Range(least=0, below=2**31), 2**31, "less than 2147483648"),
        (Range(), math.nan, "must be finite"),
    ],
)
def test_what_it_refuses_and_why(allowed, value, why):
    import re

    assert re.search(why, allowed.problem(value))


@given(st.floats() | st.integers(-3, 3))
def test_a_number_that_passes_passes_as_float32_too(value):
    for allowed in (
        POSITIVE,
        NOT_NEGATIVE,
        TEMPERATURE,
        POSITIVE_TEMPERATURE,
        SHARE,
        AT_LEAST_1,
        Range(most=2.5),
    ):
        if not allowed.problem(value):
            single = float(np.float32(value))
            assert math.isfinite(single) and allowed._holds(single)
            assert bool(single) == bool(value)
