"""What the server counts, for Prometheus."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from scope_jax.system.compilation import Compilations


class Metrics:
    """Counters of one server.

    Attributes:
      in_flight: completions that are being sampled or wait for it.
    """

    def __init__(self):
        self.in_flight = 0
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "scope_requests",
            "Answers, by route and status.",
            ["path", "status"],
            registry=self.registry,
        )
        self._seconds = Counter(
            "scope_request_seconds",
            "Time spent on answers, by route.",
            ["path"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "scope_tokens",
            "Tokens of prompts and completions, by model.",
            ["model", "kind"],
            registry=self.registry,
        )
        Gauge(
            "scope_in_flight", "Completions in progress.", registry=self.registry
        ).set_function(lambda: self.in_flight)
        compilations = Compilations()
        Gauge(
            "scope_compiled",
            "Programs compiled, or read back, since the start.",
            registry=self.registry,
        ).set_function(lambda: compilations.count)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts an answer."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).inc(seconds)

    def sampled(self, model: str, prompt: int, completion: int) -> None:
        """Counts tokens."""
        self._tokens.labels(model, "prompt").inc(prompt)
        self._tokens.labels(model, "sampled").inc(completion)

    def text(self) -> bytes:
        """All that is counted here, in Prometheus's format."""
        return generate_latest(self.registry)


def measured(
    engines: Mapping[str, Mapping[str, float]], search: Mapping[str, int]
) -> bytes:
    """What others count, in Prometheus's format.

    Args:
      engines: statistics of each model's engine.
      search: of the searcher.
    """
    registry = CollectorRegistry()
    registry.register(_Now(engines, search))
    return generate_latest(registry)


class _Now(Collector):
    """Values that somebody else counts, as they are now."""

    def __init__(self, engines: Mapping[str, Mapping[str, float]], search: Mapping):
        self.engines, self.search = engines, search

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, value in self.search.items():
            yield GaugeMetricFamily(f"scope_search_{name}_total", name, value=value)
        families: dict[str, GaugeMetricFamily] = {}
        for model, stats in self.engines.items():
            for name, value in stats.items():
                plain = "".join(c if c.isalnum() else "_" for c in name)
                family = families.setdefault(
                    plain,
                    GaugeMetricFamily(f"scope_engine_{plain}", name, labels=["model"]),
                )
                family.add_metric([model], value)
        yield from families.values()
