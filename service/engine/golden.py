"""Prove an engine on the bundle's golden clips, and warm every batch size that it will see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.base import Engine
from service.engine.buckets import usual_frames
from service.errors import EngineError


def answers(engine: Engine, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
    """`[B, T, H, W, C]` uint8 through encoder and head, or through the clip network, unbatched: the last one's outputs by name."""
    if engine.info.stages == ("clip",):
        return engine.run("clip", frames)
    count, length = frames.shape[:2]
    features = engine.run("encoder", frames.reshape(count * length, *frames.shape[2:]))["features"]
    return engine.run("head", features.reshape(count, length, -1))


def probabilities(engine: Engine, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`[B, K]`, as `answers`."""
    return answers(engine, frames)["probabilities"]


def prove(engine: Engine, bundle: Bundle) -> float:
    """Run the golden clips; returns the largest |Δp| against the float reference, raises EngineError past its tolerance."""
    golden = bundle.golden()
    # One clip at a time: their few frames are a batch size that serving meets, too.
    found = np.concatenate([probabilities(engine, clip[None]) for clip in golden.frames])
    difference = float(np.abs(found - golden.probabilities).max())
    precision: Precision = engine.info.precision
    limit = bundle.manifest.golden.tolerance.get(precision)
    if limit is None:
        raise EngineError(f"bundle {bundle.manifest.name} states no golden tolerance for {precision}; export it again")
    if not difference <= limit:  # NaN must fail, too
        raise EngineError(
            f"{engine.info.name} at {precision} differs from the float reference of {bundle.manifest.name} by "
            f"{difference:.3g} in probability, the limit is {limit:.3g}; use --precision fp32"
        )
    return difference


def warm(engine: Engine, bundle: Bundle, *, buckets: Iterable[int]) -> None:
    """Run each batch size in `buckets` once, a head or a clip network at the lengths that requests use by default."""
    manifest = bundle.manifest
    shape = (manifest.input.height, manifest.input.width, manifest.input.channels)
    lengths = {usual_frames(manifest)} | (
        {1} if "image" in manifest.tasks and not manifest.network.static_frames else set()
    )
    if engine.info.stages == ("clip",):
        for rows, length in product(buckets, lengths):
            engine.run("clip", np.zeros((rows, length, *shape), np.uint8))
        return
    for rows in buckets:
        features = engine.run("encoder", np.zeros((rows, *shape), np.uint8))["features"]
    for length in lengths:
        engine.run("head", np.zeros((1, length, features.shape[1]), np.float32))
