"""Which shapes a TensorRT engine is built for: single images, clips, full batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.bundle.manifest import Manifest, Stage
from service.engine.buckets import BUCKETS, buckets_up_to, largest_batch, usual_frames
from service.engine.build import Profile, Shape

# Smallest, usual and largest batch of what frames enter: images, clips, full batches. None is of one size alone: TensorRT-RTX
# then writes every constant out to the shape of the batch (INT8 of imagenet at 64 rows: a plan of 498 MB in place of 9).
_BATCHES = ((1, 1, 2), (3, 16, 32), (33, 64, 64))
_USUAL, _FULL = 16, BUCKETS[-1]


def most_rows(manifest: Manifest) -> int:
    """The largest batch of the network that frames enter."""
    return largest_batch(manifest, frames=_FULL)


def fixed_of(manifest: Manifest, stage: Stage) -> tuple[Shape, ...]:
    """The only shapes that come, where all but the batch size is the same: every batch size of what frames enter; else none."""
    axes = manifest.artifacts[stage].inputs[0].shape[1:]
    row = tuple(axis for axis in axes if isinstance(axis, int))
    if stage == "head" or len(row) != len(axes):
        return ()
    return tuple((rows, *row) for rows in buckets_up_to(most_rows(manifest)))


def profiles_of(manifest: Manifest, stage: Stage) -> tuple[Profile, ...]:
    """The optimization profiles of one network; the first that fits a shape is the one that it runs under."""
    source = manifest.artifacts[stage].inputs[0]
    fixed = tuple(int(axis) for axis in source.shape if isinstance(axis, int))
    if stage == "encoder" or (stage == "clip" and fixed_of(manifest, stage)):
        sizes = [_up_to(most_rows(manifest), *batch) for batch in _BATCHES if batch[0] <= most_rows(manifest)]
        return tuple(_profile(source.name, ((rows,) for rows in batch), fixed) for batch in sizes)
    if manifest.network.static_frames is not None:
        return (_profile(source.name, ((1,), (_USUAL,), (_FULL,)), fixed),)
    frames, longest = usual_frames(manifest), manifest.sampling.max_frames
    # A clip network computes every frame of its rows, a head only what is left of them.
    usual, full = (most_rows(manifest), max(2, most_rows(manifest))) if stage == "clip" else (_USUAL, _FULL)
    images = [((1, 1), (usual, 1), (full, 1))] if stage == "head" or "image" in manifest.tasks else []
    lengths = [
        *images,
        # One clip; up to 2, since with 1 alone TensorRT-RTX 1.7.1 never ends on an LSTM or GRU of 2 to 6 units.
        ((1, 1), (1, frames), (2, longest)),
        ((1, 1), (usual, frames), (full, longest)),  # windows of a video, clips of several callers
    ]
    return tuple(_profile(source.name, each, fixed) for each in dict.fromkeys(lengths))


def profile_of(shape: Shape, profiles: Sequence[Profile], name: str) -> int | None:
    """The number of the first profile that takes `shape` for the input `name`; None where none does."""
    for number, profile in enumerate(profiles):
        smallest, _, largest = profile[name]
        if all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
            return number
    return None


def _up_to(most: int, smallest: int, usual: int, largest: int) -> tuple[int, int, int]:
    """The batch sizes of a profile, none above `most`, except that it spans two."""
    return smallest, min(usual, most), max(min(largest, most), smallest + 1)


def _profile(name: str, sizes: Iterable[Shape], fixed: Shape) -> Profile:
    smallest, usual, largest = ((*axes, *fixed) for axes in sizes)
    return {name: (smallest, usual, largest)}
