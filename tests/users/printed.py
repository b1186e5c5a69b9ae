"""Models as articles and tutorials print them, repaired as little as today's Keras asks for; what was printed stands beside each repair.

Widths are those of print, but for the pictures, which are smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import layers, ops, regularizers

CLASSES = 4
SIZE = 32


@dataclass(frozen=True, slots=True)
class Form:
    """`saved`: the ending of its file. `more`: what its user says to `marey-build export` beside the preprocessing."""

    build: Callable[[], keras.Model]
    saved: str
    preprocess: str = "none"
    color: Literal["rgb", "bgr", "gray"] = "gray"
    more: tuple[str, ...] = ()
    classes: int = CLASSES
    positions: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--preprocess", self.preprocess, "--color", self.color, *self.more)


def vgg16_head() -> keras.Model:
    """Transfer learning: VGG16 frozen, a new classifier on top; nothing to repair."""
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    base.trainable = False
    x = layers.Flatten()(base.output)
    x = layers.Dense(256, activation="relu")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs=base.input, outputs=layers.Dense(CLASSES, activation="softmax")(x))


def resnet50_lstm() -> keras.Model:
    """The CNN-LSTM of the papers: TimeDistributed ResNet50, LSTM(512)."""
    base = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3))
    model = keras.Sequential([keras.Input((None, SIZE, SIZE, 3))])
    model.add(layers.TimeDistributed(base))
    model.add(layers.LSTM(512))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(CLASSES, activation="softmax"))
    return model


def embedding_lstm_attention() -> keras.Model:
    """MNIST as a sequence: each pixel embedded, LSTM(128), self-attention, the mean over the rows.

    Printed: `Embedding(256, 64)(inputs)` straight into the LSTM, which wants 3 axes and gets 4; `tf.reduce_mean(x, axis=1)`.
    """
    inputs = keras.Input((28, 28, 1))
    x = layers.Reshape((28, 28))(inputs)
    x = layers.Embedding(input_dim=256, output_dim=64)(x)
    x = layers.Reshape((28, 28 * 64))(x)
    x = layers.LSTM(128, return_sequences=True)(x)
    x = layers.Attention()([x, x])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def regularized_lstm() -> keras.Model:
    """LSTM(128), BatchNorm, Dropout, LSTM(64), Dense(32), L2 everywhere, orthogonal. Printed: `CuDNNLSTM`, which Keras has no more."""
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 255), layers.Reshape((28, 28))])
    penalty: Any = {"kernel_regularizer": regularizers.l2(0.01), "recurrent_initializer": "orthogonal"}
    model.add(layers.LSTM(128, return_sequences=True, **penalty))
    model.add(layers.BatchNormalization())
    model.add(layers.Dropout(0.3))
    model.add(layers.LSTM(64, **penalty))
    model.add(layers.Dense(32, activation="relu", kernel_regularizer=regularizers.l2(0.01)))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def defect_detector() -> keras.Model:
    """Windows slide along a surface; BiLSTM(64), MultiHeadAttention, and the probability of a defect at each position.

    Printed: `tf.image.extract_patches` on a Keras tensor, and a CRF layer of a package that is gone.
    """
    surface = keras.Input((32, 96, 1))
    x = layers.Rescaling(1 / 255)(surface)
    x = ops.image.extract_patches(x, size=(32, 16), strides=(32, 8), padding="valid")
    x = layers.Reshape((11, 32 * 16))(x)
    x = layers.Bidirectional(layers.LSTM(64, return_sequences=True))(x)
    attended = layers.MultiHeadAttention(num_heads=4, key_dim=32)(x, x)
    x = layers.LayerNormalization()(x + attended)
    x = layers.TimeDistributed(layers.Dense(32, activation="relu"))(x)
    return keras.Model(surface, layers.TimeDistributed(layers.Dense(1, activation="sigmoid"))(x))


FORMS: dict[str, Form] = {
    "vgg16_head": Form(vgg16_head, ".h5", "caffe", "bgr"),
    "resnet50_lstm": Form(resnet50_lstm, ".keras", "caffe", "bgr", ("--frames", "4")),
    "embedding_lstm_attention": Form(embedding_lstm_attention, ".keras", classes=10),
    "regularized_lstm": Form(regularized_lstm, ".h5", classes=10),
    "defect_detector": Form(defect_detector, ".keras", more=("--steps", "mean"), classes=2, positions=True),
}
