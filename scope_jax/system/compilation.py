"""Compiled programs: kept on disk between starts, and counted."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

from scope_jax.system.files import cache_dir


def keep_programs() -> None:
    """Keeps every compiled program in a local folder, so that a restart finds it.

    The folder is this kind of processor's own: XLA's CPU programs hold its
    instructions. What the user has set in the environment stays. Processes that are
    started from here do the same.

    Not where CPU devices are simulated: cached programs over several of them may
    deadlock.
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    settings = {
        "jax_compilation_cache_dir": str(cache_dir() / "xla" / _processor()),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    except OSError:
        told = platform.processor()
    return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()


class Compilations:
    """Counts the programs that this process compiles, or reads back, from now on."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1
