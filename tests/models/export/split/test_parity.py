"""A graph that is not the model is refused, and the error says by how much."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import numpy_helper

from models.errors import ExportRefused
from models.export.graphs.encoder import encoder_onnx
from models.export.graphs.head import head_onnx
from models.export.normalization import Normalization
from models.export.split.parity import compare_graphs, compare_split
from models.export.split.reference import Reference
from models.export.split.split import split_model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(4)
    clips = keras.Input((None, 12, 12, 3))
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(layers.Rescaling(1 / 255)(clips))
    return keras.Model(clips, layers.Dense(3, activation="softmax", kernel_initializer="he_normal")(layers.LSTM(8)(x)))


@pytest.fixture(scope="module")
def parts(model: keras.Model) -> tuple[Reference, onnx.ModelProto, onnx.ModelProto]:
    split = split_model(model, height=12, width=12, channels=3)
    reference = Reference(split.encoder, split.head)
    return reference, encoder_onnx(split.encoder), head_onnx(split.head)


def test_equal_graphs_are_measured_at_three_shapes(parts: tuple[Reference, onnx.ModelProto, onnx.ModelProto]) -> None:
    rows = compare_graphs(*parts, static_frames=None, seed=0)
    assert [(row["batch"], row["frames"]) for row in rows] == [(1, 1), (2, 7), (5, 30)]
    assert all(row["probabilities"] < 1e-5 for row in rows)


@pytest.mark.parametrize("weight", ["W", "R", "B"])
def test_a_wrong_weight_in_the_head_is_refused(
    parts: tuple[Reference, onnx.ModelProto, onnx.ModelProto], weight: str
) -> None:
    reference, encoder, head = parts
    wrong = onnx.ModelProto.FromString(head.SerializeToString())
    tensor = next(tensor for tensor in wrong.graph.initializer if tensor.name.endswith(f"/{weight}"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.05, tensor.name))
    with pytest.raises(ExportRefused, match=r"differ from Keras by 0\.\d+ in probability, the limit is 0.0001"):
        compare_graphs(reference, encoder, wrong, static_frames=None, seed=0)


def test_parts_that_are_not_the_model_are_refused(
    model: keras.Model, parts: tuple[Reference, onnx.ModelProto, onnx.ModelProto]
) -> None:
    split = split_model(model, height=12, width=12, channels=3)
    plain = Normalization()
    assert compare_split(model, split, parts[0], normalization=plain, lengths=(1, 3), seed=0) < 1e-5
    split.head.layers[-1].bias.assign(np.float32([0.1, 0, 0]))
    with pytest.raises(ExportRefused, match="encoder and head together differ from the model"):
        compare_split(model, split, Reference(split.encoder, split.head), normalization=plain, lengths=(1,), seed=0)
