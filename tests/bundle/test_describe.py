"""What `marey inspect` says of a bundle's networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.bundle.describe import describe
from service.bundle.frame_statistics import FrameStatistics
from service.bundle.manifest import Calibration, Input, Network, Step
from service.bundle.store import Bundle
from tests.clip_bundle import make_clip_bundle


def row(bundle: Bundle, name: str) -> str:
    (line,) = [line for line in describe(bundle).splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(name).strip()


def test_an_encoder_and_a_head_are_told(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "color", network=Network(feature_dim=3, attention=True, multi_label=True))
    assert row(made, "network") == "encoder (3 features a frame) and head, any number of frames, with attention"
    assert row(made, "classes") == "3: red, green, blue, any number of them at a time (multi-label)"


def test_the_steps_before_the_network_are_told_with_every_parameter(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    steps = (Step(name="denoise"), Step(name="clahe", parameters={"tiles": [2, 4]}))
    made = make_bundle(tmp_path / "color", input=Input(height=16, width=16, preprocess=steps))
    assert row(made, "input") == (
        "16×16 rgb uint8, resized by squash, then denoise (kernel 3), then clahe (clip_limit 2.0, tiles 2×4)"
    )


def test_a_clip_network_is_told_with_its_length_and_its_further_outputs(tmp_path: Path) -> None:
    free = make_clip_bundle(tmp_path / "free", attention=False)
    assert row(free, "network") == "one for the whole clip, any number of frames"
    fixed = make_clip_bundle(tmp_path / "fixed", frames=6, positions="steps", int8=4)
    assert row(fixed, "network") == (
        "one for the whole clip, 6 frames and no other number, with attention, with probabilities by position"
    )
    assert row(fixed, "clip.int8").startswith("clip.int8.onnx, ")
    assert "at most" in row(free, "sampling")
    assert "and no other number" in row(fixed, "sampling")


def test_the_calibration_is_told_with_the_light_of_its_frames(tmp_path: Path) -> None:
    light = FrameStatistics(brightness=tuple(range(10, 121, 11)), contrast=tuple(range(3, 14)))
    fields = {"data": "photos", "data_sha256": "0", "frames": 200, "method": "MinMax", "quantizer": "onnxruntime"}
    made = make_clip_bundle(tmp_path / "made", int8=4, calibration=Calibration(**fields, statistics=light))
    assert row(made, "calibration") == "MinMax on 200 frames of photos (no split)"
    assert row(made, "its frames") == "brightness 10 to 120, contrast 3 to 13 of 255 levels"
    before = make_clip_bundle(tmp_path / "before", int8=4, calibration=Calibration(**fields))
    assert "its frames" not in describe(before)
