"""Graphs of a bundle around the nodes of a user's own: bytes in, normalised and turned to the user's layout, probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.export.from_onnx.cut import Cut
from models.export.from_onnx.file import TURN, Layout, OnnxFile
from models.export.from_onnx.reference import Ending
from models.export.graphs.finish import finish, rename
from models.export.normalization import Normalization

_FLOAT, _BYTE = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


@dataclass(slots=True)
class _Graph:
    """Nodes in their order; constants of ours beside those of the user."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"marey/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: NDArray[Any] | Sequence[int]) -> str:
        """Lists are axes, shapes and indices: int64."""
        name = f"marey/constant_{len(self.constants)}"
        values = array.astype(np.float32) if isinstance(array, np.ndarray) else np.asarray(array, np.int64)
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def encoder_graph(file: OnnxFile, cut: Cut, *, normalization: Normalization, feature_dim: int) -> onnx.ModelProto:
    """`frames` uint8 `[N, H, W, C]` → `features` float32 `[N, D]`."""
    graph = _Graph()
    turned = _entrance(graph, "frames", cut.layout, normalization)
    graph.add("Identity", [turned], cut.frames)
    # Each frame is a clip of one: what the CNN asks of the clips' shape comes out right then.
    _answer_shape(
        graph, cut.encoder, file.input, lead=[_sizes(graph, "frames", 0, 1), graph.constant([1])], frame=_frame(file)
    )
    rows = graph.add("Reshape", [cut.features, graph.constant([-1, feature_dim])])
    graph.add("Identity", [rows], "features")
    height, width, channels = file.frame_shape
    return _model(
        graph,
        file,
        [("frames", _BYTE, ["N", height, width, channels])],
        [("features", ["N", feature_dim])],
        name="encoder",
    )


def head_graph(
    file: OnnxFile, cut: Cut, *, clips: OnnxFile, feature_dim: int, frames: int | None, ending: Ending
) -> onnx.ModelProto:
    """`features` float32 `[B, T, D]` → `probabilities` `[B, K]`. `file` holds the head, `clips` is the network that takes the clips."""
    graph = _Graph()
    if ending.averages:  # nodes for single rows: the frames of all clips pass as one batch
        graph.add("Reshape", ["features", graph.constant([-1, feature_dim])], cut.sequence)
    else:
        graph.add("Identity", ["features"], cut.sequence)
    _answer_shape(graph, cut.head, clips.input, lead=[_sizes(graph, "features", 0, 2)], frame=_frame(clips))
    _exit(graph, ending, over="features")
    return _model(
        graph,
        file,
        [("features", _FLOAT, ["B", frames or "T", feature_dim])],
        [("probabilities", ["B", ending.classes])],
        name="head",
    )


def clip_graph(file: OnnxFile, *, normalization: Normalization, frames: int | None, ending: Ending) -> onnx.ModelProto:
    """`clips` uint8 `[B, T, H, W, C]` → `probabilities` `[B, K]`."""
    assert file.layout is not None
    graph = _Graph()
    graph.add("Identity", [_entrance(graph, "clips", file.layout, normalization)], file.input)
    graph.nodes.extend(file.model.graph.node)
    _exit(graph, ending, over="clips")
    height, width, channels = file.frame_shape
    return _model(
        graph,
        file,
        [("clips", _BYTE, ["B", frames or "T", height, width, channels])],
        [("probabilities", ["B", ending.classes])],
        name="clip",
    )


def _entrance(graph: _Graph, source: str, layout: Layout, normalization: Normalization) -> str:
    """From bytes with the channels last to normalised float32 in the user's layout."""
    order = TURN[layout]
    name = graph.add("Cast", [source], to=_FLOAT)
    if normalization.color == "bgr":
        name = graph.add("Gather", [name, graph.constant([2, 1, 0])], axis=len(order) - 1)
    if set(normalization.mean) != {0.0} or set(normalization.std) != {1.0}:
        mean, std = np.array(normalization.mean), np.array(normalization.std)
        name = graph.add("Mul", [name, graph.constant(1 / std)])
        name = graph.add("Add", [name, graph.constant(-mean / std)])
    return name if order == tuple(range(len(order))) else graph.add("Transpose", [name], perm=list(order))


def _exit(graph: _Graph, ending: Ending, *, over: str) -> None:
    rows = ending.scores
    if ending.added in ("softmax", "sigmoid"):
        rows = graph.add("Softmax", [rows], axis=-1) if ending.added == "softmax" else graph.add("Sigmoid", [rows])
    if ending.width == 1:
        other = graph.add("Sub", [graph.constant(np.ones(1)), rows])
        rows = graph.add("Concat", [other, rows], axis=-1)
    if ending.averages:
        shape = graph.add("Concat", [_sizes(graph, over, 0, 2), graph.constant([ending.classes])], axis=0)
        rows = graph.add("ReduceMean", [graph.add("Reshape", [rows, shape]), graph.constant([1])], keepdims=0)
    graph.add("Identity", [rows], "probabilities")


def _sizes(graph: _Graph, tensor: str, start: int, end: int) -> str:
    return graph.add("Shape", [tensor], start=start, end=end)


def _frame(file: OnnxFile) -> list[int | None]:
    """The shape of a frame in the user's layout."""
    return [size for letter, size in zip(file.layout or "", file.shape, strict=True) if letter not in "NBT"]


def _answer_shape(
    graph: _Graph, nodes: Iterable[onnx.NodeProto], clips: str, *, lead: Sequence[str], frame: Sequence[int | None]
) -> None:
    """Append `nodes`; where they ask for the shape of the clips, which this graph does not see, `lead` and `frame` answer."""
    shape = ""
    for node in nodes:
        if node.op_type != "Shape" or node.input[0] != clips:
            graph.nodes.append(node)
            continue
        shape = shape or graph.add("Concat", [*lead, graph.constant([size or 0 for size in frame])], axis=0)
        given = {part.name: part.i for part in node.attribute}
        bounds = [graph.constant([given.get("start", 0)]), graph.constant([given.get("end", np.iinfo(np.int32).max)])]
        graph.add("Slice", [shape, *bounds], node.output[0])


def _model(
    graph: _Graph,
    file: OnnxFile,
    inputs: Sequence[tuple[str, int, list[Any]]],
    outputs: Sequence[tuple[str, list[Any]]],
    *,
    name: str,
) -> onnx.ModelProto:
    import onnxslim  # noqa: PLC0415 -- takes a second to import, and only an export needs it

    proto = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, _FLOAT, shape) for name, shape in outputs],
        [*file.model.graph.initializer, *graph.constants],
    )
    model = onnxslim.slim(helper.make_model(proto, opset_imports=file.model.opset_import))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, _FLOAT, shape) for name, shape in outputs)
    model.graph.name = name
    rename(model, layers=_modules(file))
    return finish(model)


def _modules(file: OnnxFile) -> set[str]:
    """PyTorch names a node by its module, `/cnn/cnn.0/Conv`: the module is what its owner knows it by."""
    paths = [node.name.split("/") for node in file.model.graph.node]
    return {path[-2] for path in paths if len(path) > 1 and path[-2]}
