"""Synthetic clips are always the same, differ from one another, and are small when stored."""

from __future__ import annotations

import io

import numpy as np

from models.synthetic import synthetic_clips


def clips(seed: int = 0, **changes: int) -> np.ndarray:
    return synthetic_clips(
        **{"count": 4, "frames": 5, "height": 48, "width": 64, "channels": 3, "seed": seed, **changes}
    )


def test_a_seed_always_gives_the_same_clips() -> None:
    np.testing.assert_array_equal(clips(), clips())
    assert not np.array_equal(clips(), clips(1))


def test_clips_have_the_shape_that_was_asked_for() -> None:
    assert clips(channels=1).shape == (4, 5, 48, 64, 1)
    assert clips().dtype == np.uint8


def test_clips_differ_and_something_moves_in_each() -> None:
    rows = clips()
    assert len(np.unique(rows.reshape(4, -1), axis=0)) == 4
    for clip in rows:
        assert np.abs(np.diff(clip.astype(int), axis=0)).max(axis=(1, 2, 3)).min() > 0


def test_they_compress_to_little() -> None:
    rows = synthetic_clips(count=3, frames=4, height=224, width=224, channels=3, seed=0)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, rows)
    assert buffer.tell() < 100_000
