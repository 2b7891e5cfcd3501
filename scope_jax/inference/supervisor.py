"""Keeps one inference process alive: start, wait until ready, restart, stop."""

import atexit
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

import scope_jax
from models.errors import StorageError, UserError
from models.precision import Dtype
from retrieval.config import RetrievalConfig
from scope_jax.inference.access import run_secrets
from scope_jax.inference.answers import BadAnswer, body_of, read_error, read_missing
from scope_jax.inference.config import InferenceConfig, ModelSource, ServerSettings
from scope_jax.system import settings as settings_io
from scope_jax.system import stopping
from scope_jax.system.stopping import Stopped

log = logging.getLogger(__name__)

# How often the process is looked at: an HTTP client's first retry comes after 1 s.
_POLL_SECONDS = 0.2
_STOP_SECONDS = 15.0
# Where a signal ends the trainer: Slurm and Kubernetes do not wait long.
_HURRY_SECONDS = 3.0
# How often a server is asked whether it answers.
_HEALTH_SECONDS = 5.0
# One that starts imports its libraries, maybe from a slow disk, before it can answer.
_UNTIL_IT_LISTENS = 5


class Supervisor:
    """The inference process of one run.

    With ``config.url`` it starts nothing and only waits for that server to be ready.
    A process that dies, or that no longer answers, is restarted on its old port with
    the models that it had; a client's retries bridge the gap.

    Args:
      config: where the server listens and how long it may take to start.
      run_dir: gets ``inference.log`` and the folder ``inference/`` with the server's
        settings, state and compiled programs.
      retrieval: what the server searches; None where ``config.retrieval_url`` is used.
      models: weights to load at the start, by name.
      environment: variables that differ from this process's (visible devices, memory).
      dtype: what models are held and computed in.
      replicas: devices, each with a copy of every model.
    """

    def __init__(
        self,
        config: InferenceConfig,
        run_dir: Path,
        *,
        retrieval: RetrievalConfig | None = None,
        models: Mapping[str, ModelSource] | None = None,
        environment: Mapping[str, str] | None = None,
        dtype: Dtype = "auto",
        replicas: int = 1,
    ):
        self.config = config
        self.settings = ServerSettings(
            inference=config,
            retrieval=retrieval,
            models=dict(models or {}),
            model_roots=(str(Path(run_dir).absolute()),),
            dtype=dtype,
            replicas=replicas,
            parent=os.getpid(),
            state_file=str(Path(run_dir).absolute() / "inference" / "state.json"),
        )
        self.environment = dict(environment or {})
        self.secrets = run_secrets(config)
        """What clients of the server show; made anew by every supervisor."""
        self.log_file = Path(run_dir) / "inference.log"
        self.folder = Path(run_dir) / "inference"
        self.url = config.url.rstrip("/")
        self.restarts = 0
        self.failure: str | None = None
        """Why the server is down for good, once it is."""
        self._process: subprocess.Popen | None = None
        self._stopping, self._ready = threading.Event(), threading.Event()
        self._refused = False
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None
        self._log_start = 0

    def start(self) -> str:
        """Starts the server, waits until it is ready, and returns its URL.

        Raises:
          UserError: it refuses what it was told, with what it printed last.
          Stopped: it is down for good, or was not ready in time.
        """
        try:
            if not self.config.url:
                atexit.register(self.stop)
                self._launch(self.settings)
                with self._lock:
                    if not self._stopping.is_set():
                        self._watcher = threading.Thread(
                            target=self._watch, name="watch-inference", daemon=True
                        )
                        self._watcher.start()
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Ends the server, if there is one, even while another thread starts it."""
        self._stopping.set()
        with self._lock:
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.join()
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.stop)
        process.terminate()
        try:
            process.wait(_HURRY_SECONDS if stopping.requested() else _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _launch(self, settings: ServerSettings) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        Path(settings.state_file).unlink(missing_ok=True)
        settings_file = self.folder / "settings.json"
        settings_io.save(settings, settings_file)
        environment = self.secrets.environment(os.environ | self.environment)
        # A second engine of one architecture, and a restart, load compiled programs.
        programs = str(self.folder.absolute() / "compiled")
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", programs)
        environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        # The packages may be importable only because of this process's own sys.path.
        root = str(Path(scope_jax.__file__).absolute().parents[1])
        paths = [root, *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
        # -P: not what lies in the current folder, such as another `models`.
        command = [sys.executable, "-P", "-m", "scope_jax.inference.server"]
        command += ["--config-file", str(settings_file)]
        with self._lock, self.log_file.open("ab") as output:
            if self._stopping.is_set():
                return
            self._log_start = output.tell()
            # A session of its own: Ctrl-C is for the trainer, which then ends it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _wait(self) -> None:
        """Returns when ``/ready`` says 200."""
        start, said = time.monotonic(), 0.0
        with httpx.Client(trust_env=False, timeout=10.0) as http:
            while True:
                stopping.check()
                self._raise_if_ended()
                waited = time.monotonic() - start
                missing = self._missing(http)
                if not missing:
                    self._ready.set()
                    return
                if waited > self.config.ready_timeout:
                    raise Stopped(
                        f"error: inference server: {missing} after {waited:.0f} s: "
                        f"raise inference.ready_timeout, or see {self.log_file}",
                        1,
                    )
                if waited - said >= 3.0:
                    said = waited
                    log.info("inference server: %s (%.0f s)", missing, waited)
                time.sleep(_POLL_SECONDS)

    def _missing(self, http: httpx.Client) -> str:
        """What the server is waiting for, in words; empty when it is ready."""
        if not self.config.url and not self._find():
            return "starting"
        try:
            shown = self.secrets.control_headers()
            response = http.get(f"{self.url}/ready", headers=shown)
            if response.status_code == 200:
                return ""
            if response.status_code in (401, 403):
                why, _ = read_error(response)
                raise UserError(f"{self.url}: {why}: see docs/serving.md")
            return read_missing(body_of(response))
        except httpx.HTTPError as error:
            return f"no answer from {self.url} ({type(error).__name__})"
        except BadAnswer as error:
            return f"{self.url} is no server of this project ({error})"

    def _find(self) -> bool:
        """Looks where our server listens; whether it says so yet."""
        try:
            port = self._state().inference.port
        except UserError:
            return False
        host = self.config.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        host = f"[{host}]" if ":" in host else host
        self.url = f"http://{host}:{port}"
        return True

    def _raise_if_ended(self) -> None:
        if self._stopping.is_set():
            raise UserError(
                "inference server: stopped while it started: start it again"
            )
        if self.failure and self._refused:
            raise UserError(self.failure)
        if self.failure:
            raise Stopped(f"error: {self.failure}", 1)

    def _last_words(self) -> str:
        """Its error line if it wrote one, else the last lines of its log."""
        with self.log_file.open("rb") as output:
            output.seek(self._log_start)
            text = output.read()[-20_000:].decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        said = errors[-1].removeprefix("error: ") if errors else " | ".join(lines[-3:])
        return said or "it printed nothing"

    def _watch(self) -> None:
        """Runs on a thread of its own: starts the server again when it died or hangs.

        It is alive as long as it answers; that its process exists says little.
        """
        heard = time.monotonic()
        asked, answering = heard, False
        every = min(_HEALTH_SECONDS, self.config.health_timeout / 5)
        while not self._stopping.wait(_POLL_SECONDS):
            process = self._process
            code = process.poll() if process else None
            if code is not None:
                how = f"died with code {code}"
            else:
                now = time.monotonic()
                if now - asked < every:
                    continue
                asked = now
                if self._answers(every):
                    heard, answering = time.monotonic(), True
                    continue
                may_take = self.config.health_timeout
                if not answering:
                    may_take *= _UNTIL_IT_LISTENS
                silent = time.monotonic() - heard
                if silent < may_take:
                    if silent > may_take / 2:
                        log.warning(
                            "inference server: no answer of /health for %.0f s; after "
                            "%.0f s it is started again",
                            *(silent, may_take),
                        )
                    continue
                how = f"hung: no answer of /health for {silent:.0f} s"
                process.kill()
                process.wait()
            if stopping.requested():
                return  # the signal that ends the run may have ended it, too
            if self._is_final(code, how):
                return
            self.restarts += 1
            log.warning(
                "inference server %s: restart %d of %d",
                *(how, self.restarts, self.config.max_restarts),
            )
            try:
                self._launch(self._as_it_was())
            except (OSError, StorageError, UserError) as error:
                self.failure = f"inference server: {how}, and not started: {error}"
                return
            heard, answering = time.monotonic(), False

    def _is_final(self, code: int | None, how: str) -> bool:
        """Whether a server that is gone stays away; notes why."""
        if not self._ready.is_set() and code is not None and code > 0:
            # It has said why, and would say so again; no signal has ended it.
            self._refused = code == 2
            self.failure = (
                f"inference server: exited with code {code} while starting: "
                f"{self._last_words()}: see {self.log_file}"
            )
        elif self.restarts >= self.config.max_restarts:
            self.failure = (
                f"inference server: died {self.restarts + 1} times, the last time "
                f"it {how}: {self._last_words()}: see {self.log_file}"
            )
            log.error(self.failure)
        return self.failure is not None

    def _answers(self, seconds: float) -> bool:
        """Whether the server answers at all within this time."""
        if not self.url and not self._find():
            return False
        try:
            httpx.get(f"{self.url}/health", timeout=seconds, trust_env=False)
        except httpx.HTTPError:
            return False
        return True

    def _as_it_was(self) -> ServerSettings:
        """Settings with the port and the models that the dead server had."""
        try:
            return self._state()
        except UserError:
            # It died before it wrote anything; its predecessor's settings still hold.
            return settings_io.load(ServerSettings, self.folder / "settings.json")

    def _state(self) -> ServerSettings:
        return settings_io.load(ServerSettings, Path(self.settings.state_file))
