"""Nodes by resource and by wait: by hand, and what has to hold whatever the numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import MareyError
from service.plan.costs import Video
from service.plan.erlang import late, waits
from service.plan.load import Cameras, Uploads, of_cameras, of_uploads
from service.plan.moves import moves
from service.plan.nodes import Margins, Node, needed
from tests.plan.conftest import make_figures

CORES, GPU = make_figures(), make_figures(unit="gpu")
VIDEO = Video(1000, 100, 10.0, "h264")
NODE = Node(cores=16, gpus=0, gbit=10, memory_gib=64)
ON_GPU = replace(NODE, gpus=1)


def test_cores_network_and_memory_by_hand() -> None:
    """600 clips/s of 140 ms are 84 cores, of 1 Mbit 0.6 Gbit/s; in 240 ms 144 clips of 133 kB are held."""
    demand = of_uploads(CORES, Uploads(600 * 86_400 / 3, 10, VIDEO))
    need = needed(demand, CORES.served, NODE, Margins())
    found = {each.name: each for each in need.resources}
    assert (found["cores"].needed, found["cores"].per_node) == pytest.approx((84, 9.6))
    assert found["cores"].nodes == pytest.approx(8.75)
    assert (found["network"].needed, found["network"].nodes) == pytest.approx((0.6, 0.1))
    assert found["memory"].needed == pytest.approx(600 * 0.24 * 133_000 / 2**30)
    assert found["memory"].per_node == pytest.approx(64 * 0.6 - 1 - 16 / 4)
    assert (need.bottleneck, need.nodes, need.total) == ("cores", 9, 10)


def test_streams_are_held_in_memory_and_may_be_the_bottleneck() -> None:
    """100 cameras at half a GiB, where a node has 2.2 GiB left for them."""
    demand = of_cameras(CORES, Cameras(100, VIDEO))
    need = needed(demand, CORES.served, replace(NODE, memory_gib=12), Margins())
    assert need.bottleneck == "memory"
    assert need.nodes == math.ceil(50 / 2.2)


def test_a_gpu_is_the_bottleneck_where_networks_cost_more_than_the_rest() -> None:
    demand = of_uploads(GPU, Uploads(8_640_000, 1, VIDEO))
    need = needed(demand, GPU.served, ON_GPU, Margins(wait_ms=1000))
    assert need.bottleneck == "GPUs"
    assert need.nodes == math.ceil(300 * 0.019 / 0.6)


def test_erlangs_formula_gives_what_textbooks_print() -> None:
    """One server: C = a. Two servers at a = 1: 1/3. Gross and Harris's and every table's values."""
    assert waits(1, 0.6) == pytest.approx(0.6)
    assert waits(2, 1.0) == pytest.approx(1 / 3)
    assert waits(10, 8.0) == pytest.approx(0.4092, abs=1e-4)
    assert waits(3, 3.0) == 1
    assert late(1, 0.5, service_s=1, wait_s=2) == pytest.approx(0.5 * math.exp(-1))
    assert late(4, 5, service_s=1, wait_s=1) == 1


def test_where_the_bottleneck_moves_decoding_and_networks_cost_the_same() -> None:
    uploads = Uploads(864_000, 10, replace(VIDEO, width=500))
    found = moves(of_uploads(CORES, uploads), uploads.video, NODE)
    there = of_uploads(CORES, replace(uploads, clip_s=found["clip_s"]))
    assert there.decode_s == pytest.approx(there.engine_s)
    smaller = of_uploads(CORES, replace(uploads, video=replace(VIDEO, width=round(found["pixels"] / 100))))
    assert smaller.decode_s == pytest.approx(smaller.engine_s, rel=0.01)


def test_a_cameras_rate_at_which_decoding_costs_what_the_networks_cost() -> None:
    video = replace(VIDEO, width=200, fps=8.0)
    found = moves(of_cameras(CORES, Cameras(1, video)), video, NODE)
    there = of_cameras(CORES, Cameras(1, replace(video, fps=found["fps"])))
    assert there.decode_s == pytest.approx(there.engine_s)


def test_above_that_bitrate_the_network_is_the_bottleneck() -> None:
    uploads = Uploads(86_400_000, 10, VIDEO)
    mbit = moves(of_uploads(CORES, uploads), VIDEO, NODE)["mbit"]
    for times, name in ((0.9, "cores"), (1.1, "network")):
        demand = of_uploads(CORES, replace(uploads, video=replace(VIDEO, mbit=mbit * times)))
        assert needed(demand, CORES.served, replace(NODE, memory_gib=1e6), Margins(wait_ms=10_000)).bottleneck == name


def test_cores_that_feed_a_gpu() -> None:
    demand = of_uploads(GPU, Uploads(864_000, 10, VIDEO))
    assert moves(demand, VIDEO, ON_GPU)["cores_per_gpu"] == pytest.approx(0.14 / 0.019)


@pytest.mark.parametrize(
    ("node", "margins", "said"),
    [
        (replace(NODE, cores=0), Margins(), "node-cores = 0: 1 or more"),
        (replace(NODE, gpus=1), Margins(), "node-gpus = 1: the figures are of networks on processors"),
        (replace(NODE, gbit=0), Margins(), "network-gbit = 0"),
        (replace(NODE, gbit=math.inf), Margins(), "network-gbit = inf"),
        (replace(NODE, memory_gib=4), Margins(), "a service with 16 decoders takes 5.0 GiB, more than 60% of it"),
        (NODE, Margins(utilization=1.0), "utilization = 1: it is a share between 0 and 1"),
        (NODE, Margins(late=0), "late = 0"),
        (NODE, Margins(wait_ms=-1), "wait-ms = -1"),
        (NODE, Margins(spare=-1), "spare = -1"),
    ],
)
def test_nodes_and_margins_that_cannot_be_are_refused(node: Node, margins: Margins, said: str) -> None:
    with pytest.raises(MareyError, match=said):
        needed(of_uploads(CORES, Uploads(1, 10, VIDEO)), CORES.served, node, margins)


nodes = st.builds(
    Node,
    cores=st.integers(1, 128),
    gpus=st.integers(1, 8),
    gbit=st.floats(0.1, 400),
    memory_gib=st.floats(128, 4096),
)
margins = st.builds(
    Margins,
    utilization=st.floats(0.4, 0.95),
    wait_ms=st.floats(20, 5000),
    late=st.floats(0.001, 0.3),
    spare=st.integers(0, 3),
)


@settings(max_examples=60, deadline=None)
@given(node=nodes, margin=margins, few=st.integers(1, 5000), more=st.integers(0, 5000))
def test_more_cameras_never_need_fewer_nodes(node: Node, margin: Margins, few: int, more: int) -> None:
    less, most = (needed(of_cameras(GPU, Cameras(n, VIDEO)), GPU.served, node, margin) for n in (few, few + more))
    assert less.nodes <= most.nodes


@settings(max_examples=60, deadline=None)
@given(node=nodes, margin=margins, per_day=st.floats(1, 1e7), clip_s=st.floats(0.5, 600))
def test_enough_nodes_for_each_resource_one_fewer_for_the_bottleneck_is_not_and_spares_come_on_top(
    node: Node, margin: Margins, per_day: float, clip_s: float
) -> None:
    need = needed(of_uploads(GPU, Uploads(per_day, clip_s, VIDEO)), GPU.served, node, margin)
    assert all(need.nodes >= each.nodes - 1e-6 for each in need.resources)
    (worst,) = (each for each in need.resources if each.name == need.bottleneck)
    rivals = [each.nodes for each in need.resources if each.name.endswith("wait") == worst.name.endswith("wait")]
    assert worst.nodes == max(rivals)
    assert need.nodes == 1 or need.nodes - 1 < worst.nodes
    assert need.total == need.nodes + margin.spare


@settings(max_examples=100, deadline=None)
@given(servers=st.integers(1, 512), share=st.floats(0, 0.999), more=st.integers(0, 64))
def test_a_wait_is_a_probability_and_more_servers_never_make_it_longer(servers: int, share: float, more: int) -> None:
    load = servers * share
    assert 0 <= waits(servers + more, load) <= waits(servers, load) + 1e-12 <= 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(node=nodes, per_day=st.floats(1, 1e7), slack=st.floats(1, 10))
def test_whoever_may_wait_longer_needs_no_more_nodes(node: Node, per_day: float, slack: float) -> None:
    demand = of_uploads(GPU, Uploads(per_day, 10, VIDEO))
    strict, loose = (needed(demand, GPU.served, node, Margins(wait_ms=wait)) for wait in (50, 50 * slack))
    waiting = [[each.nodes for each in need.resources if each.name.endswith("wait")] for need in (strict, loose)]
    assert all(after <= before for before, after in zip(*waiting, strict=True))
