"""A bundle to measure: ResNet50 (v1.5) at 224 and an LSTM of 512, with seeded random weights; TensorFlow is not needed.

    python -m tests.gpu.resnet_lstm OUT

Batch normalisation is folded away, as an export folds it, so the blocks' last convolutions are scaled down instead. The
INT8 encoder is made by the very code that marey-build uses, its ranges from synthetic clips. What it answers means nothing.
"""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.export.artifact import artifact
from models.export.runtime import Runtime
from models.quantize import CalibrationData, quantize_bundle
from models.synthetic import synthetic_clips
from service import __version__
from service.bundle.manifest import Golden, Input, Manifest, Network, Sampling
from service.bundle.store import Bundle, sha256, write_bundle

SIDE, FEATURES, UNITS, CLASSES, FRAMES = 224, 2048, 512, 101, 16
_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width and blocks; a block gives four times its width
_OPSET = 18


class _Graph:
    """Nodes and weights in the order in which they are added; each method returns the name of what it makes."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        return self.constant(name, (self._random.standard_normal(shape) * deviation).astype(np.float32))

    def node(self, kind: str, name: str, *inputs: str, out: str = "", **attributes: object) -> str:
        made = out or f"{name}:0"  # as marey-build names it; TensorRT renames nodes that are called as a tensor is
        self.nodes.append(helper.make_node(kind, list(inputs), [made], name=name, **attributes))
        return made

    def convolution(
        self, name: str, source: str, *, cin: int, cout: int, kernel: int, stride: int = 1, gain: float = 1.0
    ) -> str:
        """With He's deviation times `gain`, and small biases, as folded batch normalisation leaves them."""
        deviation = gain * np.sqrt(2 / (cin * kernel * kernel))
        weights = self.normal(f"{name}/W", (cout, cin, kernel, kernel), deviation)
        bias = self.normal(f"{name}/B", (cout,), 0.02)
        pads = [kernel // 2] * 4
        return self.node(
            "Conv", name, source, weights, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads
        )

    def model(self, name: str, source: onnx.ValueInfoProto, target: onnx.ValueInfoProto) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, [source], [target], self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="marey")
        made.ir_version = 8
        onnx.checker.check_model(made, full_check=True)
        return made


def encoder(seed: int = 0) -> onnx.ModelProto:
    """`frames` uint8 `[N, 224, 224, 3]` RGB → `features` float32 `[N, 2048]`; the stride is in the 3×3 convolution."""
    graph = _Graph(seed)
    means = np.array([123.675, 116.28, 103.53], np.float32)
    scale = np.array([1 / 58.395, 1 / 57.12, 1 / 57.375], np.float32)
    value = graph.node("Cast", "cast", "frames", to=TensorProto.FLOAT)
    value = graph.node("Sub", "centre", value, graph.constant("mean", means))
    value = graph.node("Mul", "scale", value, graph.constant("reciprocal", scale))
    value = graph.node("Transpose", "planes", value, perm=[0, 3, 1, 2])
    value = graph.convolution("conv1", value, cin=3, cout=64, kernel=7, stride=2)
    value = graph.node("Relu", "conv1/relu", value)
    value = graph.node("MaxPool", "pool1", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (width, blocks) in enumerate(_STAGES, start=2):
        for block in range(blocks):
            name, stride = f"conv{stage}_{block + 1}", 2 if stage > 2 and block == 0 else 1
            skip = value
            if block == 0:
                skip = graph.convolution(
                    f"{name}/skip", value, cin=channels, cout=4 * width, kernel=1, stride=stride, gain=0.7
                )
            value = graph.node(
                "Relu", f"{name}/relu1", graph.convolution(f"{name}/1", value, cin=channels, cout=width, kernel=1)
            )
            value = graph.convolution(f"{name}/2", value, cin=width, cout=width, kernel=3, stride=stride)
            value = graph.node("Relu", f"{name}/relu2", value)
            value = graph.convolution(f"{name}/3", value, cin=width, cout=4 * width, kernel=1, gain=0.5)
            value = graph.node("Relu", f"{name}/relu3", graph.node("Add", f"{name}/add", value, skip))
            channels = 4 * width
    value = graph.node("GlobalAveragePool", "pool", value)
    graph.node("Flatten", "features/flatten", value, out="features", axis=1)
    return graph.model(
        "encoder",
        helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", SIDE, SIDE, 3]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES]),
    )


def head(seed: int = 1) -> onnx.ModelProto:
    """`features` float32 `[B, T, 2048]` → `probabilities` `[B, 101]`: the last state of an LSTM, Dense, softmax."""
    graph = _Graph(seed)
    value = graph.node("Transpose", "time_first", "features", perm=[1, 0, 2])
    kernel = graph.normal("lstm/W", (1, 4 * UNITS, FEATURES), float(np.sqrt(1 / FEATURES)))
    recurrent = graph.normal("lstm/R", (1, 4 * UNITS, UNITS), float(np.sqrt(1 / UNITS)))
    bias = np.zeros((1, 8 * UNITS), np.float32)
    bias[:, 2 * UNITS : 3 * UNITS] = 1  # the forget gate, in ONNX's order i o f c
    node = helper.make_node(
        "LSTM",
        [value, kernel, recurrent, graph.constant("lstm/B", bias)],
        ["", "lstm:1"],
        name="lstm",
        hidden_size=UNITS,
    )
    graph.nodes.append(node)
    value = graph.node("Squeeze", "state", "lstm:1", graph.constant("direction", np.array([0], np.int64)))
    dense = graph.normal("dense/W", (UNITS, CLASSES), 0.15)
    value = graph.node("Gemm", "dense", value, dense, graph.constant("dense/B", np.zeros(CLASSES, np.float32)))
    graph.node("Softmax", "softmax", value, out="probabilities", axis=-1)
    return graph.model(
        "head",
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "T", FEATURES]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", CLASSES]),
    )


