"""Frames in stretches are the frames that decoding the whole video finds, whatever its times do, in memory that stays flat."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.manifest import Input
from service.errors import DecodeLimit, RequestError, TooLong, TooManyPixels
from service.media.decode import decode_video
from service.media.frames import Clip, Stretch, VideoInfo, Windows
from service.media.limits import Limits
from service.media.sample import grid_points
from service.media.stretches import MOST, decode_stretches
from tests.media.conftest import Hostile

Record = Callable[..., Path]
ROOT = Path(__file__).parents[2]
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
@pytest.mark.parametrize("plan", PLANS[::3], ids=lambda plan: f"{plan.window_s:g}s")
def test_every_file_of_the_folder_gives_what_decoding_it_whole_gives(
    plan: Windows, hostile: dict[str, Hostile]
) -> None:
    spec = Input(height=24, width=24)
    for name, row in hostile.items():
        if row.path.stat().st_size > 100_000:  # the long and the large: seconds for nothing new
            continue
        clip, refusal = None, None
        try:
            clip = decode_video(row.path, spec=spec, plan=plan, limits=ANY_NUMBER).clip
        except RequestError as error:
            refusal = error
        if clip is not None:
            same(stretches(row.path, plan, spec), clip, plan)
            continue
        with pytest.raises(type(refusal)) as caught:
            stretches(row.path, plan, spec)
        assert str(caught.value) == str(refusal), name


def retimed(path: Path, ticks: list[int]) -> bytes:
    """The MP4 with each frame shown for so many ticks of its clock."""
    data = path.read_bytes().replace(b"edts", b"free")  # an edit list would cut it to its old length
    at = data.index(b"stts") - 4
    old = int.from_bytes(data[at : at + 4], "big")
    entries = b"".join((1).to_bytes(4, "big") + tick.to_bytes(4, "big") for tick in ticks)
    table = (16 + len(entries)).to_bytes(4, "big") + b"stts" + bytes(4) + len(ticks).to_bytes(4, "big") + entries
    changed = bytearray(data[:at] + table + data[at + old :])
    assert data.index(b"mdat") < at  # nothing before it is moved
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = data.rindex(box, 0, at) - 4
        size = int.from_bytes(data[start : start + 4], "big") + len(table) - old
        changed[start : start + 4] = size.to_bytes(4, "big")
    return bytes(changed)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_times_do_the_frames_are_the_same(seed: int, record: Record) -> None:
    """Leaps far beyond any before them, frames closer than the grid, and some that do not move on at all."""
    rng = np.random.default_rng(seed)
    frames = [np.full((32, 48, 3), index * 2, np.uint8) for index in range(120)]
    path = record(frames, suffix=".mp4", codec="mp4v", fps=25.0)
    second = 12_800  # ticks
    ticks = [int(tick) for tick in rng.choice([0.02, 0.04, 0.3], 120, p=[0.45, 0.5, 0.05]) * second]
    for leap in (0.5, 2.0, 7.0):
        ticks[int(rng.integers(5, 115))] = int(leap * second)
    if seed % 2:
        ticks[int(rng.integers(5, 115))] = 0
    content, spec = retimed(path, ticks), Input(height=8, width=8)
    for plan in (*PLANS, Windows(window_s=0.7, stride_s=0.3, frames=9)):
        clip = decode_video(content, spec=spec, plan=plan, limits=ANY_NUMBER).clip
        assert isinstance(clip.source, VideoInfo)
        assert clip.source.duration_s > 9
        same(stretches(content, plan, spec), clip, plan)
        assert any("gaps in presentation times" in text for text in clip.warnings)


def test_in_a_hurry_fewer_frames_come_at_once_and_signs_of_life_between_them(record: Record) -> None:
    frames = [np.full((32, 48, 3), index * 4, np.uint8) for index in range(60)]
    path, spec, plan = record(frames), Input(height=8, width=8), Windows(window_s=2.0, stride_s=2.0, frames=4)
    found = list(decode_stretches(path, spec=spec, plan=plan, limits=ANY_NUMBER, cpu_s=60, patience_s=0.0))
    same(
        [part for part in found if part is not None],
        decode_video(path, spec=spec, plan=plan, limits=ANY_NUMBER).clip,
        plan,
    )
    # Every frame is a sign; up to the end of the first window nothing leaves, for the video may be shorter than it.
    assert len(found) >= 60
    assert found[:20] == [None] * 20
    assert {len(part.frames) for part in found[25:] if part is not None} == {1}


def test_what_is_too_large_too_long_or_too_dear_is_refused(record: Record, spec: Input) -> None:
    frames = [np.full((32, 48, 3), index * 4, np.uint8) for index in range(60)]
    path, plan = record(frames), Windows(window_s=0.5, stride_s=0.5, frames=8)
    with pytest.raises(TooManyPixels, match="48×32"):
        stretches(path, plan, spec, Limits(max_pixels=1000))
    with pytest.raises(TooLong, match=r"runs for \d\.\d s or more, at most 3 s"):
        stretches(path, plan, spec, Limits(max_duration_s=3.0))
    with pytest.raises(TooLong, match="at most 50 are decoded"):
        stretches(path, plan, spec, Limits(max_decoded_frames=50))
    with pytest.raises(DecodeLimit, match="processor time up to second"):
        stretches(path, plan, spec, cpu_s=0.0)


def test_a_video_whose_header_says_that_it_is_too_long_is_refused_before_it_is_decoded(
    record: Record, spec: Input
) -> None:
    path = record([np.full((32, 48, 3), 9, np.uint8)] * 60)
    found = decode_stretches(
        path, spec=spec, plan=PLANS[0], limits=Limits(max_duration_s=3.0), cpu_s=60, patience_s=0.0
    )
    with pytest.raises(TooLong):
        next(found)


PEAK = """
import resource, sys
from pathlib import Path
from service.bundle.manifest import Input
from service.media.frames import Windows
from service.media.limits import Limits
from service.media.stretches import decode_stretches
for name in sys.argv[1:]:
    count = 0
    for stretch in decode_stretches(
        Path(name), spec=Input(height=96, width=96), plan=Windows(1.0, 1.0, 20), limits=Limits(), cpu_s=60
    ):
        count += len(stretch.frames) if stretch is not None else 0
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Six minutes against one: all frames looked at would be 200 MB at the network's size."""
    for name, minutes in (("short.avi", 1), ("long.avi", 6)):
        codec = cv2.VideoWriter_fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.CAP_FFMPEG, codec, 20.0, (64, 48))
        for index in range(minutes * 60 * 20):
            writer.write(np.full((48, 64, 3), index % 256, np.uint8))
        writer.release()
    command = [sys.executable, "-c", PEAK, str(tmp_path / "short.avi"), str(tmp_path / "long.avi")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    (few, short), (many, long) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (1200, 7200)
    assert long - short < 10_000, f"{short = } kB, {long = } kB"
