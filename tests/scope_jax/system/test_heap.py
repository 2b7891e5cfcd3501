"""What a process does with its memory, on glibc."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os, threading
from scope_jax.system import heap

os.sched_getaffinity = lambda pid: {0, 1, 2}
%s
together = threading.Barrier(24)

def work():
    kept = bytearray(100_000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(24)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas(first, **environment):
    """How many arenas 24 threads at once have, behind the line ``first``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM % first]
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_threads_share_an_arena_for_each_processor_or_as_many_as_the_user_says():
    share = "heap.share_arenas()"
    assert arenas("") > 7  # eight for each processor, or one for each thread
    assert arenas(share) == 3
    assert arenas(share, MALLOC_ARENA_MAX="6") == 6
    assert arenas(share, GLIBC_TUNABLES="glibc.malloc.arena_max=6") == 6
