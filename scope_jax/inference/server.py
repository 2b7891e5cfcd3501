"""The inference process: ``python -m scope_jax.inference.server --config-file JSON``.

It listens at once and loads in the background, so that a client meets a closed port
only for a moment; ``/ready`` says what is still missing. ``scripts/serve.py`` is the
friendly form for a person.
"""

import argparse
import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from models.errors import StorageError, UserError
from retrieval.search import Searcher
from scope_jax.inference.access import Secrets, check_reach, forget
from scope_jax.inference.app import App
from scope_jax.inference.batcher import SearchBatcher
from scope_jax.inference.config import ServerSettings
from scope_jax.inference.connections import patient
from scope_jax.inference.errors import ApiError
from scope_jax.inference.models import ModelTable
from scope_jax.system import settings as settings_io
from scope_jax.system.heap import share_arenas

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
      UserError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    # A restarted server takes its old port although connections linger in TIME_WAIT.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(4096)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host}: in use: choose another, or 0 for a free one"
            ) from error
        raise UserError(f"{host}:{port}: {error.strerror}: choose another") from error
    return sock


def serve(
    settings: ServerSettings,
    given: Secrets,
    *,
    announce: Callable[[str], None] = lambda line: None,
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code.

    Args:
      given: the secrets that its clients have to show.
      announce: told where the server listens, and when it is ready.

    Raises:
      UserError: the port is in use, others could use it without a key, or something to
        be loaded is bad.
    """
    # Whoever computes in Python lets others go on after this many seconds, not 5 ms: an
    # answer of /health takes several turns.
    sys.setswitchinterval(0.001)
    share_arenas()
    if settings.parent:
        _watch_parent(settings.parent)
    process = _Process(settings, given, announce)
    config = uvicorn.Config(
        process.app.starlette(process.lifespan),
        http=patient(settings.inference.client_timeout),
        # No WebSockets: a request for one is answered as any other.
        ws="none",
        log_config=None,
        access_log=False,
        # A trainer has gone, or wants nothing more; others still wait for answers.
        timeout_graceful_shutdown=5
        if settings.parent
        else math.ceil(settings.inference.request_timeout),
        # Clients keep connections between the turns of their conversations.
        timeout_keep_alive=300,
    )
    process.server = _Server(config, alone=not settings.parent)
    process.server.run(sockets=[process.socket])
    if process.failure is not None:
        raise process.failure
    return 0


class _Server(uvicorn.Server):
    """uvicorn that ends with exit code 0 when it is asked to end.

    Args:
      alone: nobody kills it if it takes long to end: a second signal does it at once.
    """

    def __init__(self, config: uvicorn.Config, *, alone: bool):
        super().__init__(config)
        self.alone = alone

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        yield

    def _end(self, number: signal.Signals) -> None:
        if self.alone and self.should_exit:
            os._exit(128 + number)
        self.should_exit = True


class _Process:
    """Start and end of what the routes need."""

    def __init__(
        self, settings: ServerSettings, given: Secrets, announce: Callable[[str], None]
    ):
        self.settings, self.announce = settings, announce
        inference, retrieval = settings.inference, settings.retrieval
        topk = retrieval.top_k if retrieval else 3
        check_reach(inference.host, given.api)
        self.app = App(
            inference,
            default_topk=topk,
            given=given,
            named=frozenset(source.path for source in settings.models.values()),
        )
        self.app.missing = {name: "the server is starting" for name in settings.models}
        if retrieval is not None:
            self.app.missing["retrieval"] = "loading passages and index"
        self.app.on_fatal = self.fail
        self.failure: Exception | None = None
        self.server: uvicorn.Server | None = None
        self.socket = bind(inference.host, inference.port)
        self.port = self.socket.getsockname()[1]
        self.write_state()
        announce(f"listening on http://{inference.host}:{self.port}")

    def fail(self, error: Exception) -> None:
        """Ends the process with this error, once its answers are out."""
        assert self.server is not None
        self.failure = self.failure or error
        self.server.should_exit = True

    def write_state(self) -> None:
        """Writes the settings of a server that takes over: this port, these models."""
        if not self.settings.state_file:
            return
        models = self.app.models.wanted if self.app.models else self.settings.models
        inference = replace(self.settings.inference, port=self.port)
        state = replace(self.settings, inference=inference, models=dict(models))
        settings_io.save(state, Path(self.settings.state_file))

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Loads in the background while the server already answers."""
        loading = asyncio.create_task(self._load())
        try:
            yield
        finally:
            loading.cancel()
            if self.app.models is not None:
                await self.app.models.close()

    async def _load(self) -> None:
        start = time.monotonic()
        try:
            await asyncio.gather(self._load_retrieval(), self._load_models())
        except Exception as error:
            self.fail(error)
            return
        self.announce(f"ready after {time.monotonic() - start:.0f} s")

    async def _load_retrieval(self) -> None:
        config = self.settings.retrieval
        if config is None:
            return
        searcher = await asyncio.to_thread(Searcher, config)
        inference = self.settings.inference
        self.app.search = SearchBatcher(
            searcher.search, batch=inference.search_batch, max_queue=inference.max_queue
        )
        del self.app.missing["retrieval"]
        self.app.search_started.set()

    async def _load_models(self) -> None:
        table = await asyncio.to_thread(
            ModelTable,
            self.settings.inference.engine,
            replicas=self.settings.replicas,
            dtype=self.settings.dtype,
            roots=self.settings.model_roots,
            on_change=self.write_state,
        )
        sources = self.settings.models
        table.wanted = dict(sources)
        table.loading = {name: "waiting for its turn" for name in sources}
        self.app.models = table
        self.app.models_started.set()
        for name, source in sources.items():
            try:
                await table.load(name, source)
            except ApiError as error:
                # For the owner, with its paths; answers have none.
                raise error.__cause__ or UserError(error.message) from error
            del self.app.missing[name]


def _watch_parent(parent: int) -> None:
    """Ends this process at once when its parent is gone: no orphan keeps a GPU."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        log.warning("parent process %d is gone: exiting", parent)
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def main(argv: Sequence[str]) -> int:
    """Runs the process as the supervisor starts it; all it says goes to stderr."""
    parser = argparse.ArgumentParser(prog="scope_jax.inference.server")
    parser.add_argument("--config-file", type=Path, required=True)
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # One line per request and per compiled program is too much for a log of days.
    for noisy in ("httpx", "jax", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = settings_io.load(ServerSettings, arguments.config_file)
        given = Secrets.from_environment()
        forget()
        return serve(settings, given, announce=log.info)
    except (UserError, StorageError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
