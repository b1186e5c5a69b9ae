"""Cut a user's own ONNX graph in two where its CNN ends, as `split_model` cuts a Keras model.

PyTorch's CNN-LSTM folds time into the batch, `x.view(b * t, c, h, w)`, runs the CNN, and unfolds `[b, t, d]`: what lies between the
two Reshapes is the encoder. An image network is cut before its last Gemm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from models.export.from_onnx.file import Layout, OnnxFile
from models.export.runtime import Runtime

_SCORES = {"Softmax", "Sigmoid"}


@dataclass(frozen=True, slots=True)
class Cut:
    """Nodes of the encoder, from tensor `frames` in `layout` to `features`, and of the head, from `sequence` to the outputs.

    `sequence` is `features` where the network is for single images, and the same `[B, T, D]` where it is for clips.

    The names are those of the user's graph. Both parts may ask for the `Shape` of the user's input `clips`.
    """

    encoder: tuple[onnx.NodeProto, ...]
    frames: str
    layout: Layout
    features: str
    sequence: str
    head: tuple[onnx.NodeProto, ...]


def cut_clips(file: OnnxFile) -> Cut | None:
    """The cut between the Reshapes that fold and unfold time; None where there are none, or frames pass by beside them."""
    nodes, outputs = list(file.model.graph.node), [value.name for value in file.model.graph.output]
    fold = _fold(nodes, file)
    if fold is None:
        return None
    entry, layout = fold
    inside = reached(nodes, entry.output)
    candidates = [node for node in nodes if node.op_type == "Reshape" and node.input[0] in inside]
    for unfold in _that_unfold(file, candidates):
        features, sequence = unfold.input[0], unfold.output[0]
        encoder = needed(nodes, targets=[features], given={entry.output[0], file.input})
        head = needed(nodes, targets=outputs, given={sequence, file.input})
        if entry not in head and all(_only_asks_shape(part, file.input) for part in (encoder, head)):
            return Cut(tuple(encoder), entry.output[0], layout, features, sequence, tuple(head))
    return None


def cut_image(file: OnnxFile) -> Cut:
    """The cut before the last Gemm of an image network, or at its scores where it does not end in one."""
    nodes, (output, *_) = list(file.model.graph.node), [value.name for value in file.model.graph.output]
    assert file.layout in ("NCHW", "NHWC")
    makers = {name: node for node in nodes for name in node.output}
    features, maker = output, makers.get(output)
    if maker is not None and maker.op_type in _SCORES:
        features = maker.input[0]
        maker = makers.get(features)
    if maker is not None and maker.op_type == "Gemm" and maker.input[0] in makers:
        features = maker.input[0]
    encoder = needed(nodes, targets=[features], given={file.input})
    head = needed(nodes, targets=[output], given={features})
    if file.input in {name for node in head for name in node.input}:
        encoder, head, features = nodes, [], output
    return Cut(tuple(encoder), file.input, file.layout, features, features, tuple(head))


def needed(nodes: Sequence[onnx.NodeProto], *, targets: Iterable[str], given: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes that make `targets` out of tensors that are `given`, in order."""
    wanted, found = set(targets) - set(given), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(name for name in node.input if name not in given)
    return found[::-1]


def reached(nodes: Sequence[onnx.NodeProto], sources: Iterable[str]) -> set[str]:
    """The tensors that depend on `sources`, and these."""
    found = set(sources)
    for node in nodes:
        if found.intersection(node.input):
            found.update(node.output)
    return found


def _fold(nodes: Sequence[onnx.NodeProto], file: OnnxFile) -> tuple[onnx.NodeProto, Layout] | None:
    """The Reshape that takes the clips, perhaps turned within a frame, to single frames; and how those lie."""
    tensor, letters = file.input, list(file.layout or "")
    while len(readers := [node for node in nodes if tensor in node.input and node.op_type != "Shape"]) == 1:
        (node,) = readers
        if node.op_type == "Transpose":
            order = list(helper.get_node_attr_value(node, "perm"))
            tensor, letters = node.output[0], [letters[axis] for axis in order]
        elif node.op_type == "Reshape" and node.input[0] == tensor:
            layout: Layout | None = {"BTCHW": "NCHW", "BTHWC": "NHWC"}.get("".join(letters))  # type: ignore[assignment]
            return (node, layout) if layout else None
        else:
            return None
    return None


def _that_unfold(file: OnnxFile, candidates: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Those that take `[B·T, …]` to `[B, T, D]`, found by running the graph."""
    found, sizes = run_shapes(file, {name for node in candidates for name in (node.input[0], node.output[0])})
    return [
        node
        for node in candidates
        if found[node.input[0]][0] == sizes["B"] * sizes["T"]
        and len(found[node.output[0]]) == 3
        and found[node.output[0]][:2] == (sizes["B"], sizes["T"])
    ]


def run_shapes(file: OnnxFile, names: Collection[str]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shapes of tensors when the graph is run, and the sizes of the input's axes then; two clips of three where it may be so."""
    probe = onnx.ModelProto.FromString(file.model.SerializeToString())
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names) if name not in known)
    free = {"N": 2, "B": 2, "T": 3}
    sizes = {letter: size or free[letter] for letter, size in zip(file.layout or "BTD", file.shape, strict=True)}
    arrays = Runtime(probe)(np.zeros(list(sizes.values()), np.float32))
    return {name: arrays[name].shape for name in names}, sizes


def _only_asks_shape(nodes: Iterable[onnx.NodeProto], name: str) -> bool:
    return all(node.op_type == "Shape" for node in nodes if name in node.input)
