import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.manifest import Input, Resize, Sampling
from service.errors import (
    DecodeFailed,
    EmptyFile,
    RequestError,
    TooLong,
    TooManyPixels,
    UnsupportedCodec,
    UnsupportedMedia,
)
from service.media.decode import decode_video
from service.media.frames import Clip, VideoInfo, Windows
from service.media.limits import Limits
from service.media.preprocess import fit
from service.media.sample import by_fps, by_windows, uniform
from tests.media.conftest import BLUE, GREEN, RED, Hostile

Record = Callable[..., Path]
ROOT = Path(__file__).parents[2]
SIXTEEN = Sampling(frames=16)


def decode(
    source: bytes | Path, spec: Input, plan: Sampling | Windows = SIXTEEN, limits: Limits | None = None
) -> tuple[Clip, VideoInfo]:
    clip = decode_video(source, spec=spec, plan=plan, limits=limits or Limits()).clip
    assert isinstance(clip.source, VideoInfo)
    return clip, clip.source


def read_all(path: Path) -> list[np.ndarray]:
    """Every frame, BGR, the slow and simple way."""
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while True:
        good, frame = capture.read()
        if not good:
            return frames
        frames.append(frame)


@pytest.mark.data
def test_every_file_of_the_folder_gives_its_frames_or_a_client_error(hostile: dict[str, Hostile], spec: Input) -> None:
    for name, row in hostile.items():
        data = row.path.read_bytes()
        if row.frames == 0 or name == "jpeg_named.mp4":
            with pytest.raises(RequestError):
                decode(data, spec)
            continue
        clip, info = decode(data, spec)
        assert info.frames_decoded == row.frames, name
        assert (info.height, info.width) == row.shape[:2], name
        assert clip.indices == uniform(row.frames, 16), name
        assert clip.times_s[0] >= 0
        assert list(clip.times_s) == sorted(clip.times_s), name


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "h264.mp4",
        "vp9.webm",
        "mjpeg.avi",
        "mpeg1.mpg",
        "edit_list_start.mp4",
        "raw_stream.h264",
        "flipping_a_pancake.mkv",
    ],
)
@pytest.mark.parametrize(
    "plan",
    [Sampling(frames=7), Sampling(strategy="fps", fps=3.0), Windows(window_s=1.0, stride_s=0.5, frames=8)],
    ids=["uniform", "fps", "windows"],
)
def test_the_frames_are_exactly_those_that_decoding_everything_finds(
    name: str, plan: Sampling | Windows, hostile: dict[str, Hostile], spec: Input
) -> None:
    clip, info = decode(hostile[name].path.read_bytes(), spec, plan)
    every = read_all(hostile[name].path)
    assert info.frames_decoded == len(every)
    for frame, index in zip(clip.frames, clip.indices, strict=True):
        assert (frame == fit(every[index], spec=spec, order="bgr")).all()


@pytest.mark.data
def test_bytes_and_a_file_give_the_same(hostile: dict[str, Hostile], spec: Input) -> None:
    for name in ("h264.mp4", "vp8.webm", "edit_list_start.mp4"):
        path = hostile[name].path
        assert (decode(path, spec)[0].frames == decode(path.read_bytes(), spec)[0].frames).all()


def test_red_green_and_blue_stay_in_order(record: Record, spec: Input) -> None:
    frames = [np.full((64, 80, 3), color, np.uint8) for color in (RED, GREEN, BLUE) for _ in range(4)]
    clip, info = decode(record(frames), spec, Sampling(frames=3))
    assert info.codec == "mjpeg"
    assert clip.indices == (2, 6, 10)
    for frame, color in zip(clip.frames, (RED, GREEN, BLUE), strict=True):
        assert np.abs(frame.astype(int) - color).max() <= 6


def test_a_grey_model_gets_one_channel(record: Record) -> None:
    frames = [np.full((64, 80, 3), RED, np.uint8)] * 4
    clip, _ = decode(record(frames), Input(height=32, width=32, color="gray"), Sampling(frames=2))
    assert clip.frames.shape == (2, 32, 32, 1)
    assert np.abs(clip.frames.astype(int) - 76).max() <= 4


