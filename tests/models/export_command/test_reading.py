"""How frames reach the model is found out or asked for, and said."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
from keras import layers

from service.bundle.store import open_bundle
from tests.models.export_command.conftest import LABELS, export
from tests.models.export_command.networks import answers, clips_of, cnn, images


def test_a_model_of_any_size_takes_the_size_that_is_said_and_the_line_tells_how_frames_reach_it(
    given: Path, tmp_path: Path
) -> None:
    model = images(None)
    model.save(tmp_path / "any.keras")
    arguments = (tmp_path / "any.keras", "--preprocess", "0/255", "--color", "bgr")
    assert "frames of any size (?×?)" in export(given, tmp_path / "out", *arguments, code=1).stderr
    result = export(given, tmp_path / "out", *arguments, "--size", "16x16", "--json")
    assert "read as: 16×16 BGR, squashed; pixels (x − 0) / 255; 16 frames over the clip\n" in result.stderr
    bundle = open_bundle(tmp_path / "out")
    pixels = clips_of()
    wanted = np.asarray(model(pixels.reshape(-1, 16, 16, 3)[..., ::-1].astype(np.float32) / 255)).reshape(2, 5, 3)
    np.testing.assert_allclose(answers(bundle, pixels), wanted.mean(axis=1), atol=1e-5)
    assert bundle.manifest.provenance.source_sha256 is not None


def test_steps_before_the_model_are_part_of_its_bundle_and_of_its_calibration(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    flags = ("--preprocess", "0/255", "--enhance", "denoise", "--enhance", "clahe:clip_limit=4,tiles=2x2")
    result = export(given, tmp_path / "out", tmp_path / "m.keras", *flags)
    told = "then denoise (kernel 3), then clahe (clip_limit 4.0, tiles 2×2)"
    assert f"read as: 16×16 RGB, squashed, {told}; pixels" in result.stderr
    assert f"whatever their aspect, {told}." in (tmp_path / "out" / "report.md").read_text()
    spec = open_bundle(tmp_path / "out").manifest.input
    assert [(step.name, step.version) for step in spec.preprocess] == [("denoise", 1), ("clahe", 1)]
    plain = export(given, tmp_path / "plain", tmp_path / "m.keras", "--preprocess", "0/255")
    assert plain.exit_code == 0
    ranges = [
        json.loads((tmp_path / name / "report.json").read_text())["quantization"]["calibration_agreement"]
        for name in ("out", "plain")
    ]
    assert ranges[0] != ranges[1], "calibrated on the same pixels"


def test_a_model_of_one_channel_is_grey_without_a_question(given: Path, tmp_path: Path) -> None:
    images(channels=1).save(tmp_path / "grey.keras")
    export(given, tmp_path / "out", tmp_path / "grey.keras", "--preprocess", "tf")
    assert open_bundle(tmp_path / "out").manifest.input.color == "gray"


def test_a_model_of_fixed_length_sets_its_frames_and_says_so(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    clips = keras.Input((6, 16, 16, 3))
    x = layers.TimeDistributed(cnn())(layers.Rescaling(1 / 255, name="to_unit")(clips))
    keras.Model(clips, layers.Dense(3, activation="softmax")(layers.LSTM(4)(x))).save(tmp_path / "six.keras")
    assert (
        "--frames 8: the model takes 6 frames"
        in export(given, tmp_path / "out", tmp_path / "six.keras", "--frames", 8, code=1).stderr
    )
    result = export(given, tmp_path / "out", tmp_path / "six.keras")
    assert "; 6 frames over the clip, the number that the model takes; a shorter clip's are repeated" in result.stderr
    assert "pixels as bytes 0…255, scaled by 'to_unit' inside the model" in result.stderr
    sampling = open_bundle(tmp_path / "out").manifest.sampling
    assert (sampling.frames, sampling.short_clip) == (6, "repeat")


def test_the_report_says_how_frames_and_answers_were_read(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    frames = cnn()
    dense = layers.Dense(1, activation="sigmoid", kernel_initializer=keras.initializers.RandomNormal(0, 3))
    keras.Model(frames.input, dense(frames.output)).save(tmp_path / "m.keras")
    (given / "pair.txt").write_text("calm\nfight\n")
    arguments = (tmp_path / "m.keras", "--preprocess", "0/255", "--color", "bgr", "--frames", 8)
    export(given, tmp_path / "out", *arguments, labels="pair.txt")
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.split("\n", 3)[2].startswith("## "), "no empty line in place of a description"
    part = text.split("## How it was read\n\n")[1].split("\n\n")[0]
    assert part.splitlines() == [
        "- Frames: 16×16, BGR (the network turns RGB round itself); squashed to that size, whatever their aspect.",
        "- Pixels: (x − 0) / 255.",
        "- Clip: 8 frames over the clip; at most 64 if a client asks.",
        "- Labels: 0 calm, 1 fight.",
        "- Answers: sigmoid of one output p, which became two classes: fight is p, calm is 1 − p.",
    ]
    positive = answers(open_bundle(tmp_path / "out"), clips_of())[:, 1]
    pixels = clips_of().reshape(-1, 16, 16, 3)[..., ::-1].astype(np.float32) / 255
    wanted = np.asarray(keras.models.load_model(tmp_path / "m.keras")(pixels)).reshape(2, 5).mean(axis=1)
    np.testing.assert_allclose(positive, wanted, atol=1e-5)


def test_without_the_flag_the_readings_are_shown_and_nothing_is_written(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    lines = export(given, tmp_path / "out", tmp_path / "m.keras", code=1).stderr.splitlines()
    assert lines[0].startswith("error: the model has no Rescaling")
    assert [line.split("  ")[1] for line in lines[2:5]] == [
        f"--preprocess {each} --color rgb" for each in ("0/255", "tf", "none")
    ]
    assert all(label in line for line in lines[2:5] for label in LABELS)
