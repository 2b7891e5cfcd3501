"""Ranges of settings: finite numbers that are in their range as float32, too.

A setting has its range in its annotation, ``steps: Annotated[int, Range(least=0)]`` or
one of the aliases below, and ``check_fields`` in its class refuses anything else.

A setting is read in double precision, and most are used in single: 1e-50 is then 0,
0.99999999 is 1, and 1e39 is infinite. What a range excludes must stay excluded, or a
division by 0 and a moment that never moves come back through rounding.
"""

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import numpy as np

from models.errors import UserError

SINGLE = np.finfo(np.float32)
SMALLEST, LARGEST = float(SINGLE.tiny), float(SINGLE.max)
WHOLE = 2**31 - 1
"""The largest count: on the device, counts are int32."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a number may be; always finite.

    Attributes:
      above, least: exclusive and inclusive lower bound.
      below, most: exclusive and inclusive upper bound.
      gap: how large what is not 0 has to be.
    """

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    gap: float = SMALLEST  # smaller ones are flushed to 0 on nearly every device

    def problem(self, value: float) -> str:
        """What ``value`` must be instead, and empty if it is.

        A whole number is compared as it is. Any other number must be in the range as
        it is written and as float32, where it must not become 0 or infinite.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            if not self._holds(value) and self.most == WHOLE and value < WHOLE:
                return f"must be at least {self.least}"
            return "" if self._holds(value) else f"must be {self.words()}"
        if not (math.isfinite(value) and self._holds(value)):
            return f"must be {self.words()}"
        if value and not self.gap <= abs(value) <= LARGEST:
            zero = "0 or " if self._holds(0) else ""
            return f"must be {zero}between {self.gap:.3g} and {LARGEST:.3g} in size"
        if not self._holds(rounded := float(np.float32(value))):
            return f"must be {self.words()}, but is {rounded:g} in single precision"
        return ""

    def words(self) -> str:
        """The range, for a person."""
        if self.least is not None and self.most is not None:
            return f"between {self.least} and {self.most}"
        bounds = {
            "above": self.above,
            "at least": self.least,
            "less than": self.below,
            "at most": self.most,
        }
        said = [f"{word} {at}" for word, at in bounds.items() if at is not None]
        return " and ".join(said or ["finite"])

    def _holds(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )


NOT_NEGATIVE = Range(least=0)
POSITIVE = Range(above=0)
TEMPERATURE = Range(least=0, gap=1e-6)
"""0 is greedy. Logits divided by much less than the gap are infinite."""
POSITIVE_TEMPERATURE = Range(above=0, gap=TEMPERATURE.gap)
"""A temperature that is not 0."""

Count = Annotated[int, Range(least=1, most=WHOLE)]
CountOrZero = Annotated[int, Range(least=0, most=WHOLE)]
Share = Annotated[float, Range(least=0, most=1)]
Finite = Annotated[float, Range()]
"""A weight, which may also be negative."""


@functools.cache
def of(cls: type) -> dict[str, Range]:
    """The range of each field of a dataclass that has one in its annotation."""
    return {
        name: extra
        for name, hint in get_type_hints(cls, include_extras=True).items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Range)
    }


def problem_of(settings: Any, *, but: tuple[str, ...] = ()) -> str:
    """Of the first field out of its range: ``name=value: must be ..``; else empty.

    None, where a field may be None, is in every range.

    Args:
      but: fields that may have any value.
    """
    for name, allowed in of(type(settings)).items():
        value = getattr(settings, name)
        if name in but or value is None:
            continue
        if problem := allowed.problem(value):
            return f"{name}={value}: {problem}"
    return ""


def check_fields(settings: Any) -> None:
    """Raises for the first field of a dataclass that is out of its range.

    Raises:
      UserError: the field, its value and what it may be.
    """
    if problem := problem_of(settings):
        raise UserError(problem)
