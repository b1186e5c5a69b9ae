"""The shapes in which users write a CNN-LSTM: each is split, and the two parts together are the model."""

# ruff: noqa: PLW0108 -- a lambda makes its layer anew
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from models.errors import ExportRefused, NotSplittable
from models.export.graphs.encoder import encoder_onnx
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.export.split.parity import compare_split
from models.export.split.reference import Reference
from models.export.split.split import Split, split_model

SIZE, FRAMES = 12, 4
Build = Callable[[Any], Any]


def split_of(model: keras.Model) -> Split:
    return split_model(model, height=SIZE, width=SIZE, channels=3)


def model_of(build: Build, *, frames: int | None = None) -> keras.Model:
    """`build` makes features `[B, T, D]` of clips."""
    keras.utils.set_random_seed(5)
    clips = keras.Input((frames, SIZE, SIZE, 3))
    return keras.Model(clips, layers.Dense(3, activation="softmax")(layers.LSTM(4)(build(clips))))


def each(layer: Any) -> Any:
    return layers.TimeDistributed(layer)


def convolved(x: Any) -> Any:
    return each(layers.MaxPooling2D())(each(layers.Conv2D(4, 3, activation="relu"))(layers.Rescaling(1 / 255)(x)))


def by_hand(x: Any) -> Any:
    """B·T folded into the batch, as those write it who do not know TimeDistributed."""
    frames = ops.reshape(x, (-1, SIZE, SIZE, 3)) / 255.0
    y = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Conv2D(4, 3)(frames)))
    return ops.reshape(y, (-1, FRAMES, 4))


ANY_LENGTH: dict[str, Build] = {
    "flattened": lambda x: each(layers.Flatten())(convolved(x)),
    "pooled": lambda x: each(layers.GlobalMaxPooling2D())(convolved(x)),
    "pooled by an operation": lambda x: ops.mean(convolved(x), axis=(2, 3)),
    "pooled by two": lambda x: layers.Concatenate()([ops.mean(convolved(x), axis=[2, 3]), ops.max(convolved(x), axis=[-3, -2])]),
    "pooled with kept axes": lambda x: each(layers.Flatten())(ops.mean(convolved(x), axis=(2, 3), keepdims=True)),
    "blue first": lambda x: each(layers.Flatten())(convolved(x[..., ::-1])),
    "cropped by slices": lambda x: each(layers.Flatten())(convolved(x[:, :, 2:10, 1:-1])),
    "caffe's preprocessing": lambda x: each(layers.Flatten())(convolved(keras.applications.vgg16.preprocess_input(x))),
    "torch's preprocessing": lambda x: each(layers.Flatten())(
        convolved(keras.applications.imagenet_utils.preprocess_input(x, mode="torch"))
    ),
    "channels put together": lambda x: each(layers.Flatten())(ops.concatenate([x, ops.flip(x, axis=3)], axis=4)),
    "a mean picture": lambda x: each(layers.Flatten())(x - np.arange(SIZE * SIZE * 3, dtype=np.float32).reshape(SIZE, SIZE, 3)),
    "resized": lambda x: each(layers.Flatten())(convolved(each(layers.Resizing(9, 9))(x))),
    "cropped": lambda x: each(layers.Flatten())(convolved(each(layers.CenterCrop(8, 8))(each(layers.RandomFlip())(x)))),
    "patches of a frame": lambda x: each(layers.Flatten())(
        layers.TimeDistributed(layers.TimeDistributed(layers.Dense(2)))(x[..., :2])
    ),
    "parts of a frame": lambda x: each(layers.GlobalAveragePooling1D())(
        layers.TimeDistributed(layers.TimeDistributed(layers.GlobalAveragePooling1D()))(x)
    ),
    "normalised before the cut": lambda x: layers.UnitNormalization()(each(layers.Flatten())(convolved(x))),
}  # fmt: skip
# Those whose operations the converter has to know.
CONVERTED = ("caffe's preprocessing", "resized", "patches of a frame", "pooled by two")
FIXED_LENGTH: dict[str, Build] = {
    "folded by hand": by_hand,
    "reshaped": lambda x: layers.Reshape((FRAMES, -1))(convolved(x)),
    "reshaped with its size": lambda x: layers.Reshape((FRAMES, SIZE * SIZE * 3))(x / 255.0),
    "reshaped by an operation": lambda x: ops.reshape(convolved(x), (-1, FRAMES, 100)),
}


@pytest.mark.parametrize("name", ANY_LENGTH)
def test_it_is_split_for_any_length(name: str) -> None:
    model = model_of(ANY_LENGTH[name])
    split = split_of(model)
    compare_split(
        model, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1, 3), seed=0
    )
    if name in CONVERTED:
        frames = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
        wanted = split.encoder(frames.astype(np.float32), training=False)
        np.testing.assert_allclose(Runtime(encoder_onnx(split.encoder))(frames)["features"], wanted, atol=1e-4)


