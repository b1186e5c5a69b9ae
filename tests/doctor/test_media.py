"""A sample that decodes to other pixels counts as not decoded."""

from __future__ import annotations

import numpy as np
import pytest

from service.bundle.manifest import Input, Sampling
from service.doctor.media import Tried, _compare, _picture, images, opencv
from service.doctor.samples import samples
from service.media.capture import DECODABLE
from service.media.decode import decode_video
from service.media.limits import Limits


@pytest.mark.parametrize("codec", sorted(set(samples()) & DECODABLE))
def test_each_sample_is_of_the_codec_that_it_stands_for(codec: str) -> None:
    clip = decode_video(
        samples()[codec], spec=Input(height=64, width=64), plan=Sampling(frames=2), limits=Limits()
    ).clip
    assert clip.source.codec == codec  # type: ignore[union-attr]
    assert len(clip.frames) == 2


def test_a_picture_of_other_pixels_is_refused() -> None:
    assert _compare(_picture()[None]) == ""
    assert "255 of 255" in _compare(_picture()[None, :, :, ::-1])
    assert _compare(np.zeros((1, 64, 64, 3), np.uint8))


def test_opencv_without_ffmpeg_and_what_does_not_decode_are_faults() -> None:
    found = Tried(opencv="5.0.0", ffmpeg=None, codecs={"h264": "no frame came", "mjpeg": ""}, images={"JPEG": "", "TIFF": "torn"})  # fmt: skip
    assert [(check.name, check.state) for check in opencv(found)] == [
        ("opencv", "no"),
        ("videos", "ok"),
        ("h264", "no"),
    ]
    assert [(check.name, check.state) for check in images(found)] == [("images", "ok"), ("TIFF", "no")]
