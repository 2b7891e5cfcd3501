"""What a step measures: time, engine work, compilations, means over its rollouts."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from rl.engine import counters
from scope_jax.selfplay.policy_engine import PolicyEngine
from scope_jax.selfplay.rollouts import Rollout
from scope_jax.selfplay.serving import Serving
from scope_jax.system.compilation import Compilations
from scope_jax.system.hosts import Hosts


class StepMeter:
    """Measures one step after another.

    ``start``, then ``lap`` at the end of each part, then ``finish``.
    """

    def __init__(self, engine: PolicyEngine, serving: Serving, hosts: Hosts):
        self._engine, self._serving, self._hosts = engine, serving, hosts
        self._compilations = Compilations()
        self._last = time.monotonic()

    def start(self) -> None:
        """A step begins."""
        self._compiled_before = self._compilations.count
        self._last, self._laps = time.monotonic(), {}

    def lap(self, name: str) -> float:
        """Seconds since the last lap; they become ``time/NAME``."""
        now = time.monotonic()
        self._laps[name] = now - self._last
        self._last = now
        return self._laps[name]

    async def engine_work(self, *, alone: bool = False) -> dict[str, float]:
        """Metrics of what all engines have done since this was asked last.

        The time that asking takes belongs to no lap.

        Args:
          alone: only this process has worked; the others do not ask.
        """
        started = time.monotonic()
        own, served = await self._engine.work(), await self._serving.work()
        every = [own] if alone else self._hosts.all_gather(own)
        self._last += time.monotonic() - started
        return counters.metrics(every, served)

    def finish(self) -> dict[str, float]:
        """The step's times and compilations as metrics."""
        compiled = self._compilations.count - self._compiled_before
        times = {f"time/{name}": seconds for name, seconds in self._laps.items()}
        return times | {"perf/compilations": float(compiled)} | memory()


def memory() -> dict[str, float]:
    """The most memory that this process has held so far, in MiB: host and device."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"perf/memory_mib": most / (2**20 if sys.platform == "darwin" else 2**10)}
    stats = jax.local_devices()[0].memory_stats() or {}  # a CPU has none
    if "peak_bytes_in_use" in stats:
        found["perf/device_memory_mib"] = stats["peak_bytes_in_use"] / 2**20
    return found


def step_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over a step's rollouts, and how the rewards spread.

    Those that were posed in another way are counted, with a mean score of their own,
    and are no part of the rest.
    """
    every, rollouts = rollouts, [one for one in rollouts if not one.posed]
    rewards = np.array([rollout.reward for rollout in rollouts])
    groups = np.array([rollout.group for rollout in rollouts])
    spread = [np.ptp(rewards[groups == group]) > 0 for group in np.unique(groups)]
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "reward/min": float(rewards.min()),
        "reward/max": float(rewards.max()),
        "reward/groups_that_differ": float(np.mean(spread)),
        "rollout/tokens": float(sum(one.sampled_tokens for one in every)),
        "rollout/turns": _mean(one.turns for one in rollouts),
        "rollout/left_out": float(sum(one.left_out for one in rollouts)),
    }
    played, rewarded = (sum(one.seconds[i] for one in rollouts) for i in (0, 1))
    if played + rewarded:
        metrics["perf/reward_share"] = rewarded / (played + rewarded)
    for reason in ("done", "turns", "length", "error"):
        metrics[f"rollout/finished_{reason}"] = _mean(
            one.finish_reason == reason for one in rollouts
        )
    for key in sorted({key for one in rollouts for key in one.metrics}):
        values = np.array([one.metrics.get(key, np.nan) for one in rollouts])
        if np.isfinite(values).any():
            metrics[key] = float(np.nanmean(values))
    metrics |= _posed_metrics(every)
    return metrics | error_counts(error for one in rollouts for error in one.errors)


def _posed_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Number and mean score of the rollouts that were posed in each other way."""
    metrics = {}
    for posed in sorted({one.posed for one in rollouts} - {""}):
        own = [one for one in rollouts if one.posed == posed]
        scores = [one.metrics["reward/rubric_score"] for one in own]
        metrics[f"posed/{posed}"] = float(len(own))
        metrics[f"posed/{posed}_score"] = float(np.mean(scores))
    return metrics


def error_counts(errors: Iterable[str]) -> dict[str, float]:
    """How often each class of error occurred, as metrics; one that did not has none."""
    return {
        f"errors/{error.replace(' ', '_')}": float(count)
        for error, count in sorted(Counter(errors).items())
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
