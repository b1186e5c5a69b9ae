"""The batch sizes of the network that frames enter: an engine pays for each new size once, and all are warmed before ready."""

from __future__ import annotations

from collections.abc import Iterator

from service.bundle.manifest import Manifest

BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def buckets_up_to(largest: int) -> tuple[int, ...]:
    return tuple(bucket for bucket in BUCKETS if bucket <= largest)


def largest_batch(manifest: Manifest, *, frames: int) -> int:
    """The most rows in a batch where `frames` frames pay: as many of an encoder, as many clips as hold them of a clip network."""
    if manifest.network.kind == "encoder_head":
        return frames
    return buckets_up_to(max(1, frames // usual_frames(manifest)))[-1]


def usual_frames(manifest: Manifest) -> int:
    """The length of a clip where nobody asks for another."""
    return manifest.network.static_frames or manifest.sampling.frames


def buckets_for(rows: int, *, largest: int = BUCKETS[-1]) -> Iterator[tuple[int, int, int]]:
    """Cut `rows` into warmed batch sizes up to `largest`, which is one: yields (start, rows taken, bucket).

    A bucket is padded only where at most a quarter of it is padding: 13 rows run as 16, 17 rows as 16 and 1.
    """
    start = 0
    while start < rows:
        left = rows - start
        above = next((bucket for bucket in BUCKETS if bucket >= left), BUCKETS[-1])
        fits = left <= above <= largest and above - left <= above // 4
        bucket = above if fits else buckets_up_to(min(left, largest))[-1]
        taken = min(left, bucket)
        yield start, taken, bucket
        start += taken
