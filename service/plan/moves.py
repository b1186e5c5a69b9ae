"""Where the bottleneck moves: the value of one thing at which something else becomes the limit, all the rest as it is."""

from __future__ import annotations

import math

from service.plan.costs import Video
from service.plan.load import Demand
from service.plan.nodes import Node


def moves(demand: Demand, video: Video, node: Node) -> dict[str, float]:
    """By name; what cannot happen, because a cost does not grow or is above already, is left out.

    `clip_s` or `fps`, and `pixels`: decoding costs as many core-seconds as the networks cost seconds of their unit.
    `cores_per_gpu`: cores that keep one GPU busy. `mbit`: of the incoming video, above which the network is full before the cores.
    """
    found: dict[str, float] = {}
    decoding, pixels = demand.decoding, video.pixels
    frame_s, seen_s = decoding.frame.at(pixels), decoding.kept.at(pixels) * demand.frames_seen
    left = demand.engine_s - seen_s
    # Fewer frames than are looked at would change what the networks cost, too.
    if frame_s > 0 and (frames := left / frame_s) >= demand.frames_seen:
        if demand.job == "clip":
            found["clip_s"] = frames / video.fps
        else:  # frames from one of the grid to the next
            found["fps"] = frames / demand.frames_in * video.fps
    slope = decoding.frame.per_pixel * demand.frames_in + decoding.kept.per_pixel * demand.frames_seen
    fixed = decoding.frame.fixed * demand.frames_in + decoding.kept.fixed * demand.frames_seen
    if slope > 0 and demand.engine_s > fixed:
        found["pixels"] = (demand.engine_s - fixed) / slope
    if demand.unit == "gpu":
        found["cores_per_gpu"] = demand.core_s / demand.engine_s
    # At the same share of both: jobs a second that the cores of a node do, times the bits of each.
    jobs = node.cores / demand.core_s
    if demand.unit == "gpu":
        jobs = min(jobs, node.gpus / demand.engine_s)
    bits = node.gbit * 1e9 / jobs
    now = demand.bytes_in * 8
    mbit = decoding.bytes_per_s * 8 / 1e6
    if math.isfinite(bits):
        found["mbit"] = mbit * bits / now
    return found
