"""Settings of the inference process: a run's, and what the process itself reads."""

from dataclasses import dataclass, field

from retrieval.config import RetrievalConfig
from rl.engine_config import EngineConfig


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """The inference process and how the trainer talks to it."""

    url: str = ""
    """A server of ours that is already running (`scripts/serve.py`). Empty: the trainer
    starts its own, restarts it when it dies, and stops it at the end."""
    judge_url: str = ""
    """An OpenAI-compatible server (vLLM, SGLang) that serves the judge, which stays
    frozen for the whole run. Empty: the judge is on our server."""
    judge_model: str = ""
    """The judge's model name at `judge_url`. Empty: `judge`."""
    retrieval_url: str = ""
    """A server that answers `POST /retrieve` in Search-R1's wire format. Empty: search
    is on our server."""
    host: str = "127.0.0.1"
    """Address to listen on. The server trusts who can reach it: no passwords."""
    port: int = 0
    """Port to listen on; 0 takes a free one."""
    ready_timeout: float = 1800.0
    """Seconds until retrieval and all models must be loaded and compiled."""
    max_restarts: int = 10
    """Times that a server which died is started again during a run."""
    max_queue: int = 8192
    """Completions and, counted apart, searches that may wait on the server. What
    comes above it is answered 429 and tried again by the client."""
    search_batch: int = 512
    """Queries that are embedded and searched together at most."""
    concurrency: int = 512
    """Requests that the client has under way at once, each on its own connection."""
    request_timeout: float = 600.0
    """Seconds for one completion, the wait in the server's queue included."""
    search_timeout: float = 300.0
    """Seconds for one search."""
    engine: EngineConfig = EngineConfig()
    """The server's engines, one for each distinct model."""

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ValueError(f"inference.port={self.port}: must be within 0..65535")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Weights to serve under a name."""

    path: str
    """Folder in Hugging Face format."""
    hash: str = ""
    """Content hash that the folder must have. Empty: not checked."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """All that the server process is told; the supervisor writes it as JSON."""

    inference: InferenceConfig = InferenceConfig()
    """Host, port, queue and engine."""
    retrieval: RetrievalConfig | None = None
    """Passages, encoder and index. None: this server does not search."""
    models: dict[str, ModelSource] = field(default_factory=dict)
    """Weights to load at the start, by the name that requests use."""
    replicas: int = 1
    """Devices to use: each has a copy of every model and its share of the slots."""
    parent: int = 0
    """Process id without which the server ends itself. 0: it lives on its own."""
    state_file: str = ""
    """Where the server writes its port, process id and models. Empty: nowhere."""
