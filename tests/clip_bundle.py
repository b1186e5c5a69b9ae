"""A bundle of one clip network, small enough to be computed by NumPy: a Conv3D that sees colours, and how they change.

Its features of each frame are the mean red, green and blue, and how much blue came and went between the frames beside it; so
the order of frames matters, which no average over frames can tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle.manifest import Artifact, Golden, Input, Manifest, Network, Precision, Role, Sampling, Tensor
from service.bundle.store import Bundle, sha256, write_bundle

SIDE = 16
LABELS = ("red", "green", "blue", "turns blue", "was blue")
_KERNEL = np.zeros((5, 3, 3, 3, 3), np.float32)  # [features, colours, time, height, width]
for _color in range(3):
    _KERNEL[_color, _color, 1, 1, 1] = 1
_KERNEL[3, 2, [0, 2]] = np.array([-1, 1], np.float32)[:, None, None] / 9
_KERNEL[4] = -_KERNEL[3]
_DENSE = np.diag(np.array([8, 8, 8, 24, 24], np.float32))

Where = Literal["steps", "places"]
Channels = Literal[3, 4]


def said(clips: NDArray[np.uint8], *, where: Where = "steps") -> dict[str, NDArray[np.float32]]:
    """What the network answers to `clips` `[B, T, 16, 16, 3]`, by NumPy."""
    values = np.pad(clips.astype(np.float64) / 255, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(values, (3, 3, 3), axis=(1, 2, 3))
    maps = np.maximum(np.einsum("bthwcijk,fcijk->bthwf", seen, _KERNEL), 0)
    steps = maps.mean(axis=(2, 3))
    places = maps.reshape(len(maps), -1, 2, SIDE // 2, 2, SIDE // 2, 5).mean(axis=(1, 3, 5)).reshape(len(maps), 4, 5)
    answers = {
        "probabilities": _softmax(steps.mean(axis=1) @ _DENSE),
        "attention": _softmax(steps.sum(axis=2)),
        "positions": _softmax((steps if where == "steps" else places) @ _DENSE),
    }
    return {name: array.astype(np.float32) for name, array in answers.items()}


def make_clip_bundle(
    path: Path,
    *,
    frames: int | None = None,
    attention: bool = True,
    positions: Where | None = None,
    int8: Channels | None = None,
    **changes: object,
) -> Bundle:
    """Write the bundle to `path`. `frames`: the static T, else it is dynamic; `changes` replace fields of its manifest.

    `int8`: the input channels of the INT8 convolution; of 3, OpenVINO gives wrong numbers for one frame on some CPUs.
    """
    graphs: dict[Role, onnx.ModelProto] = {"clip": _graph(frames, attention=attention, positions=positions)}
    if int8:
        graphs["clip.int8"] = _graph(frames, attention=attention, positions=positions, int8=int8)
    files = {f"{role}.onnx": graph.SerializeToString() for role, graph in graphs.items()}
    golden = np.random.default_rng(7).integers(0, 60, (3, frames or 4, SIDE, SIDE, 3), np.uint8)
    for number in range(3):
        golden[number, ..., number] += 180
    golden[2, : golden.shape[1] // 2, ..., 2] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f"{path.name}.npz"
    np.savez_compressed(scratch, frames=golden, probabilities=said(golden)["probabilities"])
    files["golden.npz"] = scratch.read_bytes()
    scratch.unlink()
    fields: dict[str, object] = {
        "name": "motion",
        "version": "1.0.0",
        "tasks": ("video",) if frames else ("image", "video"),
        "labels": LABELS,
        "input": Input(height=SIDE, width=SIDE),
        "sampling": Sampling(frames=frames or 4, max_frames=frames or 8, short_clip="repeat" if frames else "as_is"),
        "network": Network(kind="clip", static_frames=frames, attention=attention, positions=positions is not None),
        "artifacts": {role: _artifact(role, files[f"{role}.onnx"], graph) for role, graph in graphs.items()},
        "golden": Golden(sha256=sha256(files["golden.npz"]), tolerance={"fp32": 1e-4, "fp16": 5e-3, "int8": 0.05}),
    }
    return write_bundle(path, Manifest(**{**fields, **changes}), files)  # type: ignore[arg-type]


def _graph(
    frames: int | None, *, attention: bool, positions: Where | None, int8: Channels | None = None
) -> onnx.ModelProto:
    length: int | str = frames or "T"
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.generic]] = {}

    def constant(name: str, values: object, kind: type = np.float32) -> str:
        weights[name] = np.array(values, kind)
        return name

    def node(kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        name = f"{kind.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [out or f"{name}:0"], name=name, **attributes))
        return nodes[-1].output[0]

    def softmax(features: str, out: str) -> str:
        return node("Softmax", node("MatMul", features, constant(f"dense_{out}", _DENSE)), out=out, axis=-1)

    values = node("Div", node("Cast", "clips", to=TensorProto.FLOAT), constant("scale", 255))
    planes = node("Transpose", values, perm=[0, 4, 1, 2, 3])
    if int8:
        more = int8 - 3
        if more:
            planes = node("Pad", planes, constant("more", [0, 0, 0, 0, 0, 0, more, 0, 0, 0], np.int64))
        ends = (constant("step", 1 / 127), constant("zero", 0, np.int8))
        planes = node("DequantizeLinear", node("QuantizeLinear", planes, *ends), *ends)
        scales = np.abs(_KERNEL).max(axis=(1, 2, 3, 4)) / 127
        rounded = np.round(_KERNEL / scales[:, None, None, None, None])
        stored = constant("kernel", np.pad(rounded, ((0, 0), (0, more), (0, 0), (0, 0), (0, 0))), np.int8)
        zeros = constant("zeros", np.zeros(5), np.int8)
        kernel = node("DequantizeLinear", stored, constant("scales", scales), zeros, axis=0)
    else:
        kernel = constant("kernel", _KERNEL)
    maps = node("Relu", node("Conv", planes, kernel, kernel_shape=[3, 3, 3], pads=[1] * 6))
    space, time = constant("space", [3, 4], np.int64), constant("time", [1], np.int64)
    steps = node("Transpose", node("ReduceMean", maps, space, keepdims=0), perm=[0, 2, 1])
    softmax(node("ReduceMean", steps, time, keepdims=0), "probabilities")
    outputs: dict[str, list[int | str]] = {"probabilities": ["B", len(LABELS)]}
    if attention:
        node("Softmax", node("ReduceSum", steps, constant("features", [2], np.int64), keepdims=0), out="attention")
        outputs["attention"] = ["B", length]
    if positions == "steps":
        softmax(steps, "positions")
        outputs["positions"] = ["B", length, len(LABELS)]
    elif positions == "places":
        frame = node("ReduceMean", maps, constant("depth", [2], np.int64), keepdims=0)
        blocks = node("AveragePool", frame, kernel_shape=[SIDE // 2] * 2, strides=[SIDE // 2] * 2)
        flat = node("Reshape", blocks, constant("flat", [0, 5, 4], np.int64))
        softmax(node("Transpose", flat, perm=[0, 2, 1]), "positions")
        outputs["positions"] = ["B", 4, len(LABELS)]
    graph = helper.make_graph(
        nodes,
        "clip",
        [helper.make_tensor_value_info("clips", TensorProto.UINT8, ["B", length, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _artifact(role: Role, data: bytes, model: onnx.ModelProto) -> Artifact:
    precision: Precision = "int8" if role.endswith("int8") else "fp32"
    return Artifact(
        file=f"{role}.onnx",
        sha256=sha256(data),
        bytes=len(data),
        precision=precision,
        weights="int8" if precision == "int8" else "float32",
        opset=18,
        inputs=(_tensor(model.graph.input[0], "uint8"),),
        outputs=tuple(_tensor(value, "float32") for value in model.graph.output),
    )


def _tensor(value: onnx.ValueInfoProto, dtype: str) -> Tensor:
    shape = tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
    return Tensor(name=value.name, dtype=dtype, shape=shape)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