@pytest.mark.data
@pytest.mark.parametrize(("name", "rotation"), [("video_90.mov", 90), ("video_270.mov", 270)])
def test_rotation_is_applied_once_and_reported(name: str, rotation: int, hostile: dict[str, Hostile]) -> None:
    clip, info = decode(hostile[name].path.read_bytes(), Input(height=568, width=320), Sampling(frames=1))
    assert (info.width, info.height, info.rotation) == (320, 568, rotation)
    stream = io.BytesIO(hostile[name].path.read_bytes())
    stored = cv2.VideoCapture(stream, cv2.CAP_FFMPEG, [])
    assert stored.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    frames = [stored.read()[1] for _ in range(3)]
    # The tag says by how much the stored picture is to be turned clockwise.
    upright = np.rot90(frames[clip.indices[0]], -rotation // 90)[:, :, ::-1]
    assert (clip.frames[0] == upright).all()


@pytest.mark.data
def test_three_frames_are_three_frames(hostile: dict[str, Hostile], spec: Input) -> None:
    clip, info = decode(hostile["three_frames.mp4"].path.read_bytes(), spec)
    assert clip.indices == (0, 1, 2)
    assert info.duration_s == pytest.approx(0.1)
    repeated, _ = decode(hostile["three_frames.mp4"].path.read_bytes(), spec, Sampling(frames=4, short_clip="repeat"))
    assert repeated.indices == (0, 1, 1, 2)
    assert (repeated.frames[1] == repeated.frames[2]).all()


@pytest.mark.data
def test_content_counts_where_the_header_lies(hostile: dict[str, Hostile], spec: Input) -> None:
    clip, info = decode(hostile["tkhd_claims_60000x60000.mp4"].path.read_bytes(), spec)
    honest, same = decode(hostile["h264.mp4"].path.read_bytes(), spec)
    assert (info.width, info.height) == (240, 178)
    assert info == same
    assert (clip.frames == honest.frames).all()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("edit_list_start.mp4", "the header claims 108 frames, 78 were decoded"),
        ("truncated_moov_first.mp4", "the header claims 108 frames, 56 were decoded"),
        ("corrupted.mp4", "the header claims 50 frames, 28 were decoded"),
        ("mpeg1.mpg", "the header claims 98 frames, 108 were decoded"),
        ("mjpeg.avi", "1 gaps in presentation times, the longest 0.133 s, first after frame 0"),
        ("raw_stream.h264", "no presentation times"),
    ],
)
def test_what_is_odd_about_a_file_is_reported(
    name: str, warning: str, hostile: dict[str, Hostile], spec: Input
) -> None:
    clip, _ = decode(hostile[name].path.read_bytes(), spec)
    assert any(warning in text for text in clip.warnings), clip.warnings


@pytest.mark.data
@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "unordered.mov", "fps120.mp4", "long_110s.mp4"])
def test_a_sound_file_brings_no_warning(name: str, hostile: dict[str, Hostile], spec: Input) -> None:
    assert decode(hostile[name].path.read_bytes(), spec)[0].warnings == ()


@pytest.mark.data
@pytest.mark.parametrize(("name", "codec"), [("av1.mp4", "av1"), ("theora.ogv", "theora")])
def test_a_codec_that_opens_and_gives_no_frame_is_named(
    name: str, codec: str, hostile: dict[str, Hostile], spec: Input
) -> None:
    with pytest.raises(UnsupportedCodec, match=rf"codec is {codec}.*convert it to H.264"):
        decode(hostile[name].path.read_bytes(), spec)


@pytest.mark.data
def test_sound_without_pictures_is_no_video(hostile: dict[str, Hostile], spec: Input) -> None:
    data = hostile["audio_first_stream.mp4"].path.read_bytes()
    handler = bytes(8) + b"vide"
    track = data.rindex(b"trak", 0, data.index(handler))
    silenced = data[:track] + b"free" + data[track + 4 :].replace(handler, bytes(12))
    with pytest.raises(UnsupportedMedia, match="sound but no video"):
        decode(silenced, spec)


@pytest.mark.data
def test_an_upload_that_was_cut_off_says_what_is_missing(hostile: dict[str, Hostile], spec: Input) -> None:
    with pytest.raises(DecodeFailed, match="no index"):
        decode(hostile["truncated_no_moov.mp4"].path.read_bytes(), spec)


@pytest.mark.data
def test_frames_that_are_all_damaged_are_the_files_fault_not_the_codecs(
    hostile: dict[str, Hostile], spec: Input
) -> None:
    data = bytearray(hostile["vp8.webm"].path.read_bytes())
    start = data.index(b"\x9d\x01\x2a") - 3
    data[start:] = bytes(len(data) - start)
    with pytest.raises(DecodeFailed, match="cannot be decoded"):
        decode(bytes(data), spec)


@pytest.mark.data
def test_what_is_too_long_is_refused_by_its_content(hostile: dict[str, Hostile], spec: Input) -> None:
    long = hostile["long_110s.mp4"].path.read_bytes()
    with pytest.raises(TooLong, match=r"at most 60 s are taken; cut it"):
        decode(long, spec, limits=Limits(max_duration_s=60))
    with pytest.raises(TooLong, match=r"at most 1,000 are decoded"):
        decode(long, spec, limits=Limits(max_decoded_frames=1000))
    with pytest.raises(TooLong, match=r"need 446 frames, at most 100 are held"):
        decode(long, spec, Windows(window_s=2.0, stride_s=1.0, frames=8), limits=Limits(max_grid_frames=100))


