"""`marey-build export` on whatever a user brings: one file or two, Keras or ONNX, with and without code; exit codes and sentences."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from keras import layers

from models.cli import main
from models.export.runtime import Runtime
from models.files.model_code import ModelCode
from service.bundle.store import Bundle, open_bundle

LABELS = ("ape", "bee", "cat")
ONE_NODE = onnx.helper.make_model(
    onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N"])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"])],
    )
).SerializeToString()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with calibration pictures and labels."""
    root = tmp_path_factory.mktemp("given")
    (root / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        picture = cv2.resize(random.integers(0, 256, (4, 4, 3), np.uint8), (24, 20), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "pictures" / f"{number:02d}.png"), picture)
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    return root


def export(given: Path, out: Path, *arguments: object, code: int = 0, labels: str = "labels.txt") -> Result:
    common = ("--calibration", given / "pictures", "--labels", given / labels, "--out", out)
    result = CliRunner().invoke(main, ["export", *map(str, (*arguments, *common))])
    assert result.exit_code == code, result.output + repr(result.exception)
    if code:
        assert not out.exists()
    assert not list(out.parent.glob(".*")), "no stage is left"
    return result


def build(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def cnn(size: int | None = 16, channels: int = 3) -> keras.Model:
    """Single frames to features."""
    frame = keras.Input((size, size, channels))
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(frame)
    return keras.Model(frame, layers.GlobalAveragePooling2D()(x))


def images(size: int | None = 16, *, channels: int = 3, activation: str | None = "softmax") -> keras.Model:
    keras.utils.set_random_seed(1)
    frames = cnn(size, channels)
    dense = layers.Dense(
        3, activation=activation, name="classes", kernel_initializer=keras.initializers.RandomNormal(0, 3)
    )
    return keras.Model(frames.input, dense(frames.output))


def answers(bundle: Bundle, clips: np.ndarray) -> np.ndarray:
    encoder, head = (Runtime(bundle.file(role).read_bytes()) for role in ("encoder", "head"))
    features = encoder(clips.reshape(-1, *clips.shape[2:]))["features"]
    return head(features.reshape(*clips.shape[:2], -1))["probabilities"]


def clips_of(model_frames: int = 5) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, model_frames, 16, 16, 3), np.uint8)


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


