"""Whether a model scales its pixels itself, and which family its CNN is of."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from models.readings.family import by_names, family_of
from models.readings.said import scaling_in, scaling_in_graph


def model(before: str, *, inside: bool = False) -> keras.Model:
    """A CNN under TimeDistributed with `before` in front of it, or `inside` the nested model."""
    put = {
        "Rescaling": layers.Rescaling(1 / 255, name="to_unit"),
        "arithmetic": lambda x: x / 127.5 - 1.0,
        "nothing": lambda x: x,
        "BatchNormalization": layers.BatchNormalization(),
        "augmentation": lambda x: layers.Rescaling(1 / 255, name="to_unit")(layers.RandomFlip()(x)),
        "sum": lambda x: x + layers.Conv2D(3, 1)(x),
    }[before]
    frame = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(put(frame) if inside else frame)
    cnn = keras.Model(frame, layers.GlobalAveragePooling2D()(layers.Rescaling(2.0)(x)))
    clips = keras.Input((None, 8, 8, 3))
    x = layers.TimeDistributed(cnn)(clips if inside else put(clips))
    return keras.Model(clips, layers.Dense(2)(layers.LSTM(3)(x)))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("before", "named"),
    [("Rescaling", "to_unit"), ("arithmetic", "true_divide"), ("nothing", None), ("BatchNormalization", None)],
)
def test_what_scales_pixels_before_the_first_weights_is_found(before: str, named: str | None, inside: bool) -> None:
    found = scaling_in(model(before, inside=inside))
    assert (found or "None").startswith(named or "None")


def test_augmentation_is_passed_over_and_a_residual_sum_is_no_scaling() -> None:
    assert scaling_in(model("augmentation", inside=True)) == "to_unit"
    assert scaling_in(model("sum", inside=True)) is None


def test_an_efficientnet_says_so_itself_and_a_mobilenet_does_not() -> None:
    without = {"weights": None, "include_top": False, "input_shape": (32, 32, 3)}
    assert scaling_in(keras.applications.MobileNetV3Small(**without)) is not None
    plain = keras.applications.MobileNetV3Small(**without, include_preprocessing=False)
    assert scaling_in(plain) is None
    family = family_of(plain)
    assert family is not None
    assert (family.name, family.preprocess) == ("MobileNetV3", "tf")


@pytest.mark.parametrize(
    ("build", "name", "preprocess"),
    [("VGG16", "VGG", "caffe"), ("MobileNetV2", "MobileNetV2", "tf")],
)
def test_a_family_of_keras_applications_is_known_inside_time_distributed(
    build: str, name: str, preprocess: str
) -> None:
    cnn = getattr(keras.applications, build)(weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3))
    clips = keras.Input((2, 32, 32, 3))
    family = family_of(keras.Model(clips, layers.LSTM(2)(layers.TimeDistributed(cnn)(clips))))
    assert family is not None
    assert (family.name, family.preprocess) == (name, preprocess)


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (("conv1/conv", "conv1/bn", "conv2_block1_1_conv", "conv2_block1_concat"), "DenseNet"),  # as Keras 2 wrote them
        (("conv1_conv", "conv1_bn", "conv2_block1_1_conv"), "ResNet"),
        (("conv1_conv", "conv2_block1_preact_bn", "conv2_block1_1_conv"), "ResNetV2"),
        (("conv2d", "dense"), None),
    ],
)
def test_families_that_share_names_are_told_apart(names: tuple[str, ...], family: str | None) -> None:
    found = by_names(names)
    assert (found.name if found else None) == family


@pytest.mark.parametrize(("operator", "scaled"), [("Div", True), ("Relu", False), (None, False)])
def test_a_graph_of_onnx_says_so_by_arithmetic_before_its_first_weights(operator: str | None, scaled: bool) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in ("x", "y")]
    constants = [
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("s", (1,)), ("w", (4, 3, 3, 3)))
    ]
    turned = helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 2, 3])
    given = ["t", "s"] if operator == "Div" else ["t"]
    scaling = [helper.make_node(operator, given, ["z"], name="scaling")] if operator else []
    body = [
        turned,
        *scaling,
        helper.make_node("Conv", ["z" if operator else "t", "w"], ["c"]),
        helper.make_node("Div", ["c", "s"], ["y"]),
    ]
    graph = helper.make_graph(body, "g", values[:1], values[1:], constants)
    assert (scaling_in_graph(graph) == "scaling") is scaled
