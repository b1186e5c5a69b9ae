"""What INT8 will hurt is found in encoders as Keras and tf2onnx write them, and nothing is found in those that INT8 suits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import numpy_helper

from models.export.graphs.encoder import encoder_onnx
from models.export.model.fold import fold_batchnorm
from models.export.normalization import Normalization
from models.export.report.risks import WIDE, quantization_risks
from service.bundle.store import find_bundles, open_bundle

SIZE = 16


def encoder_of(block: Callable[[Any], Any]) -> onnx.ModelProto:
    """The block behind a stem of 8 channels."""
    keras.utils.set_random_seed(2)
    frames = keras.Input((SIZE, SIZE, 3))
    x = block(layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="stem")(frames))
    model = keras.Model(frames, layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else layers.Flatten()(x))
    folded, _ = fold_batchnorm(Normalization().before(model))
    return encoder_onnx(folded)


def mobile(x: Any) -> Any:
    """Depthwise and pointwise with ReLU6 and a skip: what INT8 suits, once trained."""
    y = layers.DepthwiseConv2D(3, padding="same", depthwise_initializer="ones", name="deep")(x)
    y = layers.ReLU(6.0, name="deep_relu")(layers.BatchNormalization()(y))
    return layers.Add(name="sum")([x, layers.Conv2D(8, 1, name="project")(y)])


def activated(activation: str) -> Callable[[Any], Any]:
    return lambda x: layers.Conv2D(8, 1, name="after")(layers.Activation(activation, name="curve")(x))


def excited(x: Any) -> Any:
    """EfficientNet's: the squeezed vector itself goes through swish."""
    y = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D(name="squeeze")(x))
    y = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(layers.Conv2D(2, 1, activation="silu", name="reduce")(y))
    return layers.Conv2D(8, 1, name="after")(layers.Multiply(name="excite")([x, y]))


def normalised(x: Any) -> Any:
    return layers.Dense(8, name="after")(layers.LayerNormalization(name="norm")(x))


def attending(x: Any) -> Any:
    tokens = layers.Reshape((64, 8))(x)
    return layers.MultiHeadAttention(2, 4, name="attend")(tokens, tokens)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (mobile, []),
        (activated("relu"), []),
        (activated("relu6"), []),
        (activated("silu"), [("self-gated activation", ("curve",), ("after/Conv",), "swish")]),
        (activated("hard_silu"), [("self-gated activation", ("curve",), ("after/Conv",), "hard swish")]),
        (activated("gelu"), [("self-gated activation", ("curve",), ("after/Conv",), "GELU")]),
        (
            excited,
            [
                ("self-gated activation", ("reduce",), ("gate/Conv",), "swish"),
                ("squeeze and excite", ("excite",), ("reduce/Conv", "gate/Conv"), "gate for each channel"),
            ],
        ),
        (normalised, [("computed normalisation", ("norm",), ("after/MatMul",), "statistics")]),
        (attending, [("attention", ("MatMul", "MatMul_2"), ("attend/MatMul_4",), "far above the others")]),
    ],
    ids=["mobile", "relu", "relu6", "swish", "hard swish", "gelu", "excite", "layer norm", "attention"],
)
def test_what_int8_hurts_is_named_with_the_nodes_to_keep_in_float(block: Any, expected: list[Any]) -> None:
    model = encoder_of(block)
    found = [(risk.kind, risk.layers, risk.skip) for risk in quantization_risks(model)]
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    for (_, _, skip), risk, wanted in zip(found, quantization_risks(model), expected, strict=True):
        assert wanted[3] in risk.finding
        assert wanted[2] is None or skip == wanted[2]
        assert set(skip) <= {node.name for node in model.graph.node}
        assert skip


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_depthwise_layer_is_named_when_its_ranges_are_wider_than_the_measured_limit(factor: float) -> None:
    model = encoder_of(mobile)
    node = next(node for node in model.graph.node if node.op_type == "Conv" and node.name.startswith("deep"))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    kernels = np.ones(tensor.dims, np.float32)
    kernels[0] *= WIDE * factor
    tensor.CopyFrom(numpy_helper.from_array(kernels, tensor.name))
    found = quantization_risks(model)
    if factor < 1:
        assert found == []
    else:
        assert [(risk.kind, risk.layers, risk.skip) for risk in found] == [("depthwise", ("deep",), ("project/Conv",))]
        assert "22 times the median" in found[0].finding


def test_in_the_shipped_encoders_which_survive_int8_nothing_is_found() -> None:
    for path in find_bundles(()):
        assert quantization_risks(onnx.load(open_bundle(path).file("encoder"))) == []