def test_what_is_wrong_with_the_labels_is_said_before_any_reading_is_tried(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    for name, text, saying in (
        ("two.txt", "a\nb\n", "tells 3 classes apart, 2 labels"),
        ("twice.txt", "a\nb\na\n", "names 'a' twice"),
        ("one.txt", "a\n", "at least 2 are needed"),
        ("gap.txt", "a\n\nb\n", "gap.txt: line 2 is empty"),
        ("absent.txt", None, "cannot be read as labels"),
    ):
        if text is not None:
            (given / name).write_text(text)
        error = export(given, tmp_path / "out", tmp_path / "m.keras", code=1, labels=name).stderr
        assert saying in error
        assert "--preprocess" not in error


@pytest.mark.parametrize(
    ("flags", "saying"),
    [
        (("--name", "my model"), r"'my model' cannot be a bundle's name: letters .* give another with --name"),
        (("--version", "1 beta"), r"'1 beta' cannot be a bundle's version: .* give another with --version"),
        (("--preprocess", "zscore"), r"--preprocess 'zscore' is none of none, caffe"),
        (("--preprocess", "0/0"), r"std"),
        (("--size", "big"), r"--size 'big' is not HxW"),
        (("--resize", "stretch"), r"--resize 'stretch' is none of"),
        (("--enhance", "sharpen"), r"--enhance sharpen: there is no step 'sharpen', only clahe, denoise, vessels"),
        (("--data", "nowhere"), r"nowhere is no folder"),
    ],
)
def test_a_flag_that_no_model_could_follow_is_refused_before_the_model_is_opened(
    given: Path, tmp_path: Path, flags: tuple[str, str], saying: str
) -> None:
    error = export(given, tmp_path / "out", tmp_path / "absent.keras", *flags, code=1).stderr
    assert re.search(saying, error), error
    assert "absent.keras" not in error
    assert error.count("\n") == 1


def test_a_folder_whose_name_no_bundle_may_have_needs_a_name(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    arguments = (tmp_path / "m.keras", "--preprocess", "0/255")
    assert "'my model' cannot be" in export(given, tmp_path / "my model", *arguments, code=1).stderr
    export(given, tmp_path / "my model", *arguments, "--name", "mine")
    assert open_bundle(tmp_path / "my model").manifest.name == "mine"


def test_a_place_that_can_hold_no_bundle_is_told_before_the_model_is_opened(given: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"a cat")
    for place, saying in (
        ("photos", "photos exists and is no bundle; name another folder, or empty this one"),
        ("photos/cat.jpg/out", "cat.jpg is a file; name another folder"),
    ):
        common = ("--calibration", given / "pictures", "--labels", given / "labels.txt", "--out", tmp_path / place)
        result = CliRunner().invoke(main, ["export", *map(str, (tmp_path / "absent.keras", *common))])
        assert result.exit_code == 1
        assert saying in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "cat.jpg"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_calibration_that_fails_leaves_nothing_and_a_bundle_that_was_there_as_it_was(
    given: Path, tmp_path: Path
) -> None:
    images().save(tmp_path / "m.keras")
    results = tmp_path / "results"
    results.mkdir()
    model = ("export", tmp_path / "m.keras", "--preprocess", "0/255", "--labels", given / "labels.txt")
    assert build(*model, "--calibration", given / "pictures", "--out", results / "good").exit_code == 0
    before = snapshot(results)
    (tmp_path / "empty").mkdir()
    for name in ("three", "broken"):
        (tmp_path / name).mkdir()
    for number in range(40):
        (tmp_path / "broken" / f"{number}.png").write_bytes(b"no picture")
        if number < 3:
            shutil.copy(given / "pictures" / f"{number:02d}.png", tmp_path / "three")
    for name, saying in (
        ("missing", "missing is no folder"),
        ("empty", "empty holds no images or videos"),
        ("three", "3 calibration frames were found, at least 32"),
        ("broken", "40 of 40 calibration files cannot be read"),
    ):
        for out in ("new", "good"):
            result = build(*model, "--calibration", tmp_path / name, "--out", results / out)
            assert result.exit_code == 1
            assert saying in result.stderr
            assert snapshot(results) == before
            assert [path.name for path in results.iterdir()] == ["good"]


def test_an_export_that_is_interrupted_while_it_calibrates_leaves_nothing(given: Path, tmp_path: Path) -> None:
    images().save(tmp_path / "m.keras")
    results = tmp_path / "results"
    arguments = (tmp_path / "m.keras", "--preprocess", "0/255", "--labels", given / "labels.txt")
    arguments = (*arguments, "--calibration", given / "pictures", "--out", results / "out")
    command = [sys.executable, "-m", "models", "export", *map(str, arguments)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True) as running:
        while running.poll() is None and not list(results.glob(".out.*/bundle")):
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=60)
    assert running.returncode not in (0, None), error
    assert "read as:" in error, "it had come as far as that"
    assert not results.exists()


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


def test_scores_need_an_activation_that_is_named(given: Path, tmp_path: Path) -> None:
    images(activation=None).save(tmp_path / "scores.keras")
    arguments = (tmp_path / "scores.keras", "--preprocess", "0/255")
    assert (
        "name the activation that it lacks with --activation"
        in export(given, tmp_path / "out", *arguments, code=1).stderr
    )
    export(given, tmp_path / "out", *arguments, "--activation", "softmax")
    assert open_bundle(tmp_path / "out").manifest.activation == "softmax"


def test_answers_for_each_step_need_a_word_on_which_counts(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    clips = keras.Input((None, 16, 16, 3))
    x = layers.LSTM(4, return_sequences=True)(layers.TimeDistributed(cnn())(layers.Rescaling(1 / 255)(clips)))
    keras.Model(clips, layers.Dense(3, activation="softmax")(x)).save(tmp_path / "steps.keras")
    assert "--steps mean or --steps last" in export(given, tmp_path / "out", tmp_path / "steps.keras", code=1).stderr
    export(given, tmp_path / "out", tmp_path / "steps.keras", "--steps", "last")
    assert open_bundle(tmp_path / "out").manifest.network.positions


def test_weights_alone_are_exported_with_the_code_that_builds_the_model(given: Path, tmp_path: Path) -> None:
    model = images()
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "mine.py").write_text(
        "import keras\nfrom keras import layers\n\ndef network():\n    frame = keras.Input((16, 16, 3))\n"
        "    x = layers.Conv2D(6, 3, strides=2, activation='relu', name='conv')(frame)\n"
        "    return keras.Model(frame, layers.Dense(3, activation='softmax', name='classes')(layers.GlobalAveragePooling2D()(x)))\n"
    )
    arguments = (tmp_path / "m.weights.h5", "--preprocess", "0/255", "--model-code", f"{tmp_path / 'mine.py'}:network")
    assert "add --trust if you trust it" in export(given, tmp_path / "out", *arguments, code=1).stderr
    export(given, tmp_path / "out", *arguments, "--trust")
    pixels = clips_of()
    wanted = np.asarray(model(pixels.reshape(-1, 16, 16, 3).astype(np.float32) / 255)).reshape(2, 5, 3).mean(axis=1)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)


def test_a_cnn_and_an_rnn_of_two_files_become_one_bundle(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    encoder, features = cnn(), keras.Input((None, 6))
    head = keras.Model(
        features, layers.Dense(3, activation="softmax", kernel_initializer="he_normal")(layers.GRU(8)(features))
    )
    encoder.save(tmp_path / "cnn.keras")
    head.save(tmp_path / "rnn.keras")
    arguments = ("--encoder", tmp_path / "cnn.keras", "--head", tmp_path / "rnn.keras", "--preprocess", "0/255")
    export(given, tmp_path / "out", *arguments)
    pixels = clips_of()
    rows = np.asarray(encoder(pixels.reshape(-1, 16, 16, 3).astype(np.float32) / 255)).reshape(2, 5, 6)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), np.asarray(head(rows)), atol=1e-5)
    error = export(given, tmp_path / "other", tmp_path / "rnn.keras", code=1).stderr
    assert "features and no pixels; give it with --head" in error


