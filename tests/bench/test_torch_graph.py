"""torch gives what onnxruntime gives, operator by operator and on the shipped bundles, and refuses what it does not know."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.store import SHIPPED, open_bundle
from service.errors import EngineError

torch = pytest.importorskip("torch", reason="the baseline needs torch, which is no dependency; pip install torch")

from service.bench.torch_graph import TorchGraph  # noqa: E402

RANDOM = np.random.default_rng(3)


def agree(model: onnx.ModelProto, x: np.ndarray, *, atol: float = 1e-5) -> list[np.ndarray]:
    """Both on `x`; returns torch's outputs."""
    data = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: x})
    graph = TorchGraph(data).eval()
    with torch.inference_mode():
        found = [each.numpy() for each in graph(torch.from_numpy(x))]
    assert list(graph.outputs) == [output.name for output in session.get_outputs()]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=atol)
    return found


def parsed(body: str, *, shape: str = "N,4,9,10", given: str = "float") -> onnx.ModelProto:
    """A graph of x to y, which may have any rank."""
    opset = '<ir_version: 8, opset_import: ["" : 18]>'
    model = onnx.parser.parse_model(f"{opset} g ({given}[{shape}] x) => (float y) {{ {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


MAPS = RANDOM.normal(size=(2, 4, 9, 10)).astype(np.float32)
BODIES = {
    "activations": "a = LeakyRelu<alpha = 0.3>(x) b = Elu<alpha = 0.7>(a) c = Selu(b) d = Softplus(c) e = Softsign(d) y = HardSigmoid<alpha = 0.3, beta = 0.4>(e)",
    "more activations": "a = HardSwish(x) b = Mish(a) c = Erf(b) d = Abs(c) e = Sqrt(d) f = Neg(e) g = Exp(f) h = Log(g) y = Tanh(h)",
    "clip with bounds": "a = Constant<value = float {-0.5}>() b = Constant<value = float {0.25}>() y = Clip(x, a, b)",
    "clip from above": "b = Constant<value = float {0.25}>() y = Clip(x, , b)",
    "softmax over channels": "y = Softmax<axis = 1>(x)",
    "log softmax": "y = LogSoftmax<axis = -1>(x)",
    "max pool, same padding": 'y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)',
    "max pool, padding on one side": "y = MaxPool<kernel_shape = [2, 3], strides = [2, 2], pads = [0, 0, 1, 1]>(x)",
    "average pool, uncounted padding": 'y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_LOWER">(x)',
    "average pool, counted padding": "y = AveragePool<kernel_shape = [3, 2], pads = [1, 0, 0, 1], count_include_pad = 1>(x)",
    "average pool, even padding": "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)",
    "global pools": "a = GlobalAveragePool(x) b = GlobalMaxPool(x) y = Concat<axis = 1>(a, b)",
    "means": "axes = Constant<value = int64[2] {2, 3}>() y = ReduceMean<keepdims = 0>(x, axes)",
    "mean of everything": "y = ReduceMean(x)",
    "sums and lengths": "axes = Constant<value = int64[1] {-1}>() a = ReduceSum(x, axes) b = ReduceL2(x, axes) c = ReduceMax(x, axes) d = ReduceMin(x, axes) y = Sum(a, b, c, d)",
    "transpose": "y = Transpose<perm = [0, 2, 3, 1]>(x)",
    "reshape that keeps and infers": "s = Constant<value = int64[3] {0, -1, 10}>() y = Reshape(x, s)",
    "reshape by a computed shape": "s = Shape<end = 1>(x) r = Constant<value = int64[1] {-1}>() t = Concat<axis = 0>(s, r) y = Reshape(x, t)",
    "flatten": "y = Flatten<axis = 2>(x)",
    "slice backwards": "s = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {-2147483648}>() a = Constant<value = int64[1] {2}>() p = Constant<value = int64[1] {-1}>() y = Slice(x, s, e, a, p)",
    "slice in steps": "s = Constant<value = int64[2] {1, -8}>() e = Constant<value = int64[2] {9223372036854775807, -1}>() a = Constant<value = int64[2] {2, 3}>() p = Constant<value = int64[2] {2, 3}>() y = Slice(x, s, e, a, p)",
    "split evenly": "a, b = Split<axis = 1, num_outputs = 2>(x) y = Sub(a, b)",
    "split by sizes": "s = Constant<value = int64[2] {1, 3}>() a, b = Split<axis = 1>(x, s) y = Mul(a, b)",
    "gather": "i = Constant<value = int64[2, 2] {0, -1, 2, 1}>() y = Gather<axis = 1>(x, i)",
    "squeeze and unsqueeze": "a = Constant<value = int64[2] {0, 3}>() b = Unsqueeze(x, a) y = Squeeze(b, a)",
    "expand both ways": "m = ReduceMean(x) s = Constant<value = int64[4] {1, 4, 1, 3}>() y = Expand(m, s)",
    "tile": "r = Constant<value = int64[4] {1, 2, 1, 3}>() y = Tile(x, r)",
    "pad with a value": "p = Constant<value = int64[8] {0, 0, 1, 2, 0, 0, 3, 0}>() v = Constant<value = float {1.5}>() y = Pad(x, p, v)",
    "pad some axes by reflection": 'p = Constant<value = int64[4] {1, 2, 0, 1}>() v = Constant<value = float {0.0}>() a = Constant<value = int64[2] {2, -1}>() y = Pad<mode = "reflect">(x, p, v, a)',
    "largest and mean": "a = Neg(x) b = Max(x, a) c = Min(x, a) y = Mean(a, b, c)",
    "choice": "z = Constant<value = float {0.0}>() c = Greater(x, z) n = Not(c) a = Neg(x) y = Where(n, a, x)",
    "power and division": "t = Constant<value = float {2.0}>() a = Pow(x, t) y = Div(a, t)",
    "matrix product": "t = Transpose<perm = [0, 1, 3, 2]>(x) y = MatMul(x, t)",
}


@pytest.mark.parametrize("name", BODIES)
def test_an_operator_gives_what_onnxruntime_gives(name: str) -> None:
    agree(parsed(BODIES[name]), MAPS)


def test_bytes_become_floats_and_are_normalised() -> None:
    body = (
        "f = Cast<to = 1>(x) s = Constant<value = float {0.0078}>() m = Mul(f, s) y = Transpose<perm = [0, 3, 1, 2]>(m)"
    )
    frames = RANDOM.integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
    agree(parsed(body, shape="N,5,6,3", given="uint8"), frames)


def weighted(kind: str, shapes: list[tuple[int, ...]], x: np.ndarray, **attributes: object) -> None:
    """One node with random weights, on `x`."""
    weights = [np.abs(RANDOM.normal(size=shape)).astype(np.float32) for shape in shapes]
    names = [f"w{number}" for number in range(len(weights))]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *x.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)],
    )
    agree(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]), x, atol=1e-4)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2], "pads": [0, 0, 1, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 1]},
        {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
        {"auto_pad": "VALID"},
        {"pads": [1, 1, 1, 1], "group": 2},
    ],
    ids=str,
)
def test_a_convolution_is_padded_as_onnx_says(attributes: dict[str, object]) -> None:
    weighted("Conv", [(6, 4 // int(attributes.get("group", 1)), 3, 3), (6,)], MAPS, **attributes)


def test_a_convolution_in_time_and_the_normalisations() -> None:
    weighted("Conv", [(5, 4, 3)], MAPS[:, :, 0], dilations=[2])
    weighted("BatchNormalization", [(4,)] * 4, MAPS, epsilon=1e-2)
    weighted("LayerNormalization", [(10,), (10,)], MAPS, epsilon=1e-2)
    weighted("Gemm", [(10, 3), (3,)], MAPS[0, 0], alpha=0.5, beta=2.0)
    weighted("Gemm", [(3, 10)], MAPS[0, 0], transB=1)
    weighted("PRelu", [(4, 1, 1)], MAPS)


RECURRENT = [
    ("LSTM", "forward", {}),
    ("LSTM", "reverse", {}),
    ("LSTM", "bidirectional", {}),
    ("LSTM", "bidirectional", {"activations": ["HardSigmoid", "Relu", "Tanh"] * 2}),
    ("LSTM", "reverse", {"activations": ["Sigmoid", "Relu", "Relu"]}),
    ("GRU", "forward", {"linear_before_reset": 1}),
    ("GRU", "bidirectional", {"linear_before_reset": 1}),
    ("GRU", "forward", {"linear_before_reset": 0}),
    ("GRU", "bidirectional", {"linear_before_reset": 0}),
    (
        "GRU",
        "reverse",
        {
            "linear_before_reset": 1,
            "activations": ["HardSigmoid", "Tanh"],
            "activation_alpha": [1 / 6, 0.0],
            "activation_beta": [0.5, 0.0],
        },
    ),
    ("RNN", "bidirectional", {}),
    ("RNN", "forward", {"activations": ["Relu"]}),
]


@pytest.mark.parametrize(("kind", "direction", "attributes"), RECURRENT, ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
def test_a_recurrence_gives_what_onnxruntime_gives(
    kind: str, direction: str, attributes: dict[str, object], biased: bool
) -> None:
    gates, units, width = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 5, 3
    directions = 2 if direction == "bidirectional" else 1
    shapes = [(directions, gates * units, width), (directions, gates * units, units), (directions, 2 * gates * units)]
    weights = [RANDOM.normal(size=shape).astype(np.float32) for shape in shapes[: 3 if biased else 2]]
    names = ["W", "R", "B"][: len(weights)]
    outputs = ["Y", "Y_h", "Y_c"] if kind == "LSTM" else ["Y", "Y_h"]
    node = helper.make_node(kind, ["x", *names], outputs, hidden_size=units, direction=direction, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    for steps, batch in ((1, 1), (6, 3)):
        agree(model, RANDOM.normal(size=(steps, batch, width)).astype(np.float32))


def test_weights_stored_as_halves_are_widened_once_when_the_graph_is_read() -> None:
    weight = RANDOM.normal(size=(10, 3)).astype(np.float16)
    model = parsed("w = Cast<to = 1>(h) y = MatMul(x, w)")
    model.graph.initializer.append(numpy_helper.from_array(weight, "h"))
    graph = TorchGraph(model.SerializeToString())
    assert [buffer.dtype for buffer in graph.buffers()] == [torch.float32]
    agree(model, MAPS)


def test_half_precision_computes_in_half_precision_and_answers_in_float() -> None:
    model = parsed("t = Constant<value = float {1.0}>() a = Add(x, t) y = Sub(a, t)")
    small = np.full((1, 4, 9, 10), 1e-4, np.float32)
    exact, rounded = (TorchGraph(model.SerializeToString(), dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact(torch.from_numpy(small))[0].mean() == pytest.approx(1e-4, rel=1e-2)
    answer = rounded(torch.from_numpy(small))[0]
    assert answer.dtype == torch.float32
    assert not answer.any(), "bfloat16 has no 1.0001"


@pytest.mark.parametrize("name", ["fight", "imagenet"])
def test_a_shipped_bundle_gives_its_golden_features_and_probabilities(name: str) -> None:
    bundle = open_bundle(SHIPPED / name)
    golden = bundle.golden()
    encoder, head = (TorchGraph(bundle.file(role).read_bytes()).eval() for role in ("encoder", "head"))
    frames = golden.frames.reshape(-1, *golden.frames.shape[2:])
    with torch.inference_mode():
        features = encoder(torch.from_numpy(frames))[0].reshape(*golden.frames.shape[:2], -1)
        answers = dict(zip(head.outputs, head(features), strict=True))
    np.testing.assert_allclose(features.numpy(), golden.features, atol=1e-4)
    np.testing.assert_allclose(answers["probabilities"].numpy(), golden.probabilities, atol=1e-5)


def test_an_operator_that_it_does_not_know_is_named() -> None:
    with pytest.raises(EngineError, match=r"does not know the operator Det"):
        TorchGraph(parsed("y = Det(x)", shape="N,4,4").SerializeToString())


def test_a_recurrence_of_given_lengths_is_refused() -> None:
    model = parsed("y, h, c = LSTM<hidden_size = 2>(x, w, r, , lengths)", shape="3,2,4")
    for name, array in {
        "w": np.zeros((1, 8, 4), np.float32),
        "r": np.zeros((1, 8, 2), np.float32),
        "lengths": np.array([1, 2], np.int32),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    with pytest.raises(EngineError, match=re.escape("from zero states over whole sequences")):
        TorchGraph(model.SerializeToString())
