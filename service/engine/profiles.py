"""Which shapes a TensorRT engine is built for: single images, clips, full batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.bundle.manifest import Manifest
from service.engine.base import Stage
from service.engine.buckets import BUCKETS
from service.engine.build import Profile, Shape

# Smallest, usual and largest batch of the encoder: images, clips, full batches. None is of one size alone: TensorRT-RTX then
# writes every constant out to the shape of the batch (INT8 of imagenet at 64 rows: a plan of 498 MB in place of 9).
_ENCODER = ((1, 1, 2), (3, 16, 32), (33, 64, 64))
_USUAL, _FULL = 16, BUCKETS[-1]


def profiles_of(manifest: Manifest, stage: Stage) -> tuple[Profile, ...]:
    """The optimization profiles of one network; the first that fits a shape is the one that it runs under."""
    source = manifest.artifacts[stage].inputs[0]
    fixed = tuple(int(axis) for axis in source.shape if isinstance(axis, int))
    if stage == "encoder":
        return tuple(_profile(source.name, ((rows,) for rows in sizes), fixed) for sizes in _ENCODER)
    static, sampling = manifest.network.static_frames, manifest.sampling
    if static is not None:
        return (_profile(source.name, ((1,), (_USUAL,), (_FULL,)), fixed),)
    sizes = [
        ((1, 1), (_USUAL, 1), (_FULL, 1)),  # images
        # One clip; up to 2, since with 1 alone TensorRT-RTX 1.7.1 never ends on an LSTM or GRU of 2 to 6 units.
        ((1, 1), (1, sampling.frames), (2, sampling.max_frames)),
        (
            (1, 1),
            (_USUAL, sampling.frames),
            (_FULL, sampling.max_frames),
        ),  # windows of a video, clips of several callers
    ]
    return tuple(_profile(source.name, each, fixed) for each in sizes)


def profile_of(shape: Shape, profiles: Sequence[Profile], name: str) -> int | None:
    """The number of the first profile that takes `shape` for the input `name`; None where none does."""
    for number, profile in enumerate(profiles):
        smallest, _, largest = profile[name]
        if all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
            return number
    return None


def _profile(name: str, sizes: Iterable[Shape], fixed: Shape) -> Profile:
    smallest, usual, largest = ((*axes, *fixed) for axes in sizes)
    return {name: (smallest, usual, largest)}