def graph(file: Path) -> np.ndarray:
    """Saves frames [N, 3, 16, 16] → three scores, a mean over places and a product; gives the weights."""
    weights = np.random.default_rng(2).normal(0, 6, (3, 3)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    nodes: Sequence[onnx.NodeProto] = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        onnx.helper.make_node("Flatten", ["p"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "w"], ["s"]),
        onnx.helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    body = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 16, 16])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), file)
    return weights


def test_a_graph_of_onnx_is_exported_and_asks_the_same_question(given: Path, tmp_path: Path) -> None:
    weights = graph(tmp_path / "net.onnx")
    error = export(given, tmp_path / "out", "--from-onnx", tmp_path / "net.onnx", code=1).stderr
    assert "give --preprocess none, caffe, tf, torch or MEAN/STD" in error
    assert error.splitlines()[2].startswith("  --preprocess torch --color rgb"), "torch's own transforms come first"
    export(given, tmp_path / "out", "--from-onnx", tmp_path / "net.onnx", "--preprocess", "tf")
    pixels = clips_of()
    scores = (pixels.astype(np.float64) / 127.5 - 1).mean(axis=(2, 3)) @ weights
    wanted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    wanted = (wanted / wanted.sum(axis=-1, keepdims=True)).mean(axis=1)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        ((), "give one of MODEL, --encoder with --head, and --from-onnx; got none of them"),
        (("m.keras", "--from-onnx", "a.onnx"), "got MODEL and --from-onnx"),
        (("--encoder", "a.keras"), "--encoder needs the other half: give it with --head"),
        (("m.keras", "--head", "a.keras"), "--head belongs to --encoder or --from-onnx"),
    ],
)
def test_a_mix_of_sources_is_a_mistake_on_the_command_line(
    given: Path, tmp_path: Path, arguments: tuple[str, ...], saying: str
) -> None:
    assert saying in export(given, tmp_path / "out", *arguments, code=2).stderr


@pytest.mark.parametrize(
    ("name", "content", "saying"),
    [
        ("absent.keras", None, "absent.keras does not exist"),
        ("m.keras", b"", "is empty"),
        ("m.pkl", b"\x80\x04N.", "a Python pickle, which runs code when it is read and is never opened"),
        ("m.onnx", ONE_NODE, "an ONNX graph; give it with --from-onnx"),
    ],
)
def test_what_is_no_model_ends_with_one_sentence(
    given: Path, tmp_path: Path, name: str, content: bytes | None, saying: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = export(given, tmp_path / "out", tmp_path / name, code=1).stderr.strip()
    assert error.startswith("error: ")
    assert saying in error
    assert "\n" not in error


def test_a_lambda_that_is_trusted_is_traced_where_it_can_be(given: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    frame = keras.Input((16, 16, 3))
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(
        layers.Lambda(lambda pixels: pixels / 255.0, name="to_unit")(frame)
    )
    dense = layers.Dense(3, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(0, 3))
    model = keras.Model(frame, dense(layers.GlobalAveragePooling2D()(x)))
    model.save(tmp_path / "lambda.keras")
    arguments = (tmp_path / "lambda.keras", "--preprocess", "none")
    assert (
        "the Lambda layer 'to_unit', whose code would run" in export(given, tmp_path / "out", *arguments, code=1).stderr
    )
    result = export(given, tmp_path / "out", *arguments[:1], "--trust")
    assert "scaled by 'true_divide" in result.stderr
    pixels = clips_of()
    wanted = np.asarray(model(pixels.reshape(-1, 16, 16, 3).astype(np.float32))).reshape(2, 5, 3).mean(axis=1)
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)


SUBCLASSED = """
import keras
from keras import layers

class Mine(keras.Model):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.conv = layers.Conv2D(6, 3, strides=2, activation="relu")
        self.each = layers.TimeDistributed(self.conv)
        self.pool = layers.TimeDistributed(layers.GlobalAveragePooling2D())
        self.time = layers.GRU(4)
        self.classes = layers.Dense(3, activation="softmax", kernel_initializer="he_normal")

    def call(self, clips):
        return self.classes(self.time(self.pool(self.each(clips / 255.0))))
"""


def test_a_subclassed_model_of_ones_own_code_is_exported_under_trust(given: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(SUBCLASSED)
    keras.utils.set_random_seed(1)
    model = ModelCode.parse(str(code), trust=True).open().custom["Mine"]()
    pixels = clips_of()
    wanted = np.asarray(model(pixels.astype(np.float32)))
    model.save(tmp_path / "mine.keras")
    error = export(given, tmp_path / "out", tmp_path / "mine.keras", code=1).stderr
    assert "needs Mine, which is not Keras's own; give the file that defines it with --model-code" in error
    export(given, tmp_path / "out", tmp_path / "mine.keras", "--model-code", code, "--trust")
    np.testing.assert_allclose(answers(open_bundle(tmp_path / "out"), pixels), wanted, atol=1e-5)
