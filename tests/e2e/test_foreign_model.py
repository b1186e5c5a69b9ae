"""A model that is not ours, from its `.keras` file to an HTTP answer: what is served is what Keras says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from service.bundle.manifest import Input, Sampling
from service.media.decode import decode_video
from service.media.limits import Limits

SIZE, FRAMES = 96, 8
LABELS = ("walking", "running", "standing", "falling")


def frames_of(clip: Path) -> np.ndarray:
    """`[T, H, W, 3]` as the server samples and resizes them."""
    spec, plan = Input(height=SIZE, width=SIZE), Sampling(frames=FRAMES)
    return decode_video(clip.read_bytes(), spec=spec, plan=plan, limits=Limits()).clip.frames


def users_model(clips: list[Path]) -> keras.Model:
    """Random weights, with BatchNorm statistics of real frames and a Dense that makes its answers differ between clips."""
    keras.utils.set_random_seed(7)
    layers = keras.layers
    cnn = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), weights=None, include_top=False, pooling="avg")
    inputs = keras.Input((None, SIZE, SIZE, 3))
    norm, dense = layers.BatchNormalization(), layers.Dense(len(LABELS), activation="softmax")
    x = norm(layers.TimeDistributed(cnn)(layers.Rescaling(1 / 127.5, -1)(inputs)))
    x = layers.Bidirectional(layers.LSTM(32, return_sequences=True))(x)
    model = keras.Model(inputs, dense(layers.GRU(24)(x)))
    real = np.concatenate([frames_of(clip) for clip in clips]).astype(np.float32) / 127.5 - 1
    random = np.random.default_rng(7)
    for layer in cnn.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # a pass in training mode then sets the statistics of these very frames
            layer.gamma.assign(random.uniform(0.6, 1.4, layer.gamma.shape))
            layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
    cnn(real, training=True)
    features = np.asarray(cnn(real, training=False))
    norm.moving_mean.assign(features.mean(axis=0))
    norm.moving_variance.assign(features.var(axis=0) + 1e-4)
    dense.kernel.assign(dense.kernel * 8)
    return model


@pytest.mark.data
@pytest.mark.timeout(600)
def test_the_served_probabilities_of_a_users_model_are_those_of_keras(data: Path, serve, tmp_path: Path) -> None:
    folder = data / "surveillance_fight" / "videos" / "fight"
    clips = sorted(folder.glob("*.mp4"))[:24:4]
    model = users_model(clips)
    model.save(tmp_path / "mine.keras")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    (tmp_path / "calibration").symlink_to(folder)
    command = [
        sys.executable, "-m", "models", "export", "mine.keras", "--calibration", "calibration", "--labels", "labels.txt",
        "--out", "mine", "--frames", str(FRAMES),
    ]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    expected = np.concatenate(
        [np.asarray(model(frames_of(clip)[None].astype(np.float32), training=False)) for clip in clips]
    )
    assert np.ptp(expected, axis=0).max() > 0.2, "answers that do not differ between clips would prove nothing"

    with serve(str(tmp_path / "mine"), "--precision", "fp32") as running:
        answers = [running.post("/classify/video", clip.read_bytes()).json() for clip in clips]
    by_label = [{each["label"]: each["probability"] for each in answer["predictions"]} for answer in answers]
    found = np.array([[row[label] for label in LABELS] for row in by_label])
    assert np.abs(found - expected).max() <= 1e-3