def make(out: Path) -> Bundle:
    """Write the bundle to `out`: float graphs, golden clips by onnxruntime, and the INT8 encoder. About a minute on two cores."""
    files = {"encoder.onnx": encoder().SerializeToString(), "head.onnx": head().SerializeToString()}
    files["golden.npz"] = _golden(files)
    manifest = Manifest(
        name="resnet50-lstm",
        version="1.0.0",
        description="ResNet50 and an LSTM of 512 with random weights, to be measured.",
        tasks=("video",),
        labels=tuple(f"class {number}" for number in range(CLASSES)),
        input=Input(height=SIDE, width=SIDE),
        sampling=Sampling(frames=FRAMES, max_frames=64),
        network=Network(feature_dim=FEATURES),
        artifacts={
            "encoder": artifact(files["encoder.onnx"], "encoder.onnx", precision="fp32", weights="float32"),
            "head": artifact(files["head.onnx"], "head.onnx", precision="fp32", weights="float32"),
        },
        golden=Golden(sha256=sha256(files["golden.npz"]), tolerance={"fp32": 1e-3, "fp16": 2e-2}),
    )
    bundle = write_bundle(out, manifest, files)
    frames = synthetic_clips(count=32, frames=1, height=SIDE, width=SIDE, channels=3, seed=5)[:, 0]
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    data = CalibrationData(f"synthetic clips, Marey {__version__}, seed 5", digest)
    return quantize_bundle(bundle, frames=frames, calibration=data)


def _golden(files: dict[str, bytes]) -> bytes:
    """`golden.npz` with onnxruntime's answers to three synthetic clips."""
    clips = synthetic_clips(count=3, frames=4, height=SIDE, width=SIDE, channels=3, seed=0)
    run_encoder, run_head = Runtime(files["encoder.onnx"]), Runtime(files["head.onnx"])
    features = run_encoder(clips.reshape(-1, SIDE, SIDE, 3))["features"].reshape(3, 4, FEATURES)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, frames=clips, features=features, probabilities=run_head(features)["probabilities"])
    return buffer.getvalue()


if __name__ == "__main__":
    made = make(Path(sys.argv[1]))
    print(f"{made.path}: golden tolerances {made.manifest.golden.tolerance}")  # noqa: T201  # it is a command
