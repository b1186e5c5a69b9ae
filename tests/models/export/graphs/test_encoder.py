"""The encoder's graph takes bytes, whatever normalisation its author used, and holds no loop."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
import openvino
import pytest
from keras import layers, ops

from models.errors import ExportRefused
from models.export.gate import build_gate
from models.export.graphs.encoder import encoder_onnx
from models.export.half import halve, widen
from models.export.normalization import Normalization
from models.export.runtime import Runtime


def bytes_like(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (5, 10, 10, channels), dtype=np.uint8)


def network(channels: int = 3, *, before: Any = None) -> keras.Model:
    keras.utils.set_random_seed(2)
    frames = keras.Input((10, 10, channels))
    x = frames if before is None else before(frames)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    return keras.Model(frames, layers.GlobalAveragePooling2D()(x), name="encoder")


def test_frames_arrive_as_bytes_in_any_number() -> None:
    model = network(before=layers.Rescaling(1 / 255))
    run = Runtime(encoder_onnx(model))
    for count in (1, 3, 5):
        frames = bytes_like()[:count]
        np.testing.assert_allclose(run(frames)["features"], model(frames.astype(np.float32)), atol=1e-6)


@pytest.mark.parametrize("preprocess", ["caffe", "tf", "torch", "none", "120,110,100/60,61,62", "127.5/127.5"])
def test_normalisation_outside_the_model_moves_into_the_graph(preprocess: str) -> None:
    model, normalization = network(), Normalization.parse(preprocess)
    run = Runtime(encoder_onnx(normalization.before(model)))
    frames = bytes_like()
    fed = frames.astype(np.float32)
    if preprocess in ("caffe", "tf", "torch"):
        fed = keras.applications.imagenet_utils.preprocess_input(fed.copy(), mode=preprocess)
    elif preprocess.startswith("120"):
        fed = (fed - [120, 110, 100]) / [60, 61, 62]
    elif preprocess != "none":
        fed = (fed - 127.5) / 127.5
    np.testing.assert_allclose(normalization.apply(frames), fed, atol=1e-5)
    wanted = np.asarray(model(np.asarray(fed, np.float32)))
    np.testing.assert_allclose(run(frames)["features"], wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))


def test_a_network_of_bgr_gets_rgb_turned_round() -> None:
    model = network()
    run = Runtime(encoder_onnx(Normalization.parse("tf", color="bgr").before(model)))
    wanted = model(bytes_like()[..., ::-1].astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(run(bytes_like())["features"], wanted, atol=1e-5)


def test_a_grey_network_takes_one_channel() -> None:
    model = network(1)
    graph = encoder_onnx(Normalization.parse("tf", color="gray").before(model))
    assert graph.graph.input[0].type.tensor_type.shape.dim[3].dim_value == 1
    wanted = model(bytes_like(1).astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(Runtime(graph)(bytes_like(1))["features"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        *[(text, "none, caffe, tf, torch") for text in ("half", "1/2/3", "a/b")],
        ("1,2/3", r"mean has 2 values \(1, 2\), rgb frames take 1 or 3"),
        ("0/1,2,3,4", r"std has 4 values \(1, 2, 3, 4\), rgb frames take 1 or 3"),
        ("1/0", "std 0 is not within 0.001 …"),
        ("1/-2", "std -2 is not within"),
        ("0/1e-300", "std 1e-300 is not within"),
        ("0/255,1e300,255", r"std 1e\+300 is not within"),
        ("0/nan", "std nan is not within"),
        ("nan/1", r"mean nan is not within -1e\+06 … 1e\+06; mean is of bytes"),
        ("0,-inf,0/1", "mean -inf is not within"),
    ],
)
def test_a_normalisation_that_means_nothing_is_refused_by_the_value_that_is_wrong(text: str, saying: str) -> None:
    with pytest.raises(ExportRefused, match=saying):
        Normalization.parse(text)


def test_three_numbers_for_a_grey_network_are_refused() -> None:
    with pytest.raises(ExportRefused, match=r"mean has 3 values \(1, 2, 3\), gray frames take 1; write"):
        Normalization.parse("1,2,3/4", color="gray")


def test_the_mean_of_a_fitted_normalization_is_part_of_the_graph() -> None:
    model = network(before=layers.Normalization(mean=[90.0, 100, 110], variance=[400.0, 500, 600]))
    graph = encoder_onnx(model)
    assert [value.name for value in graph.graph.input] == ["frames"]
    np.testing.assert_allclose(
        Runtime(graph)(bytes_like())["features"], model(bytes_like().astype(np.float32)), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:.*retracing")
def test_grouped_convolutions_and_gelu_are_exported() -> None:
    model = network(4, before=lambda x: layers.Activation("gelu")(layers.Conv2D(8, 3, groups=4)(x / 100)))
    graph = encoder_onnx(model)
    np.testing.assert_allclose(
        Runtime(graph)(bytes_like(4))["features"], model(bytes_like(4).astype(np.float32)), atol=1e-5
    )


def test_the_only_transpose_is_the_one_at_the_entry() -> None:
    kinds = [node.op_type for node in encoder_onnx(network()).graph.node]
    assert kinds.count("Transpose") == 1


def test_nodes_are_named_after_their_layers() -> None:
    graph = encoder_onnx(network(before=layers.Rescaling(1 / 255, name="scale_bytes"))).graph
    conv = next(node for node in graph.node if node.op_type == "Conv")
    assert conv.name == "conv/Conv"
    assert conv.input[1] == "conv/Conv/1"
    assert [node.name for node in graph.node if node.op_type == "Mul"] == ["scale_bytes/Mul"]


def test_layers_that_keras_numbered_keep_their_own_names() -> None:
    frames = keras.Input((10, 10, 3))
    x = layers.Conv2D(4, 3, name="conv2d")(frames)
    x = layers.Conv2D(4, 3, name="conv2d_1")(layers.MaxPooling2D()(x))
    graph = encoder_onnx(keras.Model(frames, layers.GlobalAveragePooling2D()(x), name="encoder")).graph
    assert [node.name for node in graph.node if node.op_type == "Conv"] == ["conv2d/Conv", "conv2d_1/Conv"]


def test_a_layer_that_loops_is_refused_by_name() -> None:
    frames = keras.Input((10, 10, 3))

    @keras.saving.register_keras_serializable(package="tests")
    class Spinning(layers.Layer):
        def call(self, inputs: Any) -> Any:
            return ops.while_loop(lambda x: ops.max(x) > 1.0, lambda x: [x / 2], [inputs])[0]

    model = keras.Model(frames, layers.GlobalAveragePooling2D()(Spinning(name="spinning")(frames)), name="encoder")
    with pytest.raises(ExportRefused, match=r"Loop.*spinning"):
        encoder_onnx(model)


@pytest.mark.parametrize("layer", [layers.GRU(4), layers.LSTM(4), layers.Bidirectional(layers.LSTM(3))])
def test_a_recurrent_layer_over_the_rows_of_a_picture_is_a_real_node(layer: Any) -> None:
    frames = keras.Input((10, 10, 3))
    rows = layers.Reshape((10, 30))(layers.Conv2D(3, 3, padding="same")(layers.Rescaling(1 / 255)(frames)))
    model = keras.Model(frames, layers.Dense(2)(layer(rows)), name="encoder")
    graph = encoder_onnx(model)
    assert {"LSTM", "GRU"} & {node.op_type for node in graph.graph.node}
    for count in (1, 5):
        wanted = model(bytes_like()[:count].astype(np.float32))
        np.testing.assert_allclose(Runtime(graph)(bytes_like()[:count])["features"], wanted, atol=1e-6)


def test_an_operation_that_onnx_lacks_is_refused_by_its_layer() -> None:
    frames = keras.Input((10, 10, 3))

    @keras.saving.register_keras_serializable(package="tests")
    class Spectrum(layers.Layer):
        def call(self, inputs: Any) -> Any:
            return ops.erfinv(inputs / 300)

    model = keras.Model(frames, layers.GlobalAveragePooling2D()(Spectrum(name="spectrum")(frames)), name="encoder")
    with pytest.raises(ExportRefused, match="layer 'spectrum' needs"):
        encoder_onnx(model)


def test_halving_and_widening_give_the_same_outputs_and_the_same_weights() -> None:
    model = network()
    for weight in model.weights:
        weight.assign(weight.numpy().astype(np.float16))
    graph = encoder_onnx(model)
    halved = halve(graph)
    kinds = {tensor.name: tensor.data_type for tensor in halved.graph.initializer}
    assert kinds["conv/Conv/1/half"] == onnx.TensorProto.FLOAT16
    onnx.checker.check_model(halved, full_check=True)
    np.testing.assert_array_equal(Runtime(halved)(bytes_like())["features"], Runtime(graph)(bytes_like())["features"])
    wide = {tensor.name: tensor.raw_data for tensor in widen(halved).graph.initializer}
    assert wide == {tensor.name: tensor.raw_data for tensor in graph.graph.initializer}


def test_a_weight_that_float16_cannot_hold_stays_float32() -> None:
    model = network()
    model.layers[-2].kernel.assign(model.layers[-2].kernel + 1e-6)
    graph = encoder_onnx(model)
    assert halve(graph).graph.initializer == graph.graph.initializer


@pytest.mark.filterwarnings("ignore:.*retracing")
@pytest.mark.parametrize("name", ["hard-swish", "squeeze and excite", "padding before a maximum"])
def test_blocks_of_known_backbones_are_exported(name: str) -> None:
    """Of MobileNetV3, of EfficientNet, and of ResNet50V2, whose negative values meet the zeros of the padding."""

    def block(x: Any) -> Any:
        x = layers.Conv2D(4, 3, use_bias=False)(x / 100)
        if name == "hard-swish":
            return layers.Multiply()([x, layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)])
        if name == "padding before a maximum":
            return layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x - 9.0))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        return layers.Multiply()([x, layers.Conv2D(4, 1, activation="hard_sigmoid")(gate)])

    model = network(before=block)
    wanted = model(bytes_like().astype(np.float32))
    np.testing.assert_allclose(Runtime(encoder_onnx(model))(bytes_like())["features"], wanted, atol=1e-5)


AUGMENTED: dict[str, Any] = {
    "augmentation": lambda x: layers.RandomRotation(0.2)(layers.RandomZoom(0.2)(layers.RandomFlip()(x))),
    "noise and light": lambda x: layers.GaussianNoise(0.5)(layers.RandomContrast(0.2)(layers.RandomBrightness(0.2)(x))),
    "resizing": layers.Resizing(8, 7),
    "resizing up": layers.Resizing(15, 20, interpolation="nearest"),
    "centre crop": layers.CenterCrop(6, 7),
    "random crop": layers.RandomCrop(6, 6),
}


@pytest.mark.parametrize("name", AUGMENTED)
def test_preprocessing_inside_the_model_is_that_of_serving(name: str) -> None:
    """Augmentation is idle, resizing and cropping are part of the graph, and every engine runs it."""
    model = network(before=lambda x: AUGMENTED[name](layers.Rescaling(1 / 255)(x)))
    wanted = np.asarray(model(bytes_like().astype(np.float32), training=False))
    graph = encoder_onnx(model)
    np.testing.assert_allclose(Runtime(graph)(bytes_like())["features"], wanted, atol=1e-5)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(graph.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(compiled(bytes_like())["features"], wanted, atol=1e-5)
    pytest.importorskip("tensorrt_rtx")
    assert build_gate(graph, profile=(2, 4, 8)).plan_bytes > 1000


def test_an_exception_of_a_converter_names_the_layer() -> None:
    class Breaking(layers.Layer):
        breaks = False

        def call(self, inputs: Any) -> Any:
            if self.breaks:
                raise RuntimeError("no such thing")
            return inputs

    breaking = Breaking(name="breaking")
    model = network(before=breaking)
    breaking.breaks = True
    with pytest.raises(
        ExportRefused,
        match=r"layer 'breaking' \(Breaking\) cannot be converted to ONNX \(RuntimeError: no such thing\)",
    ):
        encoder_onnx(model)
