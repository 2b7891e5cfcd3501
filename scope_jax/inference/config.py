"""Settings of the inference process: those of a run, and what the process reads."""

from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from models.errors import UserError
from models.precision import Dtype
from models.ranges import (
    NOT_NEGATIVE,
    POSITIVE,
    Count,
    CountOrZero,
    Range,
    check_fields,
)
from retrieval.config import RetrievalConfig
from rl.engine.config import EngineConfig


def _check_url(name: str, url: str) -> None:
    """Refuses what would be waited for in vain; empty is no address at all."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname)
        right = right and parts.port != 0 and " " not in url
    except ValueError:  # a port that is no number, or no port's
        right = False
    if not right:
        raise UserError(f"{name}={url}: no address: write it as http://HOST:PORT")


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """The inference process and how the trainer talks to it."""

    url: str = ""
    """A server of this project that is already running (`scripts/serve.py`). Empty: the
    trainer starts its own, restarts it if it dies, and stops it at the end."""
    judge_url: str = ""
    """An OpenAI-compatible server (vLLM, SGLang) that serves the judge, which stays
    frozen for the whole run. Empty: our server serves the judge."""
    judge_model: str = ""
    """The judge's model name at `judge_url`. Empty: `judge`."""
    rubric_model: str = ""
    """Folder of the model that writes rubrics in place of the judge, with a chat
    template and tokenizer of its own; served beside it. Empty: the judge."""
    grader_model: str = ""
    """Folder of the model that grades answers in place of the judge, likewise. Empty:
    the judge."""
    retrieval_url: str = ""
    """A server that answers `POST /retrieve` in Search-R1's wire format. Empty: our
    server searches."""
    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback, clients have to show the key in
    `SCOPE_API_KEY` (docs/serving.md); a run's supervisor makes one if there is none."""
    names: tuple[str, ...] = ()
    """Further names under which clients reach the server (of a proxy, in DNS)."""
    port: Annotated[int, Range(least=0, most=65535)] = 0
    """Port to listen on; 0 chooses a free one."""
    ready_timeout: Annotated[float, NOT_NEGATIVE] = 1800.0
    """Seconds within which retrieval and all models must be loaded and compiled."""
    max_restarts: CountOrZero = 10
    """How often a server that died or hung is restarted during a run."""
    health_timeout: Annotated[float, POSITIVE] = 60.0
    """Seconds without an answer of `/health` after which the trainer's own server
    counts as hung: it is killed and started again."""
    outage_timeout: Annotated[float, NOT_NEGATIVE] = 600.0
    """Seconds for which a request that fails is sent again: no connection, no answer in
    time, a server's fault, no answer of the right form. Then the run saves a checkpoint
    and ends with exit code 1; the same command goes on."""
    max_queue: Count = 8192
    """Completions, and separately searches, that may wait on the server. Any more are
    answered 429 and 503, and the client retries them."""
    max_body_mib: Count = 4
    """Longest body of a request, in MiB. One prompt of the engine's length in token ids
    always fits."""
    client_timeout: Annotated[float, POSITIVE] = 60.0
    """Seconds that a client may take to send a request's head, and again its body, and
    to read something of an answer; then its connection is closed."""
    search_batch: Count = 512
    """Largest number of queries that are embedded and searched together."""
    concurrency: Count = 512
    """Requests that the client sends at the same time, each on its own connection."""
    request_timeout: Annotated[float, POSITIVE] = 600.0
    """Seconds for one completion, including the wait in the server's queue."""
    search_timeout: Annotated[float, POSITIVE] = 300.0
    """Seconds for one search."""
    engine: EngineConfig = EngineConfig()
    """The server's engines, one per distinct model."""

    def __post_init__(self):
        check_fields(self)
        for name in ("url", "judge_url", "retrieval_url"):
            _check_url(name, getattr(self, name))

    @property
    def body_bytes(self) -> int:
        """Longest body of a request."""
        # An id of ten digits, a comma and a space, and the other fields.
        return max(self.max_body_mib * 2**20, 12 * self.engine.max_length + 2**16)

    @property
    def body_values(self) -> int:
        """Most values in the body of a request: token ids, messages, fields."""
        return max(2**17, 2 * self.engine.max_length)

    def judges(self) -> dict[str, str]:
        """Name under which it is served -> folder of each model that judges one job."""
        found = {"rubric_writer": self.rubric_model, "grader": self.grader_model}
        return {name: path for name, path in found.items() if path}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Weights to serve under a name."""

    path: str
    """Folder in Hugging Face format."""
    hash: str = ""
    """Content hash that the folder must have. Empty: not checked."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Everything that the server process is told; the supervisor writes it as JSON."""

    inference: InferenceConfig = InferenceConfig()
    """Host, port, queue and engine."""
    retrieval: RetrievalConfig | None = None
    """Passages, encoder and index. None: this server does not search."""
    models: dict[str, ModelSource] = field(default_factory=dict)
    """Weights to load at the start, by the name that requests use."""
    model_roots: tuple[str, ...] = ()
    """Folders below which a client with the control secret may choose models; besides
    those of `models`."""
    dtype: Dtype = "auto"
    """What models are held and computed in; auto: see `model.dtype`."""
    replicas: Count = 1
    """Devices to use; each has a copy of every model and its share of the slots."""
    parent: CountOrZero = 0
    """Process id of the parent: the server exits when it is gone. 0: no parent."""
    state_file: str = ""
    """File for these settings with the server's port and models. Empty: none."""

    def __post_init__(self):
        check_fields(self)
