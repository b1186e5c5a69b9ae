"""Prometheus metrics. The only file that knows the client library; the others call it through plain methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.drift import Drift
from service.nvml import THROTTLE_REASONS, Gpu, Reading

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# Of the classes that a model has answered with, so many are counted by name; no label of a bundle has parentheses of ours.
MAX_LABELS = 50
OTHER = "(other)"
CONTENT_TYPE = CONTENT_TYPE_LATEST

_GPU_LABELS = ("gpu", "uuid", "name")
_GPU_GAUGES: tuple[tuple[str, str, Callable[[Gpu], float | None]], ...] = (
    ("marey_gpu_memory_used_bytes", "Memory in use, by whomever.", lambda gpu: gpu.memory_used_bytes),
    ("marey_gpu_memory_total_bytes", "Memory of the GPU.", lambda gpu: gpu.memory_total_bytes),
    ("marey_gpu_utilization_ratio", "Share of the time in which a kernel ran.", lambda gpu: gpu.utilization),
    ("marey_gpu_power_watts", "Power drawn.", lambda gpu: gpu.power_w),
    ("marey_gpu_power_limit_watts", "Power at which the GPU slows down.", lambda gpu: gpu.power_limit_w),
    ("marey_gpu_temperature_celsius", "Temperature of the chip.", lambda gpu: gpu.temperature_c),
    ("marey_gpu_sm_clock_hertz", "Clock of the multiprocessors.", lambda gpu: gpu.sm_clock_hz),
)


M = TypeVar("M", Counter, Histogram)


@dataclass(frozen=True, slots=True)
class ModelReading:
    """One version that is served."""

    model: str
    version: str
    engine: str
    precision: str
    share: float
    memory_bytes: int
    leases: int
    requests: int


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
        self._registry.register(_Drifts(self._drifts))

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Export `value()` as the gauge `name`, read at each scrape."""
        gauge: Collector = Gauge(name, text, registry=self._registry)
        assert isinstance(gauge, Gauge)
        gauge.set_function(value)

    def watch_count(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Export `value()`, which only grows, as the counter `name`, read at each scrape."""
        self._registry.register(_Count(name, text, value))

    def watch_each(self, name: str, text: str, label: str, values: Mapping[str, Callable[[], float]]) -> None:
        """As `watch`, a value for each key of `values`, which is its `label`."""
        gauge = Gauge(name, text, (label,), registry=self._registry)
        for key, value in values.items():
            gauge.labels(key).set_function(value)

    def watch_gpus(self, read: Callable[[], Reading]) -> None:
        """Export what `read()` says of each GPU, read at each scrape; nothing where there is none."""
        self._registry.register(_Gpus(read))

    def watch_models(self, read: Callable[[], Sequence[ModelReading]]) -> None:
        """Export what `read()` says of each model, read at each scrape; what it leaves out leaves the exposition."""
        self._read_models = read
        self._registry.register(_Models(read))

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
        if self._read_models is not None:
            self._forget_but({(each.model, each.version) for each in self._read_models()})
        return generate_latest(self._registry)

    def _forget_but(self, models: set[tuple[str, str]]) -> None:
        """Of a model that is gone, what it has counted would be exported for ever."""
        names = {name for name, _version in models}
        self._stage_seconds.forget(lambda labels: labels[0] not in names)
        for children in (self._probabilities, self._answers):
            children.forget(lambda labels: labels[:2] not in models)
        for key in [key for key in tuple(self._drifts) if key not in models]:
            del self._drifts[key]


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


class _Count(Collector):
    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, value

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self._value())


class _Drifts(Collector):
    """See Note [What the index says] in service/drift.py."""

    def __init__(self, drifts: Mapping[tuple[str, str], Drift]) -> None:
        self._drifts = drifts

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "marey_drift_psi",
            "Population stability index of the latest answers against the first ones.",
            labels=("model", "version", "of"),
        )
        for labels, drift in tuple(self._drifts.items()):
            for of, value in (("class", drift.of_classes), ("probability", drift.of_probability)):
                if value is not None:
                    family.add_metric((*labels, of), value)
        yield family


class _Models(Collector):
    """A collector, as for GPUs: a model that is unloaded must leave the exposition."""

    def __init__(self, read: Callable[[], Sequence[ModelReading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        models = self._read()
        of = ("model", "version")
        info = GaugeMetricFamily("marey_model_info", "1 for each model served.", labels=(*of, "engine", "precision"))
        share = GaugeMetricFamily("marey_model_share", "Of the requests that name the model and no version.", labels=of)
        held = GaugeMetricFamily("marey_model_memory_bytes", "What it costs; 0 while it gave way to others.", labels=of)
        leases = GaugeMetricFamily("marey_model_leases", "Requests, jobs and streams that use it.", labels=of)
        requests = CounterMetricFamily("marey_model_requests", "Times that it was asked for.", labels=of)
        for each in models:
            labels = each.model, each.version
            info.add_metric((*labels, each.engine, each.precision), 1)
            share.add_metric(labels, each.share)
            held.add_metric(labels, each.memory_bytes)
            leases.add_metric(labels, each.leases)
            requests.add_metric(labels, each.requests)
        yield from (info, share, held, leases, requests)

    def describe(self) -> Iterator[Metric]:
        """No name is taken in advance: there are no models yet."""
        return iter(())


class _Gpus(Collector):
    """A collector and not a set of gauges: a GPU that is lost must leave the exposition, not keep its last values."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        reading = self._read()
        info = GaugeMetricFamily(
            "marey_gpu_info",
            "1 for each GPU.",
            labels=(*_GPU_LABELS, "pci_bus_id", "compute_capability", "driver", "cuda"),
        )
        for gpu in reading.gpus:
            more = (gpu.pci_bus_id, _dotted(gpu.compute_capability), reading.driver or "", _dotted(reading.cuda))
            info.add_metric((*_labels(gpu), *more), 1)
        throttled = GaugeMetricFamily(
            "marey_gpu_throttled", "1 while the GPU is slowed down for this reason.", labels=(*_GPU_LABELS, "reason")
        )
        for gpu in reading.gpus:
            for reason in THROTTLE_REASONS if gpu.throttled is not None else ():
                throttled.add_metric((*_labels(gpu), reason), float(reason in (gpu.throttled or ())))
        families = [info, throttled]
        for name, text, value_of in _GPU_GAUGES:
            family = GaugeMetricFamily(name, text, labels=_GPU_LABELS)
            for gpu in reading.gpus:
                if (value := value_of(gpu)) is not None:
                    family.add_metric(_labels(gpu), value)
            families.append(family)
        yield from (family for family in families if family.samples)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """No name is taken in advance: registering must not read the GPUs, which can take seconds at the first time."""
        return iter(())


def _labels(gpu: Gpu) -> tuple[str, str, str]:
    return str(gpu.index), gpu.uuid, gpu.name


def _dotted(version: tuple[int, int] | None) -> str:
    return "" if version is None else f"{version[0]}.{version[1]}"
