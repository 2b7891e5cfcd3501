"""What engines did in a step: prompt tokens computed and saved, and how fast.

An engine counts from its start; the numbers of a step are differences.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rl.engine.engine import Engine

Totals = dict[str, float]
"""An engine's counters, by the names in ``COUNTERS``."""

COUNTERS = (
    *("prefill_tokens", "cached_tokens", "decode_tokens"),
    *("prefill_seconds", "decode_seconds", "slot_steps", "restarts", "non_finite"),
)
"""Prompt tokens computed, prompt tokens found in the cache, tokens sampled; seconds of
prefill and decode; how many tokens all slots together could have sampled in the decode
steps; how often a sequence had to start again because the cache was full; requests that
ended because the model's logits were not finite."""


def totals(engine: Engine) -> Totals:
    """What an engine has counted since its start; call it in the engine's thread."""
    stats = engine.stats()
    stats["perf/slot_steps"] = stats["perf/decode_steps"] * engine.config.slots
    return {name: float(stats[f"perf/{name}"]) for name in COUNTERS}


class Meter:
    """Differences between totals, engine by engine."""

    def __init__(self):
        self._before: Mapping[Any, Totals] | None = None

    def since(self, now: Mapping[Any, Totals] | None) -> dict[Any, Totals]:
        """What was done since the last call, by the engine's id.

        Args:
          now: id -> totals. An id that was not there the last time belongs to an engine
            that started in between, from 0. None where the totals are not known: the
            next call then covers this time too.

        Returns:
          nothing at the first call, which has nothing to compare with.
        """
        if now is None:
            return {}
        before, self._before = self._before, now
        if before is None:
            return {}
        return {
            id: {n: v - before[id][n] if id in before else v for n, v in one.items()}
            for id, one in now.items()
        }


def metrics(own: Sequence[Totals], served: Mapping[str, Totals]) -> dict[str, float]:
    """A step's metrics, ``perf/rollout_*`` and for each served model ``perf/NAME_*``.

    Args:
      own: what the engines that play the rollouts did, one per process.
      served: what each other engine did, by the name of its model.
    """
    found = _metrics("rollout", own)
    for name, one in served.items():
        found |= _metrics(name, [one])
    return found


def _metrics(name: str, work: Sequence[Totals]) -> dict[str, float]:
    """Metrics of engines that shared some work; none where there was none.

    Tokens and rates are sums: engines run side by side.
    """
    sums = {key: sum(one.get(key, 0.0) for one in work) for key in COUNTERS}
    found = {}
    if prompts := sums["prefill_tokens"] + sums["cached_tokens"]:
        found["prefill_tokens"] = sums["prefill_tokens"]
        found["saved_tokens"] = sums["cached_tokens"]
        found["saved_share"] = sums["cached_tokens"] / prompts
    if sums["slot_steps"]:
        found["sampled_tokens"] = sums["decode_tokens"]
        found["busy_share"] = sums["decode_tokens"] / sums["slot_steps"]
        found["restarts"] = sums["restarts"]
        found["non_finite"] = sums["non_finite"]
    for kind in ("prefill", "decode"):
        rates = [
            one[f"{kind}_tokens"] / one[f"{kind}_seconds"]
            for one in work
            if one.get(f"{kind}_tokens")
        ]
        if rates:
            found[f"{kind}_tokens_per_second"] = sum(rates)
    return {f"perf/{name}_{key}": value for key, value in found.items()}
