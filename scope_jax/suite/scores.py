"""What a judge's words are worth: parsers and formulas, item by item (spec 13.1).

Every function takes what a judge wrote (or what was read of it) and returns a share
from 0 to 1. What cannot be read has the value that the reference gives it.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scope_jax.method.compat import Compat
from scope_jax.method.formats import json_value
from scope_jax.method.judge import verdict_text
from scope_jax.method.solver import exact_match, plain

DIMENSIONS = ("depth", "structure", "relevance", "accuracy", "completeness")
"""Five marks of a report."""

_OPENS = re.compile(r"^```(?:json)?\s*", re.IGNORECASE)
_CLOSES = re.compile(r"\s*```$")
_FLAT = re.compile(r"\{[^{}]*\}")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def json_object(text: str, compat: Compat) -> dict[str, Any]:
    """The object that a judge wrote, read behind its thinking; empty if there is none.

    The whole text without a code fence, else the first ``{..}`` without others in it.
    """
    verdict = (verdict_text(text, compat) or "").strip()
    whole = json_value(_CLOSES.sub("", _OPENS.sub("", verdict)))
    if isinstance(whole, dict):
        return whole
    first = _FLAT.search(verdict)
    inner = json_value(first[0]) if first else None
    return inner if isinstance(inner, dict) else {}


def mark(found: Mapping[str, Any], name: str) -> float | None:
    """A finite number that an object holds, also as text; None if it holds none."""
    value = found.get(name)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Not isfinite(): it can't take a whole number of 400 digits, and Python reads one.
    return float(value) if abs(value) <= sys.float_info.max else None


def met(text: str, compat: Compat) -> bool:
    """Whether a criterion is met: ``criteria_met`` is JSON's true, and nothing else."""
    return json_object(text, compat).get("criteria_met") is True


def criteria(verdicts: Sequence[float], weights: Sequence[float]) -> float:
    """Weights met over positive weights, cut to [0, 1]; 0 if no weight is positive."""
    most = sum(weight for weight in weights if weight > 0)
    if most <= 0:
        return 0.0
    total = sum(w * share for share, w in zip(verdicts, weights, strict=True))
    return _clip(total / most)


def quality(text: str, compat: Compat) -> float:
    """One mark from 1 to 5; an absent one is 3."""
    return _five(mark(json_object(text, compat), "content_quality"))


def report(text: str, compat: Compat) -> float:
    """The mean of five marks from 1 to 5; an absent one is 3."""
    found = json_object(text, compat)
    return sum(_five(mark(found, name)) for name in DIMENSIONS) / len(DIMENSIONS)


def checklist(text: str, compat: Compat) -> float:
    """One mark from 1 to 10; an absent one is 1."""
    value = mark(json_object(text, compat), "score")
    return _clip(((1.0 if value is None else value) - 1) / 9)


def _five(value: float | None) -> float:
    return _clip(((3.0 if value is None else value) - 1) / 4)


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def short_form(answer: str, golds: Sequence[str]) -> dict[str, float]:
    """Exact match and token F1 against the nearest right answer, without a judge.

    Both after the usual normalisation: case, punctuation and articles aside.
    """
    said = plain(answer).split()
    best = 0.0
    for gold in golds:
        wanted = plain(gold).split()
        shared = sum((Counter(said) & Counter(wanted)).values())
        if shared:
            best = max(best, 2 * shared / (len(said) + len(wanted)))
    exact = bool(answer) and exact_match(answer, golds)
    return {"exact_match": float(exact), "f1": best}


# Two answers side by side -------------------------------------------------------------

_DOUBLE = re.compile(r"\[\[\s*([AB<>=]+)\s*\]\]", re.IGNORECASE)
_SINGLE = re.compile(r"\[\s*([AB<>=]+)\s*\]", re.IGNORECASE)

LABELS: dict[str, tuple[float, ...]] = {
    "A>>B": (1.0, 1.0, 1.0),
    "A>B": (1.0,),
    "A=B": (0.5,),
    "B>A": (0.0,),
    "B>>A": (0.0, 0.0, 0.0),
}
"""What a verdict counts for A; a strong one counts three times."""

LABELS |= {
    "B<<A": LABELS["A>>B"],
    "B<A": LABELS["A>B"],
    "B=A": LABELS["A=B"],
    "A<B": LABELS["B>A"],
    "A<<B": LABELS["B>>A"],
}


def label(text: str, compat: Compat) -> str | None:
    """The last ``[[label]]``, else the last ``[label]``; None if it is no verdict."""
    verdict = verdict_text(text, compat) or ""
    found = _DOUBLE.findall(verdict) or _SINGLE.findall(verdict)
    said = found[-1].upper() if found else ""
    return said if said in LABELS else None


def pairwise(first: str | None, second: str | None) -> float:
    """A model's share against a baseline.

    Args:
      first: label with the baseline as A.
      second: label with the model as A.
    """
    values = [1 - value for value in LABELS.get(first or "", ())]
    values += LABELS.get(second or "", ())
    return sum(values) / len(values) if values else 0.5
