"""What a load needs: a document for scripts, a table for people."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from service.bench.report import aligned
from service.plan.figures import Figures
from service.plan.load import Cameras, Demand, Uploads
from service.plan.moves import moves
from service.plan.nodes import Margins, Need, Node, needed


class PlanReport(BaseModel):
    """Stable: fields may be added, none changes its meaning within a `schema_version`.

    `demand`: jobs a second and what each costs. `streams_per_node`: to which `MAREY_MAX_STREAMS` has to be raised.
    `services`: processes of `marey serve` that their event loops need, however the nodes are cut. `across_gbit`: between
    ingress and engine replicas, where Ray parts them. `cost_per_million`: clips, at the price of all nodes all day.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    kind: Literal["plan"] = "plan"
    command: str
    figures: dict[str, str]
    assumed: tuple[str, ...]
    load: dict[str, Any]
    node: dict[str, Any]
    margins: dict[str, Any]
    demand: dict[str, Any]
    resources: tuple[dict[str, Any], ...]
    nodes: int
    total: int
    bottleneck: str
    moves: dict[str, float]
    streams_per_node: int | None
    services: int
    across_gbit: float
    cost_per_million: float | None
    notes: tuple[str, ...]


def plan(
    figures: Figures,
    load: Cameras | Uploads,
    demand: Demand,
    *,
    node: Node,
    margins: Margins,
    command: str,
    assumed: tuple[str, ...] = (),
) -> PlanReport:
    """Raises MareyError where a value cannot be."""
    need: Need = needed(demand, figures.served, node, margins)
    networks = figures.networks
    costs = {name: value for name, value in asdict(demand).items() if name != "decoding"}
    price = None if node.price is None else need.total * node.price / (demand.mean_per_s * 3600) * 1e6
    engine = f"{networks.engine} {networks.precision}+{networks.float_precision}, {networks.device}"
    return PlanReport(
        command=command,
        figures={
            "date": figures.date,
            "bundle": figures.bundle,
            "cpu": f"{figures.machine.cpu}, {figures.machine.cores} cores",
            "engine": "assumed, see below" if assumed else engine,
        },
        assumed=assumed,
        load={"kind": type(load).__name__.lower(), **asdict(load)},
        node=asdict(node),
        margins=asdict(margins),
        demand=costs,
        resources=tuple(asdict(each) for each in need.resources),
        nodes=need.nodes,
        total=need.total,
        bottleneck=need.bottleneck,
        moves=moves(demand, load.video, node),
        streams_per_node=math.ceil(demand.held / need.nodes) if demand.held else None,
        services=max(1, math.ceil(demand.per_s * demand.service_s / margins.utilization)),
        across_gbit=demand.per_s * demand.bytes_across * 8 / 1e9,
        cost_per_million=price,
        notes=demand.decoding.notes,
    )


def plan_table(report: PlanReport) -> str:
    """The load, what a job costs, nodes by resource, and where the bottleneck moves."""
    demand, load, node, margins = report.demand, report.load, report.node, report.margins
    video, job = load["video"], demand["job"]
    what = (
        f"{load['count']:,} cameras"
        if "count" in load
        else f"{load['per_day']:,.0f} uploads a day of {load['clip_s']:g} s"
    )
    size = f"{video['width']}×{video['height']}, {video['fps']:g} frames/s, {video['codec']}"
    says = report.figures
    parts = [
        f"figures: {says['bundle']} of {says['date']}, {says['cpu']}; networks: {says['engine']}",
        *(f"assumed, not measured: {each}" for each in report.assumed),
        f"load: {what}, {size}; at the peak {demand['per_s']:,.1f} {job}s/s, {load['peak']:g} × the mean",
        f"node: {node['cores']} cores, {_count(node['gpus'], 'GPU')}, {node['gbit']:g} Gbit/s, {node['memory_gib']:g} GiB, filled to "
        f"{margins['utilization']:.0%}; {margins['late']:.1%} may wait longer than {margins['wait_ms']:g} ms\n",
        f"one {job}: decode {_ms(demand['decode_s'])}, service {_ms(demand['service_s'])} of a core; networks "
        f"{_ms(demand['engine_s'])} of a {demand['unit']}; {demand['bytes_in'] / 1e3:,.1f} kB\n",
    ]
    rows = [["", "needed", "of a node", "nodes"]]
    rows += [
        [each["name"], f"{each['needed']:,.2f} {each['unit']}", f"{each['per_node']:,.2f}", f"{each['nodes']:,.2f}"]
        for each in report.resources
    ]
    parts.append(aligned(rows, left=1))
    parts.append(
        f"\n{_count(report.nodes, 'node')}, by {report.bottleneck}; {report.total:,} with {margins['spare']} to lose; "
        f"{_count(report.services, 'service')} or more"
    )
    if report.streams_per_node is not None:
        parts.append(f"{report.streams_per_node} streams a node: MAREY_MAX_STREAMS in all of its services together")
    parts.append(f"{report.across_gbit:.2f} Gbit/s from ingress to engine replicas, where Ray parts them")
    if report.cost_per_million is not None:
        parts.append(f"{report.cost_per_million:,.2f} for a million {job}s, by the price of all nodes all day")
    parts += [f"the bottleneck moves: {_MOVES[name].format(value)}" for name, value in report.moves.items()]
    parts += [f"note: {each}" for each in report.notes]
    return "\n".join(parts)


_MOVES = {
    "clip_s": "decoding costs as much as the networks at clips of {:.3g} s",
    "fps": "decoding costs as much as the networks at {:.3g} frames/s",
    "pixels": "decoding costs as much as the networks at {:,.0f} pixels",
    "cores_per_gpu": "one GPU is fed by {:.1f} cores",
    "mbit": "the network is full before cores or GPUs above {:,.1f} Mbit/s of one video",
}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.4g} ms"
