"""This process's memory: given back when it is free, and not scattered over threads."""

import ctypes
import gc
import os
import sys
from typing import Any

_ARENA_MAX = -8
"""glibc's name for the parameter, in malloc.h."""


def return_memory() -> None:
    """Returns free memory to the system, where the C library would keep it.

    The compiler's is most of it: 2.7 GB after the update of a model of 0.5B parameters.
    """
    gc.collect()
    if trim := _glibc("malloc_trim"):
        trim(0)


def settle() -> None:
    """``return_memory``, and what is left now is never searched for garbage again.

    That takes 0.2 s with JAX and a model in memory, whenever many new values are made,
    and no thread goes on meanwhile. Call it again when large things have gone.
    """
    gc.unfreeze()
    return_memory()
    gc.freeze()


def share_arenas() -> None:
    """Lets threads share the C library's memory: an arena for each processor.

    It has eight, in each of which free memory stays behind, never where it is wanted
    next: a server under load grew for as long as it was watched. Call it before there
    are threads. What the user has set in the environment stays.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "GLIBC_TUNABLES" in os.environ:
        return
    if mallopt := _glibc("mallopt"):
        mallopt(_ARENA_MAX, max(2, len(os.sched_getaffinity(0))))


def _glibc(name: str) -> Any:
    """A function of the C library; None where the library is another one."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)
