"""Run with tf-keras in a process of its own: files as Keras 2 wrote them, each with inputs and its answers in NAME.npz."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers
from tf_keras.src.layers.rnn.cudnn_gru import CuDNNGRU
from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM


def clips() -> keras.Model:
    """Arithmetic on the pixels, a nested Sequential per frame, recurrent layers both ways."""
    pixels = keras.Input((None, 12, 12, 3))
    cnn = keras.Sequential(
        [
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.2),
            layers.DepthwiseConv2D(3),
            layers.GlobalAveragePooling2D(),
        ]
    )
    x = layers.TimeDistributed(cnn)(pixels / 127.5 - 1.0)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(layers.GRU(5)(x)))


def attention() -> keras.Model:
    """Its own caffe preprocessing, attention over features, a residual sum and a mean as TensorFlow's operations."""
    pixels = keras.Input((4, 12, 12, 3))
    x = keras.applications.resnet50.preprocess_input(pixels)
    x = layers.TimeDistributed(layers.Conv2D(6, 3, strides=2, activation="relu"))(x)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    y = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.LayerNormalization()(x + y)
    x = layers.Concatenate()([x, layers.Attention()([x, x])])
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(tf.reduce_mean(x, axis=1)))


def lrcn() -> keras.Model:
    """The field's tutorial: a Sequential of TimeDistributed layers over a fixed number of frames, compiled."""
    model = keras.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=(4, 12, 12, 3)),
            layers.TimeDistributed(layers.Conv2D(3, 3, activation="relu")),
            layers.TimeDistributed(layers.MaxPooling2D(2)),
            layers.TimeDistributed(layers.Flatten()),
            layers.LSTM(4),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "categorical_crossentropy")
    return model


def hard() -> keras.Model:
    """hard_sigmoid, the default of a ConvLSTM, and of every LSTM before TensorFlow 2: Keras 3 has another of that name."""
    pixels = keras.Input((3, 8, 8, 3))
    x = layers.ConvLSTM2D(3, 3, return_sequences=True)(layers.Rescaling(1 / 64)(pixels))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.LSTM(4, recurrent_activation="hard_sigmoid")(x)
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(layers.Dense(4, activation="hard_sigmoid")(x)))


def cudnn(lstm: type = CuDNNLSTM, gru: type = CuDNNGRU) -> keras.Model:
    """The layers that were for GPUs alone: both ways, stacked, and within a wrapped model."""
    pixels = keras.Input((4, 8, 8, 3))
    rows = keras.Sequential([layers.Reshape((8, 24)), lstm(4, name="of_rows")])
    x = layers.TimeDistributed(rows)(layers.Rescaling(1 / 64)(pixels))
    x = layers.Bidirectional(lstm(5, return_sequences=True, name="lstm"))(x)
    x = gru(4, name="gru")(lstm(6, return_sequences=True, go_backwards=True, name="second")(x))
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(x))


def with_lambda() -> keras.Model:
    pixels = keras.Input((8, 8, 3))
    x = layers.Lambda(lambda values: values / 255.0, name="to_unit")(pixels)
    return keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def with_resize() -> keras.Model:
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, layers.Dense(2)(layers.GlobalAveragePooling2D()(tf.image.resize(pixels, (4, 4)))))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        return self.dense(rows)


def answer(model: keras.Model, file: Path) -> None:
    shape = [3 if size is None else size for size in model.input_shape[1:]]
    pixels = np.random.default_rng(1).integers(0, 256, (2, *shape)).astype(np.float32)
    pixels[0] //= 8  # dark and bright, so that the answers differ
    np.savez(file, pixels=pixels, answers=np.asarray(model(pixels, training=False)))


def main(folder: Path) -> None:
    keras.utils.set_random_seed(2)
    for name, model in (("clips", clips()), ("attention", attention()), ("lrcn", lrcn()), ("hard", hard())):
        for variable in model.weights:  # or means of 0 and variances of 1 in the wrong place would go unseen
            variable.assign(variable + tf.random.uniform(variable.shape, 0.0, 0.2))
        answer(model, folder / f"{name}.npz")
        model.save(folder / f"{name}.h5")
        model.save_weights(folder / f"{name}_weights.h5")
        if name == "clips":
            model.save(folder / "clips.keras")
            model.save_weights(folder / "checkpoint" / "clips")
        if name == "attention":
            model.save(folder / "attention", save_format="tf")
            tf.saved_model.save(model, str(folder / "plain"))
            (folder / "plain" / "keras_metadata.pb").unlink(missing_ok=True)
    of_cudnn = cudnn()
    for variable in of_cudnn.weights:
        variable.assign(variable + tf.random.uniform(variable.shape, -1.0, 1.0))
    of_cudnn.save(folder / "cudnn.h5")
    plain = cudnn(layers.LSTM, layers.GRU)  # runs without a GPU
    plain.load_weights(folder / "cudnn.h5")
    answer(plain, folder / "cudnn.npz")
    with_lambda().save(folder / "lambda.h5")
    with_lambda().save(folder / "lambda", save_format="tf")
    with_resize().save(folder / "resize.h5")
    subclassed = Subclassed()
    subclassed(np.zeros((1, 3), np.float32))
    subclassed.save(folder / "subclassed", save_format="tf")


main(Path(sys.argv[1]))
