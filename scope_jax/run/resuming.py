"""Whether a run may go on with other settings than it was begun with."""

from dataclasses import replace

from models import precision
from scope_jax.config import Config
from scope_jax.system import settings

# They change no result, except for rounding: on another mesh, with other sizes of pages
# and chunks, by another backend.
ENGINE = ("slots", "cache_tokens", "decode_steps", "page_size", "attention")
ENGINE += ("prefill_chunk", "prefill_rows", "prefill_calls")
HARMLESS = ("tracking", "placement", "checkpoint", "evaluation", "inference.port")
HARMLESS += ("inference.ready_timeout", "inference.request_timeout")
HARMLESS += ("solver.reward_timeout", "tools_timeout")
HARMLESS += ("inference.search_timeout", "inference.health_timeout")
HARMLESS += ("inference.outage_timeout", "inference.max_restarts")
HARMLESS += tuple(f"engine.{name}" for name in ENGINE)
HARMLESS += tuple(f"inference.engine.{name}" for name in ENGINE)


def differences(saved: Config, config: Config) -> list[str]:
    """One line per setting that differs and must not.

    More iterations may be asked for: no earlier one depends on how many follow.
    ``model.dtype`` differs only where it means something else on this machine: so runs
    on CPUs go on that were begun before `tiny` asked for float32.
    """
    if saved.model.dtype != config.model.dtype:
        saved, config = _resolved(saved), _resolved(config)
    saved = extended(saved, config)
    return settings.differences(saved, config, ignore=HARMLESS)


def extended(saved: Config, config: Config) -> Config:
    """The settings that a run was begun with, and as many iterations as now wanted."""
    return replace(saved, iterations=max(saved.iterations, config.iterations))


def _resolved(config: Config) -> Config:
    """With the type that ``auto`` is here."""
    import jax

    dtype = precision.resolved(config.model.dtype, jax.default_backend()).name
    return replace(config, model=replace(config.model, dtype=dtype))
