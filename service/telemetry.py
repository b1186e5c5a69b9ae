"""Prometheus metrics. With collectors.py the only file that knows the client library; the others call it through plain methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.collectors import Count, Drifts, Families, Gpus, ModelReading, Models
from service.drift import Drift
from service.nvml import Reading

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# Of the classes that a model has answered with, so many are counted by name; no label of a bundle has parentheses of ours.
MAX_LABELS = 50
OTHER = "(other)"
CONTENT_TYPE = CONTENT_TYPE_LATEST

M = TypeVar("M", Counter, Histogram)


class Telemetry:
    """One registry per service, so that two in one process (as in tests) do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = _Children[Counter](
            Counter("marey_requests", "Requests answered.", ("route", "status", "code"), registry=self._registry)
        )
        self._request_seconds = _Children[Histogram](
            Histogram(
                "marey_request_seconds",
                "From the first byte to the answer.",
                ("route",),
                buckets=_SECONDS,
                registry=self._registry,
            )
        )
        self._stage_seconds = _Children[Histogram](
            Histogram(
                "marey_stage_seconds",
                "Time in each stage of a classification.",
                ("model", "stage"),
                buckets=_SECONDS,
                registry=self._registry,
            )
        )
        self._batch_rows = _Children[Histogram](
            Histogram(
                "marey_batch_rows",
                "Rows that ran together.",
                ("stage",),
                buckets=(1, 2, 4, 8, 16, 32, 64),
                registry=self._registry,
            )
        )
        self._device_seconds = _Children[Counter](
            Counter("marey_device_seconds", "Time the device was busy.", ("stage",), registry=self._registry)
        )
        self._refusals = _Children[Counter](
            Counter("marey_refusals", "Requests refused with 429 overloaded.", ("reason",), registry=self._registry)
        )
        self._probabilities = _Children[Histogram](
            Histogram(
                "marey_answer_probability",
                "Of the top class of each answer of /classify.",
                ("model", "version"),
                buckets=_PROBABILITIES,
                registry=self._registry,
            )
        )
        self._answers = _Children[Counter](
            Counter(
                "marey_answers",
                f"Answers of /classify by their top class: the first {MAX_LABELS} that occur, and the others together.",
                ("model", "version", "label"),
                registry=self._registry,
            )
        )
        self._read_models: Callable[[], Sequence[ModelReading]] | None = None
        self._drifts: dict[tuple[str, str], Drift] = {}
        self._registry.register(Drifts(self._drifts))

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Export `value()` as the gauge `name`, read at each scrape."""
        gauge: Collector = Gauge(name, text, registry=self._registry)
        assert isinstance(gauge, Gauge)
        gauge.set_function(value)

    def watch_count(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Export `value()`, which only grows, as the counter `name`, read at each scrape."""
        self._registry.register(Count(name, text, value))

    def watch_each(self, name: str, text: str, label: str, values: Mapping[str, Callable[[], float]]) -> None:
        """As `watch`, a value for each key of `values`, which is its `label`."""
        gauge = Gauge(name, text, (label,), registry=self._registry)
        for key, value in values.items():
            gauge.labels(key).set_function(value)

    def watch_queue(
        self,
        *,
        rows: Callable[[], float],
        entries: Mapping[str, Callable[[], float]],
        wait_s: Mapping[str, Callable[[], float]],
        limit_s: float,
    ) -> None:
        """Export what waits for the device: its rows, and by priority its entries and how long a newcomer would wait.

        `limit_s`: from how long a wait on interactive requests are refused.
        """
        self.watch("marey_queue_rows", "Frames and clips waiting for the device.", rows)
        self.watch_each(
            "marey_queue_entries", "Batches, or parts of them, waiting for the device.", "priority", entries
        )
        self.watch_each(
            "marey_queue_wait_seconds",
            "How long a request that came now would wait, for the decoders and the device.",
            "priority",
            wait_s,
        )
        self.watch(
            "marey_queue_wait_limit_seconds",
            "Where marey_queue_wait_seconds is above this, interactive requests are refused.",
            lambda: limit_s,
        )

    def watch_gpus(self, read: Callable[[], Reading]) -> None:
        """Export what `read()` says of each GPU, read at each scrape; nothing where there is none."""
        self._registry.register(Gpus(read))

    def watch_models(self, read: Callable[[], Sequence[ModelReading]]) -> None:
        """Export what `read()` says of each model, read at each scrape; what it leaves out leaves the exposition."""
        self._read_models = read
        self._registry.register(Models(read))

    def request(self, *, route: str, status: int, code: str, seconds: float | None) -> None:
        self._requests[route, str(status), code].inc()
        if seconds is not None:
            self._request_seconds[route,].observe(seconds)

    def refused(self, reason: str) -> None:
        self._refusals[reason,].inc()

    def stages(self, model: str, timings_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in timings_ms.items():
            self._stage_seconds[model, stage].observe(milliseconds / 1000)

    def batch(self, stage: str, rows: int, seconds: float) -> None:
        self._batch_rows[stage,].observe(rows)
        self._device_seconds[stage,].inc(seconds)

    def answered(self, model: str, version: str, *, class_id: int, label: str, probability: float) -> None:
        """An answer's top class, for who watches whether a model still answers as it did; see service/drift.py."""
        self._probabilities[model, version].observe(probability)
        drift = self._drifts.get((model, version))
        if drift is None:
            drift = self._drifts[model, version] = Drift()
        drift.note(class_id, probability)
        known = (model, version, label)
        if (
            known not in self._answers
            and sum(1 for each in tuple(self._answers) if each[:2] == known[:2]) >= MAX_LABELS
        ):
            known = (model, version, OTHER)
        self._answers[known].inc()

    def render(self) -> bytes:
        """The exposition, with whatever is read at each scrape: it may take milliseconds, so keep it off the event loop."""
        return rendered(self.read())

    def read(self) -> tuple[Metric, ...]:
        """As `render`, what it says: it can be sent to another process."""
        if self._read_models is not None:
            self._forget_but({(each.model, each.version) for each in self._read_models()})
        return tuple(self._registry.collect())

    def _forget_but(self, models: set[tuple[str, str]]) -> None:
        """Of a model that is gone, what it has counted would be exported for ever."""
        names = {name for name, _version in models}
        self._stage_seconds.forget(lambda labels: labels[0] not in names)
        for children in (self._probabilities, self._answers):
            children.forget(lambda labels: labels[:2] not in models)
        for key in [key for key in tuple(self._drifts) if key not in models]:
            del self._drifts[key]


def rendered(families: Iterable[Metric]) -> bytes:
    """The exposition of `families`, each name once."""
    return generate_latest(Families(families))


def together(parts: Mapping[str, Sequence[Metric]]) -> tuple[Metric, ...]:
    """What the services of `parts` say, each sample with its service's name as the label `replica`."""
    joined: dict[str, Metric] = {}
    for replica, families in parts.items():
        for family in families:
            whole = joined.setdefault(family.name, Metric(family.name, family.documentation, family.type, family.unit))
            whole.samples += [
                sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples
            ]
    return tuple(joined.values())


class _Children(dict[tuple[str, ...], M]):
    """The children of a metric by their labels: prometheus_client finds them more slowly than they count."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric: Any = metric

    def __missing__(self, labels: tuple[str, ...]) -> M:
        child: M = self._metric.labels(*labels)
        self[labels] = child
        return child

    def forget(self, gone: Callable[[tuple[str, ...]], bool]) -> None:
        """From any thread."""
        for labels in [labels for labels in tuple(self) if gone(labels)]:
            self.pop(labels, None)
            self._metric.remove(*labels)
