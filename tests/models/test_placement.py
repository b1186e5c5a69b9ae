"""A real quantized encoder with a Q/DQ pair moved to where engines cannot use it is refused, each time by its reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.errors import ExportRefused
from models.quantize import assert_legal
from service.bundle.store import Bundle, find_bundles, open_bundle


@pytest.fixture
def broken(foreign_int8: Bundle) -> onnx.ModelProto:
    """A quantized MobileNetV2 to break."""
    return onnx.load(foreign_int8.file("encoder.int8"))


class Surgery:
    """Finds and moves nodes of a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.made = {output: node for node in model.graph.node for output in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if name in node.input]

    def first(self, kind: str) -> onnx.NodeProto:
        return next(node for node in self.graph.node if node.op_type == kind)

    def before(self, node: onnx.NodeProto, kind: str) -> onnx.NodeProto:
        return next(self.made[name] for name in node.input if name in self.made and self.made[name].op_type == kind)

    def add(self, kind: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
        self.graph.node.append(helper.make_node(kind, inputs, [output], name=name))
        return self.graph.node[-1]  # the graph holds a copy

    def pair(self, source: str, readers: list[onnx.NodeProto]) -> None:
        """Quantize `source` for `readers`, at the scale of the first pair there is."""
        scale, zero = self.first("QuantizeLinear").input[1:3]
        forth = helper.make_node("QuantizeLinear", [source, scale, zero], [f"{source}/q"], name=f"{source}/Q")
        back = helper.make_node("DequantizeLinear", [f"{source}/q", scale, zero], [f"{source}/dq"], name=f"{source}/DQ")
        for reader in readers:
            reader.input[:] = [f"{source}/dq" if name == source else name for name in reader.input]
        self.graph.node.extend([forth, back])


def residual(surgery: Surgery) -> onnx.NodeProto:
    """The first sum of a convolution and a skip."""
    return next(
        node
        for node in surgery.graph.node
        if node.op_type == "Add" and all(name in surgery.made for name in node.input)
    )


@pytest.mark.parametrize("path", find_bundles(()), ids=lambda path: path.name)
def test_the_shipped_encoders_are_placed_as_engines_want_it(path: object) -> None:
    assert assert_legal(onnx.load(open_bundle(str(path)).file("encoder.int8"))) > 50


def test_a_pair_between_a_convolution_and_its_activation_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    clip = surgery.first("Clip")
    surgery.pair(surgery.before(clip, "Conv").output[0], [clip])
    with pytest.raises(ExportRefused, match=r"stand between Conv '\S+' and Clip '\S+', which engines run as one"):
        assert_legal(broken)


@pytest.mark.parametrize("kind", ["Add", "BatchNormalization"])
def test_a_pair_between_a_convolution_and_its_bias_or_batchnorm_is_refused(broken: onnx.ModelProto, kind: str) -> None:
    surgery = Surgery(broken)
    convolution = surgery.first("Conv")
    (channels,) = surgery.constants[convolution.input[2]].dims
    target, count = convolution.output[0], 1 if kind == "Add" else 4
    shape = (1, channels, 1, 1) if kind == "Add" else (channels,)
    names = [f"extra{number}" for number in range(count)]
    surgery.graph.initializer.extend(numpy_helper.from_array(np.ones(shape, np.float32), name) for name in names)
    convolution.output[0] = "bare"
    surgery.pair("bare", [surgery.add(kind, ["bare", *names], target, "later")])
    with pytest.raises(ExportRefused, match=rf"stand between Conv '\S+' and {kind} 'later'"):
        assert_legal(broken)


def test_a_pair_between_a_convolution_and_its_swish_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    clip = surgery.first("Clip")
    source, target = surgery.before(clip, "Conv").output[0], clip.output[0]
    surgery.graph.node.remove(clip)
    sigmoid = surgery.add("Sigmoid", [source], "gate", "gate")
    swish = surgery.add("Mul", [source, "gate"], target, "swish")
    assert_legal(broken)
    surgery.pair(source, [sigmoid, swish])
    with pytest.raises(ExportRefused, match=r"stand between Conv '\S+' and (Sigmoid 'gate'|Mul 'swish')"):
        assert_legal(broken)


def test_a_pair_between_a_residual_sum_and_its_activation_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    add = residual(surgery)
    target = add.output[0]
    add.output[0] = "sum"
    relu = surgery.add("Relu", ["sum"], target, "relu")
    assert_legal(broken)
    surgery.pair("sum", [relu])
    with pytest.raises(ExportRefused, match=r"stand between Add '\S+' and Relu 'relu'"):
        assert_legal(broken)


def test_a_residual_sum_whose_convolution_passes_a_pair_as_its_skip_does_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    add = residual(surgery)
    surgery.pair(surgery.before(add, "Conv").output[0], [add])
    with pytest.raises(ExportRefused, match=r"Conv '\S+' reaches the sum '\S+' through Q/DQ.*only the skip may"):
        assert_legal(broken)


@pytest.mark.parametrize(("place", "float_part"), [(0, "frames"), (1, "weights")])
def test_a_convolution_with_a_pair_on_one_side_only_is_refused(
    broken: onnx.ModelProto, place: int, float_part: str
) -> None:
    surgery = Surgery(broken)
    convolution = [node for node in surgery.graph.node if node.op_type == "Conv"][3]
    back = surgery.made[convolution.input[place]]
    if place == 0:
        convolution.input[0] = surgery.made[back.input[0]].input[0]
    else:
        weights = numpy_helper.to_array(surgery.constants[back.input[0]]).astype(np.float32)
        surgery.graph.initializer.append(numpy_helper.from_array(weights, "plain"))
        convolution.input[1] = "plain"
    with pytest.raises(ExportRefused, match=f"Conv '.*' has Q/DQ on one side only, its {float_part} are float"):
        assert_legal(broken)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("fault", ["axis", "one scale"])
def test_weights_without_a_scale_for_each_output_channel_are_refused(
    broken: onnx.ModelProto, fault: str, *, depthwise: bool
) -> None:
    surgery = Surgery(broken)
    groups = lambda node: next((part.i for part in node.attribute if part.name == "group"), 1)  # noqa: E731
    convolution = next(
        node for node in surgery.graph.node if node.op_type == "Conv" and (groups(node) > 1) == depthwise
    )
    back = surgery.made[convolution.input[1]]
    if fault == "axis":
        next(part for part in back.attribute if part.name == "axis").i = 1
    else:
        for place, name in ((1, "s"), (2, "z")):
            whole = numpy_helper.to_array(surgery.constants[back.input[place]])[0]
            surgery.graph.initializer.append(numpy_helper.from_array(np.asarray(whole), name))
            back.input[place] = name
    with pytest.raises(ExportRefused, match=r"weights of Conv '\S+' have scales .* expected \[\d+\] on axis 0"):
        assert_legal(broken)


def test_a_pair_on_the_output_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    last = surgery.made["features"]
    last.output[0] = "straight"
    surgery.pair("straight", [surgery.add("Identity", ["straight"], "features", "out")])
    with pytest.raises(ExportRefused, match=r"output 'features' passes Q/DQ 'straight/DQ'"):
        assert_legal(broken)


def test_a_quantize_without_its_dequantize_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    forth = surgery.first("QuantizeLinear")
    surgery.graph.node.append(helper.make_node("QuantizeLinear", list(forth.input), ["lost"], name="alone"))
    with pytest.raises(
        ExportRefused, match="QuantizeLinear 'alone' is read by nothing; a DequantizeLinear must follow"
    ):
        assert_legal(broken)


def test_a_quantize_that_something_else_reads_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    forth = surgery.first("QuantizeLinear")
    surgery.graph.node.append(helper.make_node("Cast", [forth.output[0]], ["odd"], name="odd", to=1))
    with pytest.raises(ExportRefused, match="is read by 'odd'; a DequantizeLinear must follow"):
        assert_legal(broken)


def test_a_dequantize_without_its_quantize_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    forth = surgery.first("QuantizeLinear")
    cast = helper.make_node("Cast", [forth.input[0]], [forth.output[0]], name="cast", to=onnx.TensorProto.INT8)
    surgery.graph.node.remove(forth)
    surgery.graph.node.append(cast)
    with pytest.raises(ExportRefused, match="reads what no QuantizeLinear made"):
        assert_legal(broken)


def test_a_pair_of_two_scales_is_refused(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    forth = surgery.first("QuantizeLinear")
    twice = 2 * numpy_helper.to_array(surgery.constants[forth.input[1]])
    surgery.graph.initializer.append(numpy_helper.from_array(np.asarray(twice), "twice"))
    surgery.readers(forth.output[0])[0].input[1] = "twice"
    with pytest.raises(ExportRefused, match="have different scales; a pair shares one"):
        assert_legal(broken)


def test_a_scale_that_is_no_scalar_is_refused_since_tensorrt_then_computes_in_float(broken: onnx.ModelProto) -> None:
    surgery = Surgery(broken)
    forth = surgery.first("QuantizeLinear")
    for name in forth.input[1:3]:
        tensor = surgery.constants[name]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(1), name))
    with pytest.raises(ExportRefused, match=r"has a scale of shape \[1\], expected a scalar"):
        assert_legal(broken)
