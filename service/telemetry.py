"""Prometheus metrics. The only file that knows the client library; the others call it through plain methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Telemetry:
    """One registry per service, so that two in one process (as in tests) do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "marey_requests", "Requests answered.", ("route", "status", "code"), registry=self._registry
        )
        self._request_seconds = Histogram(
            "marey_request_seconds",
            "From the first byte to the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stage_seconds = Histogram(
            "marey_stage_seconds",
            "Time in each stage of a classification.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_rows = Histogram(
            "marey_batch_rows",
            "Rows that ran together.",
            ("stage",),
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self._device_seconds = Counter(
            "marey_device_seconds", "Time the device was busy.", ("stage",), registry=self._registry
        )
        self._models = Gauge(
            "marey_model_info",
            "1 for each model served.",
            ("model", "version", "engine", "precision"),
            registry=self._registry,
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Export `value()` as the gauge `name`, read at each scrape."""
        gauge: Collector = Gauge(name, text, registry=self._registry)
        assert isinstance(gauge, Gauge)
        gauge.set_function(value)

    def model(self, *, model: str, version: str, engine: str, precision: str) -> None:
        self._models.labels(model, version, engine, precision).set(1)

    def request(self, *, route: str, status: int, code: str, seconds: float) -> None:
        self._requests.labels(route, str(status), code).inc()
        self._request_seconds.labels(route).observe(seconds)

    def stages(self, model: str, timings_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in timings_ms.items():
            self._stage_seconds.labels(model, stage).observe(milliseconds / 1000)

    def batch(self, stage: str, rows: int, seconds: float) -> None:
        self._batch_rows.labels(stage).observe(rows)
        self._device_seconds.labels(stage).inc(seconds)

    def render(self) -> bytes:
        return generate_latest(self._registry)
