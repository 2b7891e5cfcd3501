"""Other places that a run's metrics are copied to: W&B, trackio, Prometheus.

``metrics.jsonl`` stays the record. A copy that fails is given up with one warning: it
must not end a run. Steps that are made again after an interruption are sent again.
"""

import hashlib
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from models.errors import UserError, first_line
from scope_jax.config import TrackingConfig

log = logging.getLogger("scope_jax")

Record = Mapping[str, Any]

COUNT = "step_of_run"


class Copy(Protocol):
    """A place that records are copied to."""

    def log(self, record: Record, count: int) -> None:
        """Sends a record, the ``count``th of its stage in the run, from 1."""

    def close(self) -> None:
        """Sends the rest."""


class Copies:
    """All places that the settings name.

    Args:
      config: names them; None names none.
      run_dir: the run's folder; the run's name there begins with its name.
      began: when the run was started first, see ``identity``.

    Raises:
      UserError: a package is not installed or cannot begin, or the port is in use.
    """

    def __init__(
        self, config: TrackingConfig | None, run_dir: Path, began: float | None = None
    ):
        self._open: dict[str, Copy] = {}
        if config is None:
            return
        for name in config.trackers:
            self._open[name] = _Hosted(name, config.project, Path(run_dir), began)
        if config.prometheus_port:
            self._open["prometheus"] = _Prometheus(config.prometheus_port)

    def log(self, record: Record, count: int) -> None:
        """Sends a record, the ``count``th of its stage in the run, to all of them."""
        self._each(lambda copy: copy.log(record, count))

    def close(self) -> None:
        """Ends all of them."""
        self._each(lambda copy: copy.close())
        self._open.clear()

    def _each(self, send: Callable[[Copy], None]) -> None:
        for name, copy in list(self._open.items()):
            try:
                send(copy)
            except Exception as error:  # a library of others: whatever it raises
                log.warning("%s: no more metrics are sent there: %s", name, error)
                del self._open[name]


class _Hosted:
    """W&B or trackio, which have the same functions."""

    def __init__(self, package: str, project: str, run_dir: Path, began: float | None):
        try:
            library = importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"tracking.trackers={package}: the package is not installed: "
                f'pip install -e ".[{package}]"'
            ) from error
        where, own = str(run_dir.resolve()), identity(run_dir, began)
        # trackio has no ids: what is resumed is the run of the same name.
        name = f"{run_dir.name}-{own[:8]}"
        options: dict[str, Any] = {"project": project, "name": name}
        if package == "wandb":
            options |= {"id": own, "dir": where}
        try:
            about = {"folder": where}
            self._run = library.init(config=about, resume="allow", **options)
        except Exception as error:  # no key, no network: whatever a library raises
            raise UserError(
                f"tracking.trackers={package}: cannot begin ({first_line(error)}): log "
                "in there, or leave it out"
            ) from error
        if package == "wandb":
            for stage in ("challenger", "tasks", "solver", "evaluation"):
                self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/{COUNT}")
        self._finish = library.finish

    def log(self, record: Record, count: int) -> None:
        """Sends the metrics under their stage's name, with their place beside them."""
        self._run.log(named(record, count))

    def close(self) -> None:
        """Waits until all is sent."""
        self._finish()


class _Prometheus:
    """The last value of every metric, on this machine's loopback address."""

    def __init__(self, port: int):
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        self._gauge = Gauge(
            "scope_metric",
            "Last value of a metric of metrics.jsonl",
            ["stage", "name"],
            registry=registry,
        )
        try:
            self._server, self._thread = start_http_server(
                port, addr="127.0.0.1", registry=registry
            )
        except OSError as error:
            raise UserError(
                f"tracking.prometheus_port={port}: {os.strerror(error.errno or 0)}: "
                "name another port"
            ) from error

    def log(self, record: Record, count: int) -> None:
        """Shows the record's values."""
        del count  # the last value is what there is
        for name, value in record.items():
            if isinstance(value, int | float):
                self._gauge.labels(record["stage"], name).set(value)

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def identity(run_dir: Path, began: float | None) -> str:
    """What tells a run from all others: 16 hex digits.

    A run keeps them when it is resumed. One that starts anew in the same folder, and
    one of the same name in another, have others.

    Args:
      began: when the run was started first, as ``manifest.json`` has it.
    """
    where = str(run_dir.resolve())
    earlier = _digits(where)  # as older versions had it, of the folder alone
    if began is None or any(run_dir.glob(f"wandb/*run-*-{earlier}")):
        return earlier
    return _digits(f"{where} {began}")


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def named(record: Record, count: int) -> dict[str, Any]:
    """A record as curves of its own stage: ``solver/reward/mean``.

    Args:
      count: its place among the stage's records of all iterations: a curve over
        ``step``, which starts anew in each iteration, would run back.
    """
    return {f"{record['stage']}/{COUNT}": count} | {
        f"{record['stage']}/{name}": value
        for name, value in record.items()
        if isinstance(value, int | float) and name != "time/unix"
    }
