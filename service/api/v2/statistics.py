"""What was asked of each network over this protocol, as the statistics extension reports it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from service.api.v2.network import Network, Ran


@dataclass(slots=True)
class _Duration:
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds

    def said(self) -> dict[str, int]:
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


_STAGES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit")


@dataclass(slots=True)
class _Batches:
    """Of one size: a request has of a batch the share that its rows have, so that those of one batch add up to one."""

    executions: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class _Counted:
    durations: dict[str, _Duration] = field(default_factory=lambda: {name: _Duration() for name in _STAGES})
    batches: dict[int, _Batches] = field(default_factory=dict)
    inferences: int = 0
    last: float = 0.0


class Statistics:
    """Since the service started. Belongs to the event loop."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, str], _Counted] = {}

    def succeeded(self, network: Network, ran: Ran, *, rows: int, inferences: int, timings_s: dict[str, float]) -> None:
        """`rows` entered its first stage as `inferences` clips or frames; `timings_s`: input, output and total."""
        counted = self._of(network)
        infer_s = sum(ran.run_s.values())
        counted.last = time.time()
        counted.inferences += inferences
        durations = counted.durations
        durations["success"].add(timings_s["total"])
        durations["queue"].add(ran.queue_s)
        durations["compute_input"].add(timings_s["input"])
        durations["compute_infer"].add(infer_s)
        durations["compute_output"].add(timings_s["output"])
        batches = counted.batches.setdefault(ran.batch_size, _Batches())
        share = rows / ran.batch_size
        batches.executions += share
        batches.seconds += infer_s * min(1.0, share)

    def failed(self, network: Network, *, seconds: float) -> None:
        self._of(network).durations["fail"].add(seconds)

    def report(self, network: Network) -> dict[str, Any]:
        """The extension's object for one network; zeros where nobody asked for it."""
        counted = self._counted.get(self._key(network), _Counted())
        return {
            "name": network.name,
            "version": network.manifest.version,
            "last_inference": round(counted.last * 1000),
            "inference_count": counted.inferences,
            "execution_count": round(sum(batches.executions for batches in counted.batches.values())),
            "inference_stats": {name: duration.said() for name, duration in counted.durations.items()},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_infer": {"count": round(batches.executions), "ns": round(batches.seconds * 1e9)},
                    "compute_input": {"count": 0, "ns": 0},
                    "compute_output": {"count": 0, "ns": 0},
                }
                for size, batches in sorted(counted.batches.items())
            ],
        }

    def _of(self, network: Network) -> _Counted:
        return self._counted.setdefault(self._key(network), _Counted())

    @staticmethod
    def _key(network: Network) -> tuple[str, str]:
        return network.name, network.manifest.version
