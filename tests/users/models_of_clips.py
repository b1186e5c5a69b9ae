"""Keras models as users write them in which frames meet before there are features of each, or a picture is read as a sequence."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

SIZE = 24
CLASSES = 4


def c3d() -> keras.Model:
    """Tran's C3D, narrowed: 3D convolutions, pooling that spares time at first, two dense layers."""
    model = keras.Sequential([keras.Input((8, SIZE, SIZE, 3)), layers.Rescaling(1 / 255)])
    for filters, pool in ((8, (1, 2, 2)), (12, (2, 2, 2)), (16, (2, 2, 2))):
        model.add(layers.Conv3D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling3D(pool))
    model.add(layers.Flatten())
    model.add(layers.Dense(16, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(CLASSES, activation="softmax"))
    return model


class Conv2Plus1D(layers.Layer):
    """A convolution over space, then one over time, as in the TensorFlow tutorial."""

    def __init__(self, filters: int, kernel_size: tuple[int, int, int], padding: str, **settings: Any) -> None:
        super().__init__(**settings)
        time, height, width = kernel_size
        self.seq = keras.Sequential(
            [
                layers.Conv3D(filters, (1, height, width), padding=padding),
                layers.Conv3D(filters, (time, 1, 1), padding=padding),
            ]
        )

    def call(self, x: Any) -> Any:
        return self.seq(x)


class ResidualMain(layers.Layer):
    def __init__(self, filters: int, kernel_size: tuple[int, int, int], **settings: Any) -> None:
        super().__init__(**settings)
        self.seq = keras.Sequential(
            [
                Conv2Plus1D(filters, kernel_size, "same"),
                layers.LayerNormalization(),
                layers.ReLU(),
                Conv2Plus1D(filters, kernel_size, "same"),
                layers.LayerNormalization(),
            ]
        )

    def call(self, x: Any) -> Any:
        return self.seq(x)


def two_plus_one() -> keras.Model:
    """The (2+1)D residual network of the TensorFlow tutorial, one block of it, layers of the user's own."""
    clips = keras.Input((6, SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(clips)
    x = Conv2Plus1D(8, (3, 7, 7), "same", name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling3D((1, 2, 2))(x)
    x = layers.Add()([x, ResidualMain(8, (3, 3, 3), name="block")(x)])
    x = layers.Flatten()(layers.GlobalAveragePooling3D()(x))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(x))


def resnet_3d() -> keras.Model:
    """3D residual blocks with strides in time; any number of frames."""
    clips = keras.Input((None, SIZE, SIZE, 3))
    x = layers.Conv3D(8, 3, strides=(1, 2, 2), padding="same", use_bias=False)(layers.Rescaling(1 / 255)(clips))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters in (8, 12):
        y = layers.Conv3D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv3D(filters, 3, padding="same", use_bias=False)(y))
        short = layers.BatchNormalization()(layers.Conv3D(filters, 1, strides=2, use_bias=False)(x))
        x = layers.ReLU()(layers.Add()([y, short]))
    x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(x))


def convlstm() -> keras.Model:
    """The ConvLSTM of the action recognition tutorials: stacked, pooled over space, flattened at the end."""
    model = keras.Sequential([keras.Input((4, SIZE, SIZE, 3))])
    for filters in (4, 6):
        model.add(layers.ConvLSTM2D(filters, 3, activation="tanh", recurrent_dropout=0.2, return_sequences=True))
        model.add(layers.MaxPooling3D((1, 2, 2), padding="same"))
        model.add(layers.TimeDistributed(layers.Dropout(0.2)))
    model.add(layers.Flatten())
    model.add(layers.Dense(CLASSES, activation="softmax"))
    return model


def convlstm_anomaly() -> keras.Model:
    """A ConvLSTM over features of a CNN, its last state averaged; normal or not."""
    clips = keras.Input((5, SIZE, SIZE, 1))
    x = layers.TimeDistributed(layers.Conv2D(6, 5, strides=3, activation="relu"))(layers.Rescaling(1 / 255)(clips))
    x = layers.BatchNormalization()(layers.ConvLSTM2D(6, 3, padding="same")(x))
    return keras.Model(clips, layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling2D()(x)))


def conv3d_lstm() -> keras.Model:
    """3D convolutions first, then an LSTM over what is left of time."""
    clips = keras.Input((8, SIZE, SIZE, 3))
    x = layers.Conv3D(8, 3, strides=(1, 2, 2), padding="same", activation="relu")(layers.Rescaling(1 / 255)(clips))
    x = layers.MaxPooling3D((2, 2, 2))(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.LSTM(16)(layers.Dense(24, activation="relu")(x))
    return keras.Model(clips, layers.Dense(CLASSES, activation="softmax")(x))


def scan_volume() -> keras.Model:
    """The CT scan example: slices of a volume as frames, one channel, one sigmoid."""
    volume = keras.Input((8, SIZE, SIZE, 1))
    x = volume / 255.0
    for filters in (6, 8):
        x = layers.Conv3D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling3D(2)(x)
        x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling3D()(x)
    x = layers.Dropout(0.3)(layers.Dense(16, activation="relu")(x))
    return keras.Model(volume, layers.Dense(1, activation="sigmoid")(x))


def rows_as_steps() -> keras.Model:
    """A picture read as a sequence of its rows, by an LSTM with attention."""
    picture = keras.Input((28, 28, 1))
    x = layers.Reshape((28, 28))(layers.Rescaling(1 / 255)(picture))
    x = layers.LSTM(16, return_sequences=True)(x)
    weights = layers.Softmax(axis=1)(layers.Dense(1)(x))
    x = ops.sum(x * weights, axis=1)
    return keras.Model(picture, layers.Dense(10, activation="softmax")(x))


def patches_bilstm() -> keras.Model:
    """A picture cut into patches by a strided convolution, which a bidirectional LSTM reads."""
    picture = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(12, 6, strides=6)(layers.Rescaling(1 / 255)(picture))
    x = layers.Reshape((16, 12))(x)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(layers.LayerNormalization()(x))
    return keras.Model(picture, layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling1D()(x)))
