"""What is read at each scrape, and not counted as it happens: of GPUs, models, and how these answer of late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.drift import Drift
from service.nvml import THROTTLE_REASONS, Gpu, Reading

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


@dataclass(frozen=True, slots=True)
class ModelReading:
    """One version that is served.

    `inputs`: by measure, how far the latest frames are from the calibration's, and the share outside its range; see service/inputs.py.
    """

    model: str
    version: str
    engine: str
    precision: str
    share: float
    memory_bytes: int
    leases: int
    requests: int
    inputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Count(Collector):
    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, value

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self._value())


class Families(Collector):
    """What was read before, elsewhere as a rule."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


class Drifts(Collector):
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


class Models(Collector):
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
        psi = GaugeMetricFamily(
            "marey_input_drift_psi",
            "Population stability index of the latest frames against those that INT8 was calibrated on.",
            labels=(*of, "of"),
        )
        outside = GaugeMetricFamily(
            "marey_input_outside_ratio",
            "Of the latest frames, those outside the range of all that INT8 was calibrated on.",
            labels=(*of, "of"),
        )
        for each in models:
            labels = each.model, each.version
            info.add_metric((*labels, each.engine, each.precision), 1)
            share.add_metric(labels, each.share)
            held.add_metric(labels, each.memory_bytes)
            leases.add_metric(labels, each.leases)
            requests.add_metric(labels, each.requests)
            for measure, (index, beyond) in each.inputs.items():
                psi.add_metric((*labels, measure), index)
                outside.add_metric((*labels, measure), beyond)
        yield from (info, share, held, leases, requests, psi, outside)

    def describe(self) -> Iterator[Metric]:
        """No name is taken in advance: there are no models yet."""
        return iter(())


class Gpus(Collector):
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
