"""Masks of padding are left out, and only those: a clip that is served has none."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.model.masks import without_masks
from models.export.model.trace import trace
from models.export.normalization import Normalization
from models.export.split.parity import compare_split
from models.export.split.reference import Reference
from models.export.split.split import Split, split_model

SIZE = 8
HEADS: dict[str, Any] = {
    "lstm": lambda x: layers.LSTM(4)(layers.Masking()(x)),
    "bidirectional": lambda x: layers.Bidirectional(layers.LSTM(4))(layers.Masking(-1.0)(x)),
    "through other layers": lambda x: layers.GRU(4)(layers.Dropout(0.2)(layers.Dense(4)(layers.Masking()(x)))),
    "pooled": lambda x: layers.GlobalAveragePooling1D()(layers.LSTM(4, return_sequences=True)(layers.Masking()(x))),
    "attention": lambda x: layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 3)(*[layers.Masking()(x)] * 2)),
    "merged": lambda x: layers.LSTM(4)(layers.Add()([layers.Masking()(x), layers.Masking()(layers.Dense(3)(x))])),
    "by hand": lambda x: layers.LSTM(4)(x, mask=ops.any(ops.not_equal(x, 0.0), axis=-1)),
}


def model_of(build: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(layers.Rescaling(1 / 64)(clips))
    return keras.Model(clips, layers.Dense(3, activation="softmax")(build(x)))


def split_of(model: keras.Model) -> Split:
    return split_model(model, height=SIZE, width=SIZE, channels=3)


@pytest.mark.parametrize("name", HEADS)
def test_a_model_without_its_mask_is_the_model_where_nothing_is_padding(name: str) -> None:
    model = model_of(HEADS[name])
    split = split_of(model)
    assert not any(isinstance(layer, layers.Masking) for layer in split.head.layers)
    compare_split(
        model, split, Reference(split.encoder, split.head), normalization=Normalization(), lengths=(1, 4), seed=0
    )


def test_what_is_left_out_is_said() -> None:
    split = split_of(model_of(lambda x: layers.LSTM(4, name="memory")(layers.Masking(2.0, name="padding")(x))))
    assert split.notes == (
        "layer 'padding' (Masking) of 2 is left out",
        "the mask that layer 'memory' (LSTM) reads is left out",
        "no frame is ever padding when a clip is served, so every frame counts",
    )


def test_a_black_frame_is_a_frame() -> None:
    """Keras skips a row of zeros after Masking(0); the exported head does not, since nothing of a served clip is padding."""
    model = model_of(HEADS["lstm"])
    split = split_of(model)
    clip = np.full((1, 3, SIZE, SIZE, 3), 200, np.float32)
    clip[0, -1] = 0
    features = np.asarray(split.encoder(clip[0]))[None]
    assert not features[0, -1].any()
    ours = Reference(split.encoder, split.head).probabilities(features)["probabilities"]
    unmasked = keras.Model(model.input, model.outputs)
    assert np.abs(ours - np.asarray(unmasked(clip))).max() > 1e-3


def test_a_model_without_masks_is_left_alone() -> None:
    flat = trace(model_of(layers.LSTM(4)))
    cleaned, notes = without_masks(flat)
    assert notes == ()
    assert [call.operation for call in cleaned.calls] == [call.operation for call in flat.calls]


def test_a_mask_that_is_computed_with_is_refused_by_name() -> None:
    def build(x: Any) -> Any:
        mask = ops.cast(ops.any(ops.not_equal(x, 0.0), axis=-1, keepdims=True), "float32")
        return ops.sum(x * mask, axis=1) / ops.sum(mask, axis=1)

    with pytest.raises(ExportRefused, match=r"operation 'cast\w*' \(Cast\) computes with a mask"):
        split_of(model_of(build))
