"""A CNN and an RNN in two files are one model; where they do not fit, the error says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from models.errors import ExportRefused
from models.export.graphs.head import head_onnx
from models.export.model.two_files import join_files
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.export.split.parity import compare_split
from models.export.split.reference import Reference
from models.export.split.split import split_model

SIZE = 12


def cnn(*, pooled: bool = True) -> keras.Model:
    """As the Keras CNN-RNN example builds its feature extractor: the preprocessing by operators, the network nested."""
    image = keras.Input((SIZE, SIZE, 3))
    network = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Conv2D(5, 3, activation="relu")])
    if pooled:
        network.add(layers.GlobalAveragePooling2D())
    return keras.Model(image, network(keras.applications.inception_v3.preprocess_input(image)), name="features_of")


def rnn(*, frames: int | None = 6, masked: bool = True, dim: int = 5) -> keras.Model:
    """As the example builds its sequence model, mask input included."""
    features, mask = keras.Input((frames, dim)), keras.Input((frames,), dtype="bool")
    x = (
        layers.GRU(8, return_sequences=True)(features, mask=mask)
        if masked
        else layers.GRU(8, return_sequences=True)(features)
    )
    x = layers.Dense(4, activation="relu")(layers.Dropout(0.4)(layers.GRU(4)(x)))
    answer = layers.Dense(3, activation="softmax")(x)
    return keras.Model([features, mask] if masked else features, answer, name="sequence")


@pytest.mark.parametrize("frames", [None, 6])
def test_an_rnn_with_a_mask_input_is_joined_to_its_cnn(frames: int | None) -> None:
    keras.utils.set_random_seed(0)
    encoder, head = cnn(), rnn(frames=frames)
    joined = join_files(encoder, head)
    clips = np.random.default_rng(0).integers(0, 256, (2, 6, SIZE, SIZE, 3)).astype(np.float32)
    rows = np.asarray(encoder(clips.reshape(-1, SIZE, SIZE, 3))).reshape(2, 6, -1)
    np.testing.assert_allclose(joined(clips), head([rows, np.ones((2, 6), bool)]), atol=1e-6)
    split = split_model(joined, height=SIZE, width=SIZE, channels=3)
    assert split.static_frames is None  # a GRU takes any number of frames, and the fixed one was that of the padding
    assert "the mask that layer 'gru" in split.notes[0]
    assert "every frame counts" in split.notes[-1]
    compare_split(
        joined, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1, 6), seed=0
    )
    written = head_onnx(split.head)
    assert {node.op_type for node in written.graph.node} >= {"GRU"}
    np.testing.assert_allclose(Runtime(written)(rows)["probabilities"], head([rows, np.ones((2, 6), bool)]), atol=2e-6)


def test_a_sequential_cnn_and_head_that_were_saved_are_joined(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([layers.Conv2D(4, 3), layers.Conv2D(5, 3), layers.GlobalAveragePooling2D()], name="cnn")
    encoder.build((None, SIZE, SIZE, 3))
    head = keras.Sequential([keras.Input((None, 5)), layers.GRU(4), layers.Dense(3, activation="softmax")], name="rnn")
    wide = keras.Sequential([keras.Input((None, 7)), layers.GRU(4), layers.Dense(3)], name="wide")
    loaded = []
    for model in (encoder, head, wide):
        model.save(tmp_path / f"{model.name}.keras")
        loaded.append(keras.saving.load_model(tmp_path / f"{model.name}.keras"))
    joined = join_files(*loaded[:2])
    clips = np.random.default_rng(0).integers(0, 256, (2, 6, SIZE, SIZE, 3)).astype(np.float32)
    rows = np.asarray(encoder(clips.reshape(-1, SIZE, SIZE, 3))).reshape(2, 6, -1)
    np.testing.assert_allclose(joined(clips), head(rows), atol=1e-6)
    split = split_model(joined, height=SIZE, width=SIZE, channels=3)
    compare_split(
        joined, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1, 6), seed=0
    )
    with pytest.raises(ExportRefused, match=r"'cnn' gives \[5\] for a frame and the head 'wide' reads \[7\]"):
        join_files(loaded[0], loaded[2])


def test_a_model_with_a_mask_input_of_its_own_is_compared_with_every_frame_present() -> None:
    clips = keras.Input((None, SIZE, SIZE, 3), name="clips")
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = layers.LSTM(4)(layers.TimeDistributed(cnn())(clips), mask=mask)
    model = keras.Model({"clips": clips, "mask": mask}, layers.Dense(3, activation="softmax")(x))
    split = split_model(model, height=SIZE, width=SIZE, channels=3)
    compare_split(
        model, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1, 3), seed=0
    )


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "the wrong way round": (rnn, cnn, r"encoder 'sequence' takes float32 \[None, 6, 5\].*the other way round"),
    "without pooling": (lambda: cnn(pooled=False), rnn, r"gives \[10, 10, 5\] for a frame .* reads \[5\].*GlobalAveragePooling2D"),
    "of another width": (cnn, lambda: rnn(dim=7), r"gives \[5\] for a frame and the head 'sequence' reads \[7\].*include_top"),
    "a head of clips": (cnn, cnn, r"gives \[5\] for a frame .* reads \[12, 3\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_two_files_that_do_not_fit_are_refused(name: str) -> None:
    encoder, head, message = REFUSED[name]
    with pytest.raises(ExportRefused, match=message):
        join_files(encoder(), head())
