"""An exported graph in half precision, as strongly typed TensorRT networks want it: the types are in the graph, not in a flag.

Inputs and outputs keep their types, with casts at the border. In a graph with Q/DQ the scales, and so what DequantizeLinear
gives, become half where their products do: convolutions stay INT8, what surrounds them is half (Note [half scales]).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.fp16_rules import SMALLEST_SCALE, half_nodes
from service.errors import EngineError, EngineUnavailable

_FLOAT, _HALF = 1, 10  # onnx.TensorProto.FLOAT, FLOAT16
_DOMAINS = {"", "ai.onnx"}
_QDQ = {"QuantizeLinear", "DequantizeLinear"}
# The oldest opset whose QuantizeLinear and DequantizeLinear know half, and the IR version that it came with.
_QDQ_OPSET, _QDQ_IR = 19, 9

# Note [half scales]
# DequantizeLinear gives the type of its scale, so half convolutions need half scales, or casts behind float32 ones.
# TensorRT-RTX 1.7.1 builds the same INT8 kernels for both (all 49 convolutions of `imagenet`), and of half scales warns that it
# converts them back to float32: what is lost is their rounding, 1 part in 2048. The full library matches patterns of Q/DQ
# around a product, in which its maker's own tools write half scales and no Cast; and `output_dtype` of opset 23, the third
# way, one published parser takes for a contradiction of the zero-point. Hence half scales.
# Half holds no scale below 2^-24, TensorRT refuses one of 0, and half the convolutions of `imagenet` have a channel that
# training let die, with scales down to 1e-9: such weights are quantized anew to 2^-17, which moves them by 4e-6 at most.
# A scale for a whole tensor must be a scalar. Of shape [1], TensorRT-RTX silently runs its convolution in float.


def to_fp16(model: bytes) -> bytes:
    """The ONNX graph `model` (float32, or INT8 with explicit Q/DQ) in half precision; the same model gives the same bytes.

    What half cannot hold or sum stays float32 (`fp16_rules`). Raises EngineError with the node that cannot be cast, and
    EngineUnavailable without the onnx package.
    """
    try:
        import onnx  # noqa: PLC0415  # of the extra [gpu]; the service itself does without it
    except ImportError:
        raise EngineUnavailable(
            "casting to FP16 needs the onnx package, which is not installed; run make gpu in a checkout, or pip install onnx"
        ) from None
    proto = _read(onnx, model)
    _Cast(onnx, proto).run()
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(
            f"the graph is not valid in half precision ({_line(error)}); use --precision fp32, and report this"
        ) from error
    return bytes(proto.SerializeToString(deterministic=True))


def _read(onnx: ModuleType, model: bytes) -> Any:
    """The parsed model, all nodes of ONNX's own and without subgraphs, in an opset where Q/DQ may be half."""
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's exceptions differ by its implementation
        raise EngineError(f"the graph is no ONNX model ({_line(error)}); export the bundle again") from error
    for node in proto.graph.node:
        if node.domain not in _DOMAINS or not onnx.defs.has(node.op_type):
            raise EngineError(
                f"node {node.name!r} is {node.domain or 'ai.onnx'}::{node.op_type}, which ONNX does not define; "
                "export the bundle again without it, or use --precision fp32"
            )
        if any(part.HasField("g") or part.graphs for part in node.attribute):
            raise EngineError(
                f"node {node.name!r} is control flow ({node.op_type}), which cannot be cast to half; "
                "export the bundle again with marey-build, which writes none, or use --precision fp32"
            )
    opset = next(entry for entry in proto.opset_import if entry.domain in _DOMAINS)
    if opset.version < _QDQ_OPSET and any(node.op_type in _QDQ for node in proto.graph.node):
        try:
            proto = onnx.version_converter.convert_version(proto, _QDQ_OPSET)
        except Exception as error:  # its C++ exceptions share no base class but this
            raise EngineError(
                f"the graph cannot be raised from opset {opset.version} to {_QDQ_OPSET}, where half-precision Q/DQ begins "
                f"({_line(error)}); export the bundle again, or use --precision fp32"
            ) from error
        proto.ir_version = max(proto.ir_version, _QDQ_IR)
    return proto


def _constants(onnx: ModuleType, graph: Any) -> dict[str, NDArray[Any]]:
    """Take every constant out of the graph, by name; weights that were stored as half with a Cast are plain float32 again."""
    found: dict[str, NDArray[Any]] = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Constant" and node.attribute[0].name in ("value_float", "value_floats"):
            value = onnx.helper.get_attribute_value(node.attribute[0])
            found[node.output[0]] = np.asarray(value, np.float32)
        elif _widens(node, found):
            found[node.output[0]] = found[node.input[0]].astype(np.float32)
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    given = {value.name for value in graph.output}.intersection(found)
    if given:
        raise EngineError(f"output {min(given)!r} of the graph is a constant; export the bundle again")
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    return found


def _widens(node: Any, constants: dict[str, NDArray[Any]]) -> bool:
    stored = constants.get(node.input[0]) if node.op_type == "Cast" else None
    return stored is not None and stored.dtype == np.float16 and _attribute(node, "to", 0) == _FLOAT


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(part.i) for part in node.attribute if part.name == name), default)


