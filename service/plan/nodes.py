"""How many nodes a load needs: by each resource, by the wait that is allowed, and one more for the node that is lost.

# Note [Two limits]
A node is filled to `utilization` at most, which leaves room for what no model holds: hourly means that are not flat, clips
that are not alike, a neighbour. On top of that, requests that arrive at random must not wait: no more than `late` of them longer
than `wait_ms`, at which the service refuses them (`MAREY_QUEUE_MS`). Few large nodes wait less than many small ones at the same
utilization, so the second limit decides where nodes have few cores, or jobs are long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.errors import InvalidParameter
from service.plan.erlang import late
from service.plan.figures import Served
from service.plan.load import Demand

Name = Literal["cores", "GPUs", "network", "memory", "cores, wait", "GPUs, wait"]
# Beyond this no fleet is planned with one number for all.
_MOST_NODES = 10_000_000
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. `price`: of one hour, in any currency; None: it is not asked."""

    cores: int
    gpus: int
    gbit: float
    memory_gib: float
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Margins:
    """See Note [Two limits]. `spare`: nodes beyond what is needed, so that as many may be lost."""

    utilization: float = 0.6
    wait_ms: float = 100.0
    late: float = 0.01
    spare: int = 1


@dataclass(frozen=True, slots=True)
class Resource:
    """`needed` and `per_node` in `unit`, the latter already filled to the allowed share only; `nodes`: their quotient, not rounded."""

    name: Name
    unit: str
    needed: float
    per_node: float
    nodes: float


@dataclass(frozen=True, slots=True)
class Need:
    """`nodes`: enough for every resource, `total` with the spare ones. `bottleneck`: the resource that asks for most of them."""

    resources: tuple[Resource, ...]
    nodes: int
    total: int
    bottleneck: Name


def needed(demand: Demand, served: Served, node: Node, margins: Margins) -> Need:
    """Raises InvalidParameter where a value cannot be, or a node cannot hold a single service."""
    _check(demand, node, margins)
    share = margins.utilization
    found = [_filled("cores", "cores", demand.per_s * demand.core_s, node.cores * share)]
    if demand.unit == "gpu":
        found.append(_filled("GPUs", "GPUs", demand.per_s * demand.engine_s, node.gpus * share))
    found.append(_filled("network", "Gbit/s", demand.per_s * demand.bytes_in * 8 / 1e9, node.gbit * share))
    found.append(_memory(demand, served, node, margins))
    waiting = [_waiting("cores, wait", demand, node.cores, demand.core_s, margins)]
    if demand.unit == "gpu":
        waiting.append(_waiting("GPUs, wait", demand, node.gpus, demand.engine_s, margins))
    most = max(found, key=lambda each: each.nodes)
    nodes = max(1, math.ceil(most.nodes - 1e-9))
    longest = max(waiting, key=lambda each: each.nodes)
    if longest.nodes > nodes:  # whole nodes, and so never a fraction less: a tie says nothing of the wait
        most, nodes = longest, round(longest.nodes)
    return Need((*found, *waiting), nodes, nodes + margins.spare, most.name)


def _filled(name: Name, unit: str, wanted: float, per_node: float) -> Resource:
    return Resource(name, unit, wanted, per_node, wanted / per_node)


def _memory(demand: Demand, served: Served, node: Node, margins: Margins) -> Resource:
    """Jobs in the system by Little's law, N = λ·W, with the longest wait that is allowed; and what is held besides."""
    inside_s = demand.core_s + margins.wait_ms / 1000
    wanted = demand.per_s * inside_s * demand.job_bytes + demand.held * demand.held_bytes
    fixed = served.process_bytes + node.cores * served.worker_bytes
    left = node.memory_gib * GIB * margins.utilization - fixed
    if left <= 0:
        raise InvalidParameter(
            f"node-memory-gib = {node.memory_gib:g}: a service with {node.cores} decoders takes {fixed / GIB:.1f} GiB, more than "
            f"{margins.utilization:.0%} of it; give the node more memory, or fewer cores"
        )
    return _filled("memory", "GiB", wanted / GIB, left / GIB)


def _waiting(name: Name, demand: Demand, servers: int, service_s: float, margins: Margins) -> Resource:
    """The fewest nodes, among which jobs are spread at random, whose servers keep the wait."""
    load = demand.per_s * service_s

    def enough(nodes: int) -> bool:
        share = load / nodes
        return late(servers, share, service_s=service_s, wait_s=margins.wait_ms / 1000) <= margins.late

    nodes = _fewest(enough)
    return Resource(name, "servers", load, load / nodes, float(nodes))


def _fewest(enough: Callable[[int], bool]) -> int:
    """The least number from 1 on for which `enough` holds, and holds from there on."""
    high = 1
    while not enough(high):
        high *= 2
        if high > _MOST_NODES:
            raise InvalidParameter(
                f"more than {_MOST_NODES:,} nodes would be needed to keep the wait; raise wait-ms or late, or split the load"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(demand: Demand, node: Node, margins: Margins) -> None:
    for name, value, least in (
        ("node-cores", node.cores, 1),
        ("node-gpus", node.gpus, 1 if demand.unit == "gpu" else 0),
        ("spare", margins.spare, 0),
    ):
        if value < least:
            raise InvalidParameter(f"{name} = {value}: {least} or more are needed here; give a node that has them")
    if demand.unit == "core" and node.gpus:
        raise InvalidParameter(
            f"node-gpus = {node.gpus}: the figures are of networks on processors; measure on a GPU host, or leave it out"
        )
    for name, amount in (
        ("network-gbit", node.gbit),
        ("node-memory-gib", node.memory_gib),
        ("wait-ms", margins.wait_ms),
    ):
        if not 0 < amount < math.inf:
            raise InvalidParameter(f"{name} = {amount:g}: it has to be above 0; give a finite number above 0")
    for name, part in (("utilization", margins.utilization), ("late", margins.late)):
        if not 0 < part < 1:
            raise InvalidParameter(f"{name} = {part:g}: it is a share between 0 and 1; give one such as 0.6")
