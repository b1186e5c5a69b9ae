"""What half cannot hold stays in float, and everything else is cast once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.engine.fp16 import to_fp16
from tests.engine.fp16.graphs import FLOAT, HALF, kinds, run, text

NORM = """
norm (float[N,8] features) => (float[N,3] probabilities)
<float[8,8] w = {%s}, float[8,3] v = {%s}, float eps = {0.000001}> {
  x = MatMul(features, w)
  axes = Constant<value = int64[1] {1}>()
  mean = ReduceMean(x, axes)
  apart = Sub(x, mean)
  square = Mul(apart, apart)
  variance = ReduceMean(square, axes)
  safe = Add(variance, eps)
  deviation = Sqrt(safe)
  normal = Div(apart, deviation)
  y = MatMul(normal, v)
  z = Relu(y)
  probabilities = Softmax<axis=-1>(z)
}"""


def test_a_normalisation_by_variance_stays_float_where_half_would_overflow() -> None:
    random = np.random.default_rng(3)
    numbers = lambda count: ", ".join(f"{value:.4f}" for value in random.normal(size=count))  # noqa: E731
    model = text(NORM % (numbers(64), numbers(24)))
    read = kinds(to_fp16(model))
    for kind in ("ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div", "Softmax"):
        assert read[kind] == {FLOAT}, kind
    assert HALF in read["MatMul"]
    features = (400 * random.normal(size=(5, 8))).astype(np.float32)  # squares near 1e6, of which half knows none
    assert run(to_fp16(model), features=features) == pytest.approx(run(model, features=features), abs=5e-3)


def test_a_square_is_taken_in_float_even_of_what_is_half() -> None:
    model = text("""
    squares (float[N,2] x) => (float[N,2] y) <float[2,2] w = {100, 0, 0, 100}> {
      a = MatMul(x, w)
      y = Mul(a, a)
    }""")
    x = np.full((1, 2), 3, np.float32)
    assert run(to_fp16(model), x=x) == pytest.approx(90_000)  # half ends at 65504
    assert kinds(to_fp16(model))["Mul"] == {FLOAT}


def test_the_product_that_a_softmax_reads_stays_float_and_the_one_before_it_does_not() -> None:
    model = text("""
    scores (float[N,4] features) => (float[N,2] probabilities) <float[4,4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
      float[4,2] v = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] bias = {0.5, 1}> {
      x = MatMul(features, w)
      y = MatMul(x, v)
      z = Add(y, bias)
      probabilities = Softmax<axis=-1>(z)
    }""")
    stored = {tensor.name: tensor.data_type for tensor in onnx.load_from_string(to_fp16(model)).graph.initializer}
    assert stored == {"w/float16": HALF, "v": FLOAT, "bias": FLOAT}


@pytest.mark.parametrize("constant", ["-1000000000.0", "100000.0", "0.0000001"])
def test_a_constant_that_half_cannot_hold_keeps_its_node_in_float(constant: str) -> None:
    model = text(f"""
    odd (float[N,2] x) => (float[N,2] y) <float[2,2] w = {{1, 2, 3, 4}}, float odd = {{{constant}}}> {{
      a = MatMul(x, w)
      b = Add(a, odd)
      y = MatMul(b, w)
    }}""")
    assert kinds(to_fp16(model))["Add"] == {FLOAT}
    found, wanted = (run(each, x=np.ones((1, 2), np.float32)) for each in (to_fp16(model), model))
    if constant == "0.0000001":
        assert found == pytest.approx(wanted, rel=1e-3)


def test_a_tensor_that_both_half_and_float_read_is_cast_once() -> None:
    model = text("""
    both (float[N,2] x) => (float[N,2] y, float[N,2] z) <float[2,2] w = {1, 2, 3, 4}> {
      a = MatMul(x, w)
      y = MatMul(a, w)
      b = Exp(a)
      c = Log(a)
      z = Add(b, c)
    }""")
    cast = onnx.load_from_string(to_fp16(model))
    casts = [(node.input[0], node.output[0]) for node in cast.graph.node if node.op_type == "Cast"]
    assert sorted(casts) == [("a", "a/float32"), ("x", "x/float16"), ("y/float16", "y")]
    assert [tensor.name for tensor in cast.graph.initializer] == ["w/float16"]


def test_frames_are_scaled_in_float_and_transposed_in_half() -> None:
    model = text("""
    frames (uint8[N,4,4,3] frames) => (float[N,2,4,4] features) <float scale = {0.0078125}, float[2,3,1,1] w = {1, 2, 3, 4, 5, 6}> {
      x = Cast<to=1>(frames)
      y = Mul(x, scale)
      z = Transpose<perm=[0,3,1,2]>(y)
      features = Conv(z, w)
    }""")
    read = kinds(to_fp16(model))
    assert (read["Mul"], read["Transpose"], read["Conv"]) == ({FLOAT}, {HALF}, {HALF})


def test_a_recurrent_layer_runs_in_half_and_stays_close() -> None:
    random = np.random.default_rng(0)
    shapes = {"W": (2, 64, 24), "R": (2, 64, 16), "B": (2, 128)}
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    model = onnx.load_from_string(
        text("""
    lstm (float[T,B,24] x, float[2,64,24] W, float[2,64,16] R, float[2,128] B) => (float[T,D,B,16] y) {
      y = LSTM<hidden_size=16, direction="bidirectional">(x, W, R, B)
    }""")
    )
    del model.graph.input[1:]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    data = model.SerializeToString()
    assert kinds(to_fp16(data))["LSTM"] == {HALF}
    x = random.normal(size=(64, 2, 24)).astype(np.float32)
    assert run(to_fp16(data), x=x) == pytest.approx(run(data, x=x), abs=5e-3)
