"""Frames in stretches are the frames that decoding the whole video finds, whatever its times do, in memory that stays flat."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from service.bundle.manifest import Input
from service.errors import DecodeLimit, RequestError, TooLong, TooManyPixels
from service.media.decode import decode_video
from service.media.frames import Clip, Stretch, VideoInfo, Windows
from service.media.limits import Limits
from service.media.sample import by_windows, grid_points
from service.media.stretches import MOST, decode_stretches
from service.media.timeline import end_s
from tests.media.conftest import Hostile

Record = Callable[..., Path]
pytestmark = pytest.mark.timeout(120)

ANY_NUMBER = Limits(max_grid_frames=10**9)
PLANS = [
    Windows(window_s=1.0, stride_s=0.5, frames=8),
    Windows(window_s=2.0, stride_s=2.0, frames=16),
    Windows(window_s=0.2, stride_s=0.2, frames=2),
    Windows(window_s=30.0, stride_s=30.0, frames=16),
]


def stretches(
    source: bytes | Path, plan: Windows, spec: Input, limits: Limits = ANY_NUMBER, cpu_s: float = 60
) -> list[Stretch]:
    found = decode_stretches(source, spec=spec, plan=plan, limits=limits, cpu_s=cpu_s)
    return [stretch for stretch in found if stretch is not None]


def same(parts: list[Stretch], clip: Clip, plan: Windows) -> None:
    """`parts` are `clip`, cut into pieces of up to 16 frames."""
    assert tuple(itertools.chain.from_iterable(part.indices for part in parts)) == clip.indices
    assert tuple(itertools.chain.from_iterable(part.times_s for part in parts)) == clip.times_s
    assert (np.concatenate([part.frames for part in parts]) == clip.frames).all()
    assert [part.info for part in parts] == [None] * (len(parts) - 1) + [clip.source]
    assert parts[-1].warnings == clip.warnings
    assert max(len(part.frames) for part in parts) <= MOST
    assert isinstance(clip.source, VideoInfo)
    points = [count for part in parts for count in part.points]
    assert min(points) > 0
    assert sum(points) == grid_points(clip.source.duration_s, plan=plan)
    # The windows, made from the points alone.
    shown = list(itertools.chain.from_iterable(itertools.repeat(row, count) for row, count in enumerate(points)))
    for window in clip.windows:
        spacing = min(plan.window_s, clip.source.duration_s) / plan.frames
        first, last = round(window.start_s / spacing), round(window.end_s / spacing)
        assert (shown[first], shown[last - 1]) == (window.first, window.first + window.count - 1)


@pytest.mark.data
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.window_s:g}s")
def test_every_file_of_the_folder_gives_what_decoding_it_whole_gives(
    plan: Windows, hostile: dict[str, Hostile]
) -> None:
    spec = Input(height=24, width=24)
    for name, row in hostile.items():
        try:
            clip = decode_video(row.path, spec=spec, plan=plan, limits=ANY_NUMBER).clip
        except RequestError as error:
            with pytest.raises(type(error)) as caught:
                stretches(row.path, plan, spec)
            assert str(caught.value) == str(error), name
            continue
        same(stretches(row.path, plan, spec), clip, plan)