@pytest.mark.data
def test_windows_too_fine_to_hold_are_refused_however_short_the_video(hostile: dict[str, Hostile], spec: Input) -> None:
    with pytest.raises(TooLong, match="frames, at most 1,024 are held"):
        decode(hostile["h264.mp4"].path.read_bytes(), spec, Windows(window_s=1e-7, stride_s=1.0, frames=16))


@pytest.mark.data
def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(hostile: dict[str, Hostile], spec: Input) -> None:
    with pytest.raises(TooManyPixels, match="3840×2160"):
        decode(hostile["uhd_3840x2160.mp4"].path.read_bytes(), spec, limits=Limits(max_pixels=2_000_000))


@pytest.mark.data
def test_a_stream_that_changes_its_size_goes_on(hostile: dict[str, Hostile], spec: Input) -> None:
    small, large = hostile["mpeg2.mpg"].path, hostile["Reg_pat1Image_133410.mpeg"].path
    clip, info = decode(small.read_bytes() + large.read_bytes(), spec, Sampling(frames=4))
    assert info.frames_decoded > 180
    assert (info.width, info.height) == (240, 178)
    last = clip.frames[-1].astype(int)
    every = [fit(frame, spec=spec, order="bgr") for frame in read_all(large)]
    assert min(np.abs(last - frame).mean() for frame in every) < 4
    assert any("step backwards" in text for text in clip.warnings)


@pytest.mark.data
def test_pixels_that_are_not_square_are_shown_in_their_shape(hostile: dict[str, Hostile]) -> None:
    spec = Input(height=64, width=64, resize=Resize(rule="pad"))
    clip, _ = decode(hostile["sar_2_1.mp4"].path.read_bytes(), spec)
    rows = clip.frames.max(axis=(0, 2, 3)) > 24
    assert abs(int(rows.sum()) - round(64 * 178 / 480)) <= 1


@pytest.mark.data
def test_windows_follow_the_times_and_share_their_frames(hostile: dict[str, Hostile], spec: Input) -> None:
    plan = Windows(window_s=2.0, stride_s=0.6, frames=16)
    clip, info = decode(hostile["long_110s.mp4"].path.read_bytes(), spec, plan)
    times = [i / 30 for i in range(3348)]
    expected = by_windows(times, plan=plan, duration_s=info.duration_s)
    assert clip.indices == expected.indices
    assert [(w.first, w.count) for w in clip.windows] == [(w.first, w.count) for w in expected.windows]
    assert clip.stride_s == 0.625
    assert clip.windows[-1].end_s == pytest.approx(info.duration_s, abs=0.07)
    assert len(clip.frames) < len(clip.windows) * 16 / 3


@pytest.mark.data
def test_sampling_by_fps_follows_the_times(hostile: dict[str, Hostile], spec: Input) -> None:
    clip, info = decode(hostile["fps1.mp4"].path.read_bytes(), spec, Sampling(strategy="fps", fps=0.5, frames=2))
    assert clip.indices == by_fps([0, 1, 2, 3, 4], fps=0.5, max_frames=64, duration_s=info.duration_s)
    assert clip.stride_s is None
    assert clip.windows == ()


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, spec: Input) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    for source in (b"", tmp_path / "empty.mp4"):
        with pytest.raises(EmptyFile):
            decode(source, spec)


@pytest.mark.data
def test_damage_anywhere_in_a_file_raises_nothing_but_client_errors(hostile: dict[str, Hostile], spec: Input) -> None:
    rng = np.random.default_rng(6)
    for name in ("three_frames.mp4", "raw_bgr24.avi", "h263.3gp", "ffv1.mkv", "anim.gif"):
        good = hostile[name].path.read_bytes()
        for _ in range(8):
            data = bytearray(good)
            for at in rng.integers(0, min(len(data), 4000), 10):
                data[at] = rng.integers(0, 256)
            try:
                clip, _ = decode(bytes(data), spec)
            except RequestError:
                continue
            assert clip.frames.shape[1:] == (64, 64, 3)


PEAK = """
import resource, sys
from pathlib import Path
from service.bundle.manifest import Input, Sampling
from service.media.decode import decode_video
from service.media.limits import Limits
for name in sys.argv[1:]:
    decode_video(Path(name), spec=Input(height=224, width=224), plan=Sampling(), limits=Limits())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.data
def test_memory_stays_flat_for_a_clip_of_two_minutes(hostile: dict[str, Hostile]) -> None:
    names = [str(hostile[name].path) for name in ("h264.mp4", "long_110s.mp4")]
    command = [sys.executable, "-c", PEAK, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    short, long = map(int, done.stdout.split())
    # All 3,348 frames would be 430 MB as they are, 500 MB at the network's size.
    assert long - short < 20_000, f"{short = } kB, {long = } kB"
