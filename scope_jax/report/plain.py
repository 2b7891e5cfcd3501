"""Values of files that anybody may have changed, as a page can hold them."""

import json
import math
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float holds."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def short(value: Any) -> float | None:
    """A number of six digits; None for what is none."""
    return float(f"{value:.6g}") if is_number(value) else None


def number(value: Any) -> int | float | None:
    """A number as it is; None for what is none."""
    return value if is_number(value) else None


def parse(text: str) -> Any:
    """JSON; NaN and infinities, which browsers do not read, become null.

    Raises:
      ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def clean(value: Any) -> Any:
    """What was parsed elsewhere, without NaN and infinities."""
    return parse(json.dumps(value))
