"""How frames are measured: by hand, the same alone and among others, of large frames a part, and at little cost."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from pydantic import ValidationError

from service.bundle.frame_statistics import FrameStatistics, measure, statistics_of
from service.bundle.manifest import Calibration

DECILES = tuple(float(level) for level in range(10, 120, 10))


def even(*levels: int, side: int = 8, channels: int = 3) -> np.ndarray:
    """A frame of one level each."""
    return np.stack([np.full((side, side, channels), level, np.uint8) for level in levels])


def test_brightness_and_contrast_by_hand() -> None:
    halves = even(10, 0)
    halves[1, :, :4] = (30, 60, 90)  # grey levels 60 and 0
    brightness, contrast = measure(halves)
    assert brightness.tolist() == [10, 30]
    assert contrast.tolist() == [0, 30]


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_that_are_no_larger_than_what_is_measured_are_measured_whole(channels: int) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (5, 32, 32, channels), np.uint8)
    grey = frames.mean(axis=3)
    brightness, contrast = measure(frames)
    np.testing.assert_allclose(brightness, grey.mean(axis=(1, 2)))
    np.testing.assert_allclose(contrast, grey.std(axis=(1, 2)))


def test_of_a_large_frame_a_part_stands_for_the_whole() -> None:
    rows, columns = np.mgrid[:480, :640]
    frame = (60 + 40 * np.sin(rows / 50) + 30 * np.cos(columns / 70))[None, ..., None].astype(np.uint8)
    brightness, contrast = measure(frame)
    assert brightness[0] == pytest.approx(frame.mean(), abs=2)
    assert contrast[0] == pytest.approx(frame.std(), abs=2)


def test_a_frame_is_measured_the_same_alone_and_among_others() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (20, 224, 224, 3), np.uint8)
    together = np.stack(measure(frames))
    alone = np.concatenate([np.stack(measure(frame[None])) for frame in frames], axis=1)
    assert np.array_equal(together, alone), "else a calibration frame could lie outside of its own range"


def test_the_statistics_of_frames_are_the_ends_and_the_tenths_of_their_measures() -> None:
    found = statistics_of(even(*range(101)[::-1]))
    assert found.brightness == tuple(range(0, 101, 10))
    assert found.contrast == (0,) * 11
    assert statistics_of(even(7)).brightness == (7,) * 11


def test_they_come_back_from_a_manifest_as_they_were_and_need_not_be_there() -> None:
    fields = {"data": "d", "data_sha256": "0", "frames": 3, "method": "MinMax", "quantizer": "q"}
    frames = np.random.default_rng(3).integers(0, 256, (30, 16, 16, 3), np.uint8)
    made = Calibration(**fields, statistics=statistics_of(frames))
    assert Calibration.model_validate(json.loads(made.model_dump_json())) == made
    assert Calibration(**fields).statistics is None


@pytest.mark.parametrize(
    "brightness",
    [DECILES[:-1], (*DECILES, 120.0), DECILES[::-1], (*DECILES[:-1], 256.0), (-1.0, *DECILES[1:]), (*DECILES[:-1], float("nan"))],
)  # fmt: skip
def test_points_that_cannot_be_are_refused(brightness: tuple[float, ...]) -> None:
    FrameStatistics(brightness=DECILES, contrast=(5.0,) * 11)
    with pytest.raises(ValidationError, match="brightness"):
        FrameStatistics(brightness=brightness, contrast=DECILES)


def test_a_frame_is_measured_in_a_fraction_of_a_millisecond() -> None:
    frame, fastest = np.zeros((1, 224, 224, 3), np.uint8), float("inf")
    for _ in range(10):
        began = time.thread_time()
        for _ in range(200):
            measure(frame)
        fastest = min(fastest, (time.thread_time() - began) / 200)
    assert fastest < 100e-6
