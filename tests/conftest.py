"""Four simulated CPU devices for every test, and a tiny model that compiles fast.

What one test has compiled, the others of the session read: their workers, and the
programs that they start, share one folder of compiled programs, which is empty at the
beginning and gone at the end.
"""

import logging
import os
import shutil
import signal
import tempfile

# Before jax is imported anywhere: the number of devices is fixed at its start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    ).strip()

# Made by the process that starts the workers: they, and what they start, inherit it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(prefix="compiled-"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

import pytest


def pytest_unconfigure():
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(items):
    """The longest file first, or one worker of several ends alone with it."""
    items.sort(key=lambda item: item.path.name != "test_run.py")


@pytest.fixture(scope="session", autouse=True)
def only_programs_of_one_device_are_read():
    """As the program does it: CPU programs over several devices, read, may deadlock."""
    from jax._src import compilation_cache

    read = compilation_cache.get_executable_and_time

    def read_some(cache_key, compile_options, backend, devices):
        if len(devices) > 1:
            return None, None
        return read(cache_key, compile_options, backend, devices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation_cache, "get_executable_and_time", read_some)
        yield


@pytest.fixture(autouse=True)
def a_script_leaves_nothing_behind():
    """A script's main sets up logging and signals for a process of its own.

    So does import-linter's, which turns all loggers off that are there.
    """
    from scope_jax.system import stopping

    root, numbers = logging.getLogger(), stopping.SIGNALS
    handlers, level = root.handlers[:], root.level
    before = [signal.getsignal(number) for number in numbers]
    yield
    root.handlers[:], root.level = handlers, level
    for logger in list(root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.disabled = False
    stopping._notes.received, stopping._notes.at_once = None, False
    for number, handler in zip(numbers, before, strict=True):
        if signal.getsignal(number) is not handler:
            signal.set_wakeup_fd(-1)
            signal.signal(number, handler)


@pytest.fixture
def compiled_here(monkeypatch):
    """For tests that look into a program: one that was read says less of itself."""
    from jax._src import compilation_cache as cache

    monkeypatch.setattr(cache, "get_executable_and_time", lambda *_: (None, None))


@pytest.fixture(scope="module")
def compiled_quickly():
    """Half of the compiler's time, for tests that compare up to a tolerance.

    Not for those of equal bits in programs of different shapes: these must hold in the
    code that users run.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def tiny_config():
    """A Qwen3-shaped decoder: 2 layers, D 32, 4 heads over 2 key/value heads, V 64."""
    from models.config import DecoderConfig

    return DecoderConfig(
        model_type="qwen3",
        vocab_size=64,
        num_layers=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        tie_embeddings=False,
        max_position=256,
    )


@pytest.fixture(scope="session")
def tiny_params(tiny_config):
    """Random float32 parameters of ``tiny_config``; nothing may write to them."""
    import jax

    from models import forward

    # One program, not one for each of init's operations.
    return jax.jit(forward.init, static_argnums=0)(tiny_config, jax.random.key(0))