class _Cast:
    """Rewrites the nodes of one graph in their order; every tensor is had in the type that its reader wants."""

    def __init__(self, onnx: ModuleType, proto: Any) -> None:
        self._onnx, self._graph = onnx, proto.graph
        self._opset = next(entry.version for entry in proto.opset_import if entry.domain in _DOMAINS)
        self._floats = _float_tensors(onnx, proto)
        self._constants = _constants(onnx, self._graph)
        self._results = {value.name for value in self._graph.output}
        self._nodes: list[Any] = []
        self._stored: dict[str, Any] = {}
        self._pairs: dict[
            str, Any
        ] = {}  # DequantizeLinear by what it gives: written where it is read, in the reader's type
        # A tensor's name as float32 (False) and as half (True).
        self._had: dict[tuple[str, bool], str] = {(value.name, False): value.name for value in self._graph.input}

    def run(self) -> None:
        graph, nodes = self._graph, list(self._graph.node)
        for node in nodes:
            if node.op_type in _QDQ and not self._constants.keys() >= set(node.input[1:]):
                raise EngineError(
                    f"{node.op_type} {node.name!r} has a scale that is computed; quantize the bundle again with marey-build"
                )
        half = half_nodes(
            nodes,
            self._constants,
            floats=self._floats,
            results=self._results,
            takes=lambda node: bool(self._kinds(node)),
        )
        for place, node in enumerate(nodes):
            if node.op_type == "DequantizeLinear":
                self._pairs[node.output[0]] = node
            else:
                self._rewrite(node, half=place in half)
        for name in sorted(self._results.intersection(self._pairs)):
            self._as(name, half=False)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._stored[name] for name in sorted(self._stored))

    def _rewrite(self, node: Any, *, half: bool) -> None:
        copy = self._onnx.NodeProto.FromString(node.SerializeToString())
        kinds = self._kinds(node) if half else set()
        for slot, name in enumerate(node.input):
            if name in self._floats:
                copy.input[slot] = self._as(name, half=self._kind(node, slot) in kinds)
            elif name:
                copy.input[slot] = self._store(name, self._constants[name]) if name in self._constants else name
        self._nodes.append(copy)
        for slot, name in enumerate(node.output):
            turned = name in self._floats and self._kind(node, slot, output=True) in kinds
            self._had[name, turned] = name
            if turned and name in self._results:  # which the graph gives as float32: half goes by another name
                self._had[name, True] = copy.output[slot] = f"{name}/float16"
                self._had[name, False] = self._cast(f"{name}/float16", name, to=_FLOAT)

    def _as(self, name: str, *, half: bool) -> str:
        """The name of what was the float32 tensor `name`, in the type that is wanted; it is made where it was not."""
        if (name, half) in self._had:
            return self._had[name, half]
        made = f"{name}/float16" if half else name
        if name in self._pairs:
            self._dequantize(self._pairs[name], made, half=half)
        elif name in self._constants:
            made = self._store(made, self._constants[name].astype(np.float16 if half else np.float32))
        else:
            made = f"{name}/float{16 if half else 32}"
            self._cast(self._had[name, not half], made, to=_HALF if half else _FLOAT)
        self._had[name, half] = made
        return made

    def _dequantize(self, node: Any, target: str, *, half: bool) -> None:
        copy = self._onnx.NodeProto.FromString(node.SerializeToString())
        source, scale = node.input[0], self._constants[node.input[1]]
        if half:
            copy.name = f"{node.name}/float16"
            raised = np.maximum(scale, np.float32(SMALLEST_SCALE))
            copy.input[1] = self._store(f"{node.input[1]}/float16", raised.astype(np.float16))
            if source in self._constants and not np.array_equal(raised, scale):
                weights = _requantized(self._constants[source], scale / raised, axis=_attribute(node, "axis", 1))
                copy.input[0] = source = self._store(f"{node.name}/weights", weights)
        for name in copy.input:
            if name in self._constants:
                self._store(name, self._constants[name])
        copy.output[0] = target
        self._nodes.append(copy)

    def _cast(self, source: str, target: str, *, to: int) -> str:
        self._nodes.append(self._onnx.helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=to))
        return target

    def _store(self, name: str, array: NDArray[Any]) -> str:
        if name not in self._stored:
            self._stored[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def _kind(self, node: Any, slot: int, *, output: bool = False) -> str:
        """The type variable of one input or output, such as T1."""
        schema = self._onnx.defs.get_schema(node.op_type, self._opset)
        formal = schema.outputs if output else schema.inputs
        return str(formal[min(slot, len(formal) - 1)].type_str)  # the last may stand for any number

    def _kinds(self, node: Any) -> set[str]:
        """The type variables that are float32 now and that ONNX allows to be half."""
        schema = self._onnx.defs.get_schema(node.op_type, self._opset)
        allowed = {
            each.type_param_str for each in schema.type_constraints if "tensor(float16)" in each.allowed_type_strs
        }
        return allowed.intersection(
            self._kind(node, slot) for slot, name in enumerate(node.input) if name in self._floats
        )


def _float_tensors(onnx: ModuleType, proto: Any) -> set[str]:
    """The names of all tensors that are float32."""
    try:
        graph = onnx.shape_inference.infer_shapes(proto, check_type=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise EngineError(f"the graph's types do not fit ({_line(error)}); export the bundle again") from error
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if any(name and not types.get(name) for name in node.output):
            raise EngineError(
                f"ONNX cannot tell the type of what node {node.name!r} ({node.op_type}) gives; use --precision fp32"
            )
    return {name for name, kind in types.items() if kind == _FLOAT}


def _requantized(weights: NDArray[np.int8], ratio: NDArray[np.float32], *, axis: int) -> NDArray[np.int8]:
    """INT8 `weights` for scales that are 1 / `ratio` times as large, `ratio` being one number or one per index of `axis`."""
    shape = [1] * weights.ndim
    if ratio.size > 1:
        shape[axis] = ratio.size
    larger: NDArray[np.int8] = np.rint(weights * ratio.reshape(shape)).astype(np.int8)
    return larger


def _line(error: object) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
