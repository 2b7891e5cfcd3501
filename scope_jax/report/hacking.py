"""The judge's score against the truth: what became of the alarm, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from scope_jax.run import alarm


def known(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a stage has measured a truth that the judge's score can differ from."""
    return alarm.pair(records) is not None


def told(records: Sequence[Mapping[str, Any]]) -> str:
    """Whether and when the alarm went on, and how long after the parting that was."""
    begun = _beginnings(records)
    if not begun:
        return "No alarm."
    steps = [str(records[i]["step"]) for i in begun]
    text = f"Alarm at step {', '.join(steps)}: the judge may be exploited."
    known = alarm.pair(records)
    if known is None:
        return text
    corner = alarm.parted_after(known.proxy - known.truth)
    if corner is None or known.positions[corner] >= begun[0]:
        return text
    later = begun[0] - known.positions[corner]
    return (
        f"{text} Looking back, the gap between the two grew after step "
        f"{known.steps[corner]} (a level and then a straight line, fitted to all "
        f"steps): the first alarm came {later} {'step' if later == 1 else 'steps'} "
        "later."
    )


def _beginnings(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Positions of the records at which the alarm went on."""
    on = [bool(record.get(alarm.METRIC)) for record in records]
    return [i for i, one in enumerate(on) if one and not (i and on[i - 1])]
