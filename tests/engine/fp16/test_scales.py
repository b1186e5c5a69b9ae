"""The scales of a quantized convolution in half."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from service.engine.fp16 import to_fp16
from tests.engine.fp16.graphs import FLOAT, HEADER, kinds, run


@pytest.fixture
def quantized() -> onnx.ModelProto:
    """A quantized convolution one of whose two channels training let die."""
    model = onnx.parser.parse_model(
        HEADER
        + """
    conv (float[N,3,8,8] x) => (float[N,2,8,8] y)
    <float xs = {0.02}, int8 xz = {0}, float[2] ws = {0.01, 0.000000001}, int8[2] wz = {0, 0},
     int8[2,3,1,1] w = {100, -50, 127, 100, -50, 127}, float[2] bias = {0.5, 0.25}> {
      q = QuantizeLinear(x, xs, xz)
      frames = DequantizeLinear(q, xs, xz)
      weights = DequantizeLinear<axis=0>(w, ws, wz)
      c = Conv(frames, weights, bias)
      y = Relu(c)
    }"""
    )
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{number}"
    return model


def test_scales_are_half_scalars_and_a_dead_channel_keeps_a_positive_one(quantized: onnx.ModelProto) -> None:
    cast = onnx.load_from_string(to_fp16(quantized.SerializeToString()))
    assert cast.opset_import[0].version >= 19
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in cast.graph.initializer}
    made = {node.output[0]: node for node in cast.graph.node}
    convolution = next(node for node in cast.graph.node if node.op_type == "Conv")
    frames, weights = (made[name] for name in convolution.input[:2])
    assert (stored[frames.input[1]].shape, stored[frames.input[1]].dtype) == ((), np.float16)
    assert made[frames.input[0]].op_type == "QuantizeLinear"
    scale, values = stored[weights.input[1]].astype(np.float64), stored[weights.input[0]]
    assert (scale > 0).all()
    wanted = np.array([100, -50, 127])
    assert values[0].ravel() == pytest.approx(wanted)
    assert values[1].ravel() * scale[1] == pytest.approx(wanted * 1e-9, abs=4e-6)
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    # 127 × 0.01 × 0.02: one input that is rounded the other way.
    assert run(cast.SerializeToString(), x=x) == pytest.approx(run(quantized.SerializeToString(), x=x), abs=0.026)


def test_activations_too_faint_for_half_keep_their_convolution_in_float(quantized: onnx.ModelProto) -> None:
    faint = next(tensor for tensor in quantized.graph.initializer if tensor.name == "xs")
    faint.CopyFrom(numpy_helper.from_array(np.float32(1e-7), "xs"))
    read = kinds(to_fp16(quantized.SerializeToString()))
    assert read["Conv"] == read["DequantizeLinear"] == {FLOAT}