@pytest.mark.parametrize("name", [*FIXED_LENGTH, "flattened", "blue first"])
def test_a_model_of_a_fixed_length_keeps_it_though_its_head_would_take_any(name: str) -> None:
    model = model_of({**FIXED_LENGTH, **ANY_LENGTH}[name], frames=FRAMES)
    split = split_of(model)
    assert split.static_frames == FRAMES
    compare_split(
        model, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1,), seed=0
    )


def test_the_lrcn_of_the_tutorials_is_split() -> None:
    """Sequential, a fixed number of frames, every layer in a TimeDistributed of its own."""
    model = keras.Sequential([keras.Input((FRAMES, SIZE, SIZE, 3))])
    for layer in (layers.Conv2D(4, 3, padding="same", activation="relu"), layers.MaxPooling2D(4), layers.Dropout(0.25),
                  layers.Conv2D(6, 3, padding="same", activation="relu"), layers.MaxPooling2D(3), layers.Flatten()):  # fmt: skip
        model.add(each(layer))
    model.add(layers.LSTM(8))
    model.add(layers.Dense(3, activation="softmax"))
    split = split_of(model)
    assert [type(layer).__name__ for layer in split.encoder.layers[1:]] == [
        "Conv2D", "MaxPooling2D", "Dropout", "Conv2D", "MaxPooling2D", "Flatten",
    ]  # fmt: skip
    compare_split(
        model, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1,), seed=0
    )


HEADS_OF_A_LENGTH: dict[str, Build] = {
    "flattened time": lambda x: layers.Flatten()(x),
    "positions": lambda x: layers.Flatten()(x + layers.Embedding(FRAMES, 4)(ops.arange(FRAMES))),
    "the last frame by its number": lambda x: x[:, FRAMES - 1],
    "attention repeated over time": lambda x: layers.GlobalAveragePooling1D()(
        layers.Multiply()([x, layers.RepeatVector(FRAMES)(layers.GlobalMaxPooling1D()(x))])
    ),
}


@pytest.mark.parametrize("name", HEADS_OF_A_LENGTH)
def test_a_head_that_knows_its_length_keeps_it(name: str) -> None:
    clips = keras.Input((FRAMES, SIZE, SIZE, 3))
    x = HEADS_OF_A_LENGTH[name](each(layers.GlobalAveragePooling2D())(each(layers.Conv2D(4, 3))(clips / 255.0)))
    model = keras.Model(clips, layers.Dense(3, activation="softmax")(x))
    split = split_of(model)
    assert split.static_frames == FRAMES
    compare_split(
        model, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1,), seed=0
    )


def test_a_head_that_needs_several_frames_is_fixed_at_the_number_asked_for() -> None:
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.Conv1D(4, 3)(each(layers.GlobalAveragePooling2D())(clips / 255.0))
    model = keras.Model(clips, layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling1D()(x)))
    with pytest.raises(ExportRefused, match=r"do not take 1 frames|no numbers"):
        split_of(model)
    split = split_model(model, height=SIZE, width=SIZE, channels=3, frames=6)
    assert split.static_frames == 6
    compare_split(
        model, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(6,), seed=0
    )


def several_inputs() -> keras.Model:
    clips, more = keras.Input((None, SIZE, SIZE, 3), name="clips"), keras.Input((4,), name="age")
    x = layers.Concatenate()([layers.LSTM(5)(each(layers.Flatten())(convolved(clips))), more])
    return keras.Model([clips, more], layers.Dense(3)(x), name="both")


REFUSED: dict[str, tuple[Callable[[], keras.Model], type[ExportRefused], str]] = {
    "frames that meet": (
        lambda: model_of(lambda x: each(layers.Flatten())(layers.Conv3D(2, 3, padding="same", name="volume")(x))),
        NotSplittable,
        r"'volume' \(Conv3D\) reads .* several frames at once",
    ),
    "a mean over time": (
        lambda: model_of(lambda x: each(layers.Flatten())(x - ops.mean(x, axis=1, keepdims=True))),
        NotSplittable,
        r"\(Mean\) reads .* several frames at once",
    ),
    "an unfolding of another length": (
        lambda: model_of(lambda x: ops.reshape(ops.reshape(x, (-1, SIZE * SIZE * 3)), (-1, 2, SIZE * SIZE * 3)), frames=FRAMES),
        NotSplittable,
        r"\(Reshape\) reads .* several frames at once",
    ),
    "differences of frames": (
        lambda: model_of(lambda x: each(layers.Flatten())(x[:, 1:] - x[:, :-1])),
        NotSplittable,
        r"\(GetItem\) reads .* several frames at once",
    ),
    "a picture for each frame": (
        lambda: model_of(lambda x: each(layers.Flatten())(x - np.ones((FRAMES, 1, 1, 3), np.float32)), frames=FRAMES),
        NotSplittable,
        r"\(Subtract\) reads .* several frames at once",
    ),
    "several inputs": (several_inputs, ExportRefused, r"'both' takes \[None, None, 12, 12, 3\], \[None, 4\]; expected one input"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_where_frames_meet_too_early_the_operation_is_named(name: str) -> None:
    build, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        split_of(build())
