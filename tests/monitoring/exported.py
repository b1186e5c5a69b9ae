"""The names that the service exports: those of a scrape, and those that take a GPU or INT8, of the collectors themselves."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.collectors import Drifts, Gpus, ModelReading, Models
from service.nvml import THROTTLE_REASONS, Gpu, Reading

_GPU = Gpu(
    index=0,
    uuid="GPU-0",
    pci_bus_id="0000:01:00.0",
    name="a GPU that tells everything",
    compute_capability=(9, 0),
    memory_total_bytes=2,
    memory_used_bytes=1,
    utilization=0.5,
    memory_utilization=0.5,
    power_w=1.0,
    power_limit_w=2.0,
    temperature_c=50,
    sm_clock_hz=1,
    throttled=THROTTLE_REASONS,
)
_MODEL = ModelReading(
    model="m",
    version="1",
    engine="e",
    precision="int8",
    share=1.0,
    memory_bytes=1,
    leases=0,
    requests=1,
    inputs={"brightness": (0.1, 0.0)},
)
_PARTS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}


def of_scrape(text: str) -> set[str]:
    return _names(text_string_to_metric_families(text))


def of_collectors() -> set[str]:
    found: list[Metric] = []
    for collector in (Gpus(lambda: Reading(gpus=(_GPU,))), Models(lambda: [_MODEL]), Drifts({})):
        found += collector.collect()
    return _names(found)


def _names(families: Iterable[Metric]) -> set[str]:
    """With the endings that the parts of a histogram and counters have, also where nothing was counted yet."""
    return {family.name + part for family in families for part in _PARTS[family.type]}
