"""A graph cast to half gives the same answers, keeps in float32 what half cannot hold, and says what it cannot cast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from models.data.dataset import Dataset
from service.bundle.manifest import Role
from service.bundle.store import Bundle, find_bundles, open_bundle
from service.engine.fp16 import to_fp16
from service.errors import EngineError, EngineUnavailable

ROLES: tuple[Role, ...] = ("encoder", "encoder.int8", "head")
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'


@pytest.fixture(params=find_bundles(()), ids=lambda path: path.name)
def shipped(request: pytest.FixtureRequest) -> Bundle:
    return open_bundle(request.param)


def session(model: bytes) -> Any:
    """Without its optimizers: they answer 0 for a Q/DQ graph in half (onnxruntime 1.31), which it runs well as it stands."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, **arrays: np.ndarray) -> np.ndarray:
    return session(model).run(None, arrays)[0]


def text(body: str) -> bytes:
    return onnx.parser.parse_model(HEADER + body).SerializeToString()


def kinds(model: bytes) -> dict[str, set[int]]:
    """For each kind of node the types of the floats that it reads."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found: dict[str, set[int]] = {}
    for node in graph.node:
        found.setdefault(node.op_type, set()).update(
            {FLOAT, HALF}.intersection(types[name] for name in node.input if name)
        )
    return found


def answers(encoder: Any, head: Any, clips: list[np.ndarray]) -> np.ndarray:
    """`[B, K]` for clips `[T, H, W, C]`."""
    rows = []
    for clip in clips:
        features = np.concatenate(
            [encoder.run(None, {"frames": clip[at : at + 8]})[0] for at in range(0, len(clip), 8)]
        )
        rows.append(head.run(None, {"features": features[None]})[0][0])
    return np.stack(rows)


@pytest.mark.parametrize("role", ROLES)
def test_inputs_and_outputs_keep_their_types_and_products_run_in_half(shipped: Bundle, role: Role) -> None:
    data = shipped.file(role).read_bytes()
    before, after = onnx.load_from_string(data), onnx.load_from_string(to_fp16(data))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    read = kinds(to_fp16(data))
    for kind in {"Conv", "LSTM"}.intersection(read):
        assert read[kind] == {HALF}
    assert read.get("Softmax", {FLOAT}) == {FLOAT}
    assert read.get("ReduceMean", {FLOAT}) == {FLOAT}


def test_weights_stored_in_half_precision_come_out_as_they_were(shipped: Bundle) -> None:
    data = shipped.file("encoder").read_bytes()
    stored = {tensor.name: tensor for tensor in onnx.load_from_string(data).graph.initializer}
    cast = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(to_fp16(data)).graph.initializer
    }
    halves = [name for name, tensor in stored.items() if tensor.data_type == HALF]
    assert len(halves) > 20
    for name in halves:
        np.testing.assert_array_equal(
            cast[name.removesuffix("/half") + "/float16"], numpy_helper.to_array(stored[name])
        )


def test_half_answers_the_golden_clips_as_float_does(shipped: Bundle) -> None:
    encoder, head = (session(to_fp16(shipped.file(role).read_bytes())) for role in ("encoder", "head"))
    golden = shipped.golden()
    found = answers(encoder, head, list(golden.frames))
    assert np.abs(found - golden.probabilities).max() < 3e-3  # measured: 1.6e-3 and 1.2e-4


def test_int8_with_a_half_remainder_answers_the_golden_clips_as_int8_does(shipped: Bundle) -> None:
    int8, head = (shipped.file(role).read_bytes() for role in ("encoder.int8", "head"))
    golden = shipped.golden()
    found = answers(session(to_fp16(int8)), session(to_fp16(head)), list(golden.frames))
    assert np.abs(found - golden.probabilities).max() < shipped.manifest.golden.tolerance["int8"]
    # Measured: 6.3e-2 and 3.5e-3; another order of roundings alone flips as many (CONTRIBUTING).
    assert np.abs(found - answers(session(int8), session(head), list(golden.frames))).max() < 0.1


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "folder", "count"), [("imagenet", "imagenet_photos", 12), ("fight", "surveillance_fight", 2)]
)
def test_real_frames_get_the_same_class_in_half(data: Path, name: str, folder: str, count: int) -> None:
    bundle = open_bundle(next(path for path in find_bundles(()) if path.name == name))
    manifest = bundle.manifest
    dataset = Dataset.open(data / folder, labels=manifest.labels)
    chosen = dataset.split("test")[:: len(dataset.split("test")) // count][:count]
    clips = [dataset.load(sample, spec=manifest.input, sampling=manifest.sampling).frames for sample in chosen]
    encoder, int8, head = (bundle.file(role).read_bytes() for role in ROLES)
    wanted = answers(session(encoder), session(head), clips)
    half = answers(session(to_fp16(encoder)), session(to_fp16(head)), clips)
    assert np.abs(half - wanted).max() < 1e-2  # the largest of 200 photos and 55 clips: 4.9e-3 and 7e-4
    assert (half.argmax(axis=1) == wanted.argmax(axis=1)).all()
    whole = answers(session(int8), session(head), clips)
    mixed = answers(session(to_fp16(int8)), session(to_fp16(head)), clips)
    assert np.abs(mixed - whole).max(axis=1).mean() < 4e-2  # 1.5e-2 and 5.5e-3
    assert (mixed.argmax(axis=1) == whole.argmax(axis=1)).sum() >= count - 1


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


def test_the_same_graph_gives_the_same_bytes(shipped: Bundle) -> None:
    data = shipped.file("encoder.int8").read_bytes()
    assert to_fp16(data) == to_fp16(data)


REFUSED = {
    "control flow": (
        """
    loops (float[N] x, bool yes) => (float[N] y) {
      y = If (yes) <then_branch = g1 () => (float[N] a) { a = Exp(x) }, else_branch = g2 () => (float[N] b) { b = Log(x) }>
    }""",
        r"control flow \(If\).*export the bundle again",
    ),
    "a computed scale": (
        """
    scaled (float[N] x, float s) => (float[N] y) <int8 zero = {0}> {
      q = QuantizeLinear(x, s, zero)
      y = DequantizeLinear(q, s, zero)
    }""",
        r"QuantizeLinear '' has a scale that is computed; quantize the bundle again",
    ),
    "an unknown node": (
        "odd (float[N] x) => (float[N] y) { y = Unheard(x) }",
        r"is ai.onnx::Unheard, which ONNX does not define",
    ),
    "types that do not fit": (
        "odd (float[N] x, int64[N] i) => (float[N] y) { y = Add(x, i) }",
        r"types do not fit.*export the bundle again",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cast_is_refused_by_its_node(name: str) -> None:
    body, reason = REFUSED[name]
    with pytest.raises(EngineError, match=reason):
        to_fp16(text(body))


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(EngineError, match="no ONNX model"):
        to_fp16(b"not a graph")


def test_without_the_onnx_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineUnavailable, match=r"run make gpu in a checkout, or pip install onnx"):
        to_fp16(b"")
