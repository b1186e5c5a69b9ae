"""Every graph of an export becomes a TensorRT engine at every precision, as far as that can be shown without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnx.parser
import pytest
from keras import layers
from onnx import helper, numpy_helper

from models.errors import ExportRefused
from models.export.artifact import artifact
from models.export.clip.networks import clip_networks
from models.export.gate import build_gate
from models.export.graphs.encoder import encoder_onnx
from models.export.half import halve
from models.export.model.fold import fold_batchnorm
from models.export.normalization import Normalization
from models.quantize import quantize_network
from service.bundle.manifest import Input, Role
from service.bundle.store import Bundle, find_bundles, open_bundle
from service.engine.base import Stage
from service.engine.build import Profile
from service.engine.profiles import profiles_of

pytest.importorskip("tensorrt_rtx", reason="the gate needs tensorrt-rtx, which is for x86-64 only")

SIZE = 32
ROLES: tuple[Role, ...] = ("encoder", "encoder.int8", "head")
VARIANTS = [(role, half) for role in ROLES for half in (False, True)]
each_variant = pytest.mark.parametrize(
    ("role", "half"), VARIANTS, ids=[f"{role}-{'half' if half else 'float'}" for role, half in VARIANTS]
)


def served(bundle: Bundle, role: Role) -> tuple[Profile, ...]:
    """The profiles that the server builds for."""
    stage: Stage = "head" if role == "head" else "encoder"
    return profiles_of(bundle.manifest, stage)


@each_variant
def test_tensorrt_builds_the_graphs_of_a_foreign_model(foreign_int8: Bundle, role: Role, *, half: bool) -> None:
    data = foreign_int8.file(role).read_bytes()
    gate = build_gate(data, profiles=served(foreign_int8, role), half=half)
    assert gate.layers > 20
    assert gate.plan_bytes > 100_000
    assert len(gate.int8) == (52 if role == "encoder.int8" else 0)


@each_variant
@pytest.mark.parametrize("path", find_bundles(()), ids=lambda path: path.name)
def test_tensorrt_builds_the_graphs_of_the_shipped_bundles(path: Path, role: Role, *, half: bool) -> None:
    bundle = open_bundle(path)
    data = bundle.file(role).read_bytes()
    gate = build_gate(data, profiles=served(bundle, role), half=half)
    assert gate.plan_bytes > 10_000
    quantized = [node.name for node in onnx.load_from_string(data).graph.node if node.op_type == "QuantizeLinear"]
    assert len(gate.int8) == len(quantized)  # in these encoders, one for each convolution


@pytest.mark.parametrize("role", ["encoder", "head"])
def test_tensorrt_builds_weights_stored_in_half_precision(foreign_int8: Bundle, role: Role) -> None:
    model = onnx.load(foreign_int8.file(role))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    halved = halve(model)
    assert halved.ByteSize() < 0.55 * model.ByteSize()
    wide, half = build_gate(halved), build_gate(halved, half=True)
    assert wide.plan_bytes > 100_000
    assert half.plan_bytes < 0.75 * wide.plan_bytes or role == "head"


def normal(
    x: Any, width: int, *, size: int = 3, stride: int = 1, activation: str | None = "relu", groups: int = 1
) -> Any:
    """Convolution, BatchNorm, activation."""
    x = layers.Conv2D(width, size, stride, padding="same", use_bias=False, groups=groups)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def depthwise(x: Any, activation: str = "relu6") -> Any:
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def excited(x: Any, gate: str) -> Any:
    """Squeeze and excitation."""
    width = x.shape[-1]
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = layers.Conv2D(width, 1, activation=gate)(layers.Conv2D(4, 1, activation="relu")(squeezed))
    return layers.Multiply()([x, weights])


def inverted(x: Any, activation: str, *, gate: str | None = None) -> Any:
    """Expand, depthwise, project, skip: MobileNetV2, and with a gate EfficientNet."""
    y = depthwise(normal(x, 32, size=1, activation=activation), activation)
    y = excited(y, gate) if gate else y
    return layers.Add()([x, normal(y, x.shape[-1], size=1, activation=None)])


def residual(x: Any) -> Any:
    """A bottleneck with a projected skip, and one with a plain one: ResNet."""
    for skip in (normal(x, 32, size=1, stride=2, activation=None), None):
        stride = 2 if skip is not None else 1
        y = normal(normal(normal(x, 8, size=1), 8, stride=stride), 32, size=1, activation=None)
        x = layers.ReLU()(layers.Add()([y, x if skip is None else skip]))
    return x


def preactivated(x: Any) -> Any:
    """ResNetV2: BatchNorm and activation before the convolution, and a sum that two read."""
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Add()([layers.Conv2D(16, 3, padding="same")(layers.Conv2D(8, 1, activation="relu")(y)), x])
    return x


def modern(x: Any) -> Any:
    """ConvNeXt: a wide depthwise convolution, LayerNorm, products over the channels with GELU."""
    y = layers.LayerNormalization(epsilon=1e-6)(layers.DepthwiseConv2D(7, padding="same")(x))
    return layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="gelu")(y))])


def branching(x: Any) -> Any:
    """Inception and DenseNet: branches, pools and what came before, side by side."""
    pooled = normal(layers.AveragePooling2D(3, 1, padding="same")(x), 8, size=1)
    largest = layers.MaxPooling2D(3, 1, padding="same")(x)
    return layers.Concatenate()([normal(x, 8, size=1), normal(normal(x, 8), 8), pooled, largest, x])


# Each on 16 channels. The number of quantized convolutions is that of all, stem included.
ENCODERS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "residual": (residual, 8),
    "preactivated": (preactivated, 5),
    "mobile with relu6": (lambda x: inverted(x, "relu6"), 4),
    "mobile with swish and excitation": (lambda x: inverted(x, "silu", gate="sigmoid"), 6),
    "grouped": (lambda x: normal(normal(x, 16, groups=4), 16, groups=2, activation="leaky_relu"), 3),
    "separable": (lambda x: layers.MaxPooling2D(3, 2, padding="same")(layers.SeparableConv2D(24, 3)(layers.ReLU()(x))), 3),
    "group normalisation": (lambda x: layers.Activation("elu")(layers.GroupNormalization(4)(layers.Conv2D(16, 3)(x))), 2),
    "modern": (modern, 2),
    "branching": (branching, 5),
    "padded and strided": (lambda x: layers.Conv2D(16, 3, 2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x)), 2),
    "dense at the end": (lambda x: layers.Dense(24, activation="tanh")(layers.Flatten()(layers.MaxPooling2D(4)(x))), 1),
}  # fmt: skip


def encoder_of(block: Callable[[Any], Any]) -> onnx.ModelProto:
    """The block behind a stem, its features at its end, exported from frames of 32 × 32 pixels; statistics are not new ones."""
    keras.utils.set_random_seed(3)
    frames = keras.Input((SIZE, SIZE, 3))
    x = block(normal(frames, 16, stride=2))
    model = keras.Model(frames, layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x)
    random = np.random.default_rng(4)
    for weight in model.weights:
        if "moving" in weight.path or "gamma" in weight.path or "beta" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    folded, _ = fold_batchnorm(Normalization().before(model))
    return encoder_onnx(folded)


def profiles_for(model: onnx.ModelProto) -> tuple[Profile, ...]:
    """The profiles that the server builds an encoder for."""
    bundle = open_bundle(find_bundles(())[0])
    entry = artifact(model.SerializeToString(), "encoder.onnx", precision="fp32", weights="float32")
    artifacts = {**bundle.manifest.artifacts, "encoder": entry}
    return profiles_of(bundle.manifest.model_copy(update={"artifacts": artifacts}), "encoder")


@pytest.mark.parametrize("name", ENCODERS)
def test_tensorrt_builds_encoders_of_every_kind_at_every_precision(name: str) -> None:
    block, convolutions = ENCODERS[name]
    model = encoder_of(block)
    frames = np.random.default_rng(5).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    quantized = quantize_network(model, rows=frames)
    profiles = profiles_for(model)
    for half in (False, True):
        assert not build_gate(model, profiles=profiles, half=half).int8
        assert len(build_gate(quantized, profiles=profiles, half=half).int8) == convolutions


def conv3d(width: int, size: int | tuple[int, int, int] = 3, **options: Any) -> Any:
    return layers.Conv3D(width, size, padding="same", activation="relu", **options)


def two_convlstms(x: Any) -> Any:
    """The second reads the steps of the first joined again: TensorRT-RTX then reads a slice of a tensor, and writes it as such."""
    x = layers.ConvLSTM2D(8, 3, padding="same", return_sequences=True)(x)
    return layers.ConvLSTM2D(8, 3, padding="same")(layers.BatchNormalization()(x))


# Of frames of 16 × 16 pixels; the number of quantized convolutions, each step of an unrolled one counted.
CLIPS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "c3d": (lambda x: conv3d(16)(layers.MaxPooling3D((1, 2, 2))(conv3d(8)(x))), 2),
    "r(2+1)d": (lambda x: conv3d(16, (3, 1, 1))(conv3d(16, (1, 3, 3))(x)), 2),
    "strided and dilated": (lambda x: conv3d(16, dilation_rate=2)(conv3d(8, strides=(1, 2, 2))(x)), 2),
    "residual": (lambda x: layers.ReLU()(layers.Add()([(y := conv3d(8)(x)), layers.Conv3D(8, 3, padding="same")(y)])), 2),
    "convlstm": (two_convlstms, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_tensorrt_builds_clip_networks_at_every_precision_and_runs_their_convolutions_in_int8(name: str) -> None:
    block, convolutions = CLIPS[name]
    keras.utils.set_random_seed(5)
    clips = keras.Input((3, 16, 16, 3))
    x = block(layers.Rescaling(1 / 255)(clips))
    pooled = layers.GlobalAveragePooling3D()(x) if len(x.shape) == 5 else layers.GlobalAveragePooling2D()(x)
    networks = clip_networks(
        keras.Model(clips, layers.Dense(3, activation="softmax")(pooled)),
        input=Input(height=16, width=16),
        normalization=Normalization(),
        frames=3,
    )
    model = networks.graphs["clip"]
    rows = np.random.default_rng(6).integers(0, 256, (8, 3, 16, 16, 3), np.uint8)
    quantized = quantize_network(model, rows=rows)
    for half in (False, True):
        assert not build_gate(model, profile=(1, 4, 8), half=half).int8
        assert len(build_gate(quantized, profile=(1, 4, 8), half=half).int8) == convolutions


def test_a_convolution_that_tensorrt_would_silently_run_in_float_is_refused(foreign_int8: Bundle) -> None:
    model = onnx.load(foreign_int8.file("encoder.int8"))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            for name in node.input[1:]:
                values = numpy_helper.to_array(constants[name]).reshape(1)
                constants[name].CopyFrom(numpy_helper.from_array(values, name))
    with pytest.raises(
        ExportRefused, match=r"TensorRT-RTX \S+ would run \d+ quantized convolutions in float, such as '\S+'"
    ):
        build_gate(model)


def test_a_graph_that_cannot_be_cast_is_refused_with_the_reason_of_the_cast() -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 18]>
        scaled (float[N,3] x, float s) => (float[N,3] y) <int8 zero = {0}> {
          q = QuantizeLinear(x, s, zero)
          y = DequantizeLinear(q, s, zero)
        }"""
    )
    with pytest.raises(ExportRefused, match="has a scale that is computed; quantize the bundle again"):
        build_gate(model, half=True)


def test_what_tensorrt_cannot_read_is_refused_with_its_reason() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"], name="determinant")],
        "odd",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 3])],
        [value("y", onnx.TensorProto.FLOAT, ["N"])],
    )
    with pytest.raises(ExportRefused, match=r"TensorRT-RTX \S+ cannot read the graph.*Det"):
        build_gate(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
