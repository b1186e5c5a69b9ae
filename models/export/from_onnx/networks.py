"""Networks out of a user's own ONNX, from PyTorch or elsewhere: the same bytes in, the same checks, the same bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from models.errors import ExportRefused
from models.export.from_onnx.assemble import clip_graph, encoder_graph, head_graph
from models.export.from_onnx.cut import Cut, cut_clips, cut_image, run_shapes
from models.export.from_onnx.file import PREFIX, OnnxFile
from models.export.from_onnx.reference import Ending, OnnxReference, rounded
from models.export.golden import synthetic_answers
from models.export.half import halve
from models.export.model.outputs import Activation, missing_activation
from models.export.networks import Networks, Weights
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from models.export.split.networks import same_color
from models.export.split.parity import LIMIT
from models.synthetic import synthetic_clips
from service.bundle.manifest import Input, Network, Role

# (B, T) at which the bundle's graphs are compared with the user's own.
_SHAPES = ((1, 1), (2, 7), (3, 16))
_IDLE = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_ACTIVATIONS: Mapping[str, Activation] = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True, slots=True)
class _User:
    """The user's files and how they were fed: one network, or an encoder and the head over its features."""

    file: OnnxFile
    head: OnnxFile | None
    normalization: Normalization
    ending: Ending

    @property
    def files(self) -> tuple[OnnxFile, ...]:
        return (self.file,) if self.head is None else (self.file, self.head)

    @property
    def frames(self) -> int | None:
        """T where it is fixed."""
        return self.file.frames if self.head is None else self.head.shape[1]

    def reference(self) -> OnnxReference:
        return OnnxReference(self.file, self.head, normalization=self.normalization, ending=self.ending)


def onnx_networks(
    file: OnnxFile,
    *,
    input: Input,  # noqa: A002 -- the manifest's own word
    normalization: Normalization,
    head: OnnxFile | None = None,
    activation: Activation | None = None,
    weights: Weights = "float32",
    frames: int = 16,
    seed: int = 0,
) -> Networks:
    """The networks of the graph in `file`, or of the encoder there and the `head` in another; raises ExportRefused.

    A network of clips is cut where its CNN ends, as PyTorch folds and unfolds time; one that does not fold time stays whole, a clip
    network. One of single images is averaged over the frames. Equal to the user's graphs within 1e-4 in probability.
    """
    same_color(input, normalization)
    user, found = _user(file, head, input=input, normalization=normalization, activation=activation)
    rounding = None
    if weights == "float16":
        plain, count = user.reference(), user.frames or 3
        user = replace(user, file=rounded(user.file), head=None if user.head is None else rounded(user.head))
        before, after = (
            synthetic_answers(each, count=3, frames=count, seed=seed) for each in (plain, user.reference())
        )
        rounding = float(np.abs(after.probabilities - before.probabilities).max())
    reference = user.reference()
    graphs, fixed, parity = _graphs(user, reference, halves=weights == "float16", frames=frames, seed=seed)
    split = "encoder" in graphs
    if split:
        reference.encoder = Runtime(graphs["encoder"])
    report: dict[str, Any] = {
        "source": "video" if user.file.takes_clips or head else "image",
        "from_onnx": [
            {"file": each.name, "producer": each.model.producer_name, "layout": each.layout} for each in user.files
        ],
        "normalization": normalization.entry(),
        "weights": weights,
        "rounding_shift": rounding,
        "parity": parity,
    }
    ends_in = user.ending.added or found
    network = Network(
        kind="encoder_head" if split else "clip",
        feature_dim=_width(graphs["encoder"]) if split else None,
        static_frames=fixed,
        multi_label=ends_in == "sigmoid" and user.ending.width > 1,
    )
    return Networks(graphs, network, user.ending.classes, ends_in, report["source"], reference, report, weights)


def _user(
    file: OnnxFile,
    head: OnnxFile | None,
    *,
    input: Input,  # noqa: A002 -- the manifest's own word
    normalization: Normalization,
    activation: Activation | None,
) -> tuple[_User, Activation]:
    """Files that fit each other and the input, and the activation that they end in."""
    if file.layout is None:
        raise ExportRefused(
            f"{file.name} takes features, which is what a head does; give the network of frames with --from-onnx, and this one with --head"
        )
    if file.frame_shape[2] != input.channels:
        raise ExportRefused(
            f"{file.name} takes frames of {file.frame_shape[2]} channels, {input.color} frames have {input.channels}; give --color gray for one channel"
        )
    file = file.sized(input.height, input.width)
    if head is not None and (file.takes_clips or head.layout is not None):
        wrong = file if file.takes_clips else head
        raise ExportRefused(
            f"{wrong.name} takes {list(wrong.shape)}; with --head, the encoder takes single frames [N, C, H, W] and the head features [B, T, D]"
        )
    last = head or file
    (scores, *others) = [value.name for value in last.model.graph.output]
    if others:
        listed = ", ".join(name.removeprefix(PREFIX) for name in (scores, *others))
        raise ExportRefused(f"{last.name} gives {listed}; export a model that gives the scores of the classes alone")
    width = _scores(file, head, scores)
    found = _activation(last.model.graph, scores)
    added = missing_activation(activation, found, width)
    averages = head is None and not file.takes_clips
    return _User(file, head, normalization, Ending(scores, width, added, averages)), found


def _scores(file: OnnxFile, head: OnnxFile | None, name: str) -> int:
    """How many values `name` holds for a clip, found by running the files; raises ExportRefused where it is no row of them."""
    if head is None:
        shapes, _ = run_shapes(file, {name})
    else:
        (features,) = [value.name for value in file.model.graph.output]
        wide = int(np.prod(run_shapes(file, {features})[0][features][1:]))
        if wide != head.shape[2]:
            raise ExportRefused(
                f"{file.name} gives {wide} features for a frame, {head.name} takes {head.shape[2]}; give an encoder and a head that were trained together"
            )
        shapes, _ = run_shapes(head, {name})
    if len(shapes[name]) != 2:
        raise ExportRefused(
            f"{(head or file).name} gives {list(shapes[name])}, expected one row of scores for a clip, [B, K]; reduce time in the model, by its last step or the mean"
        )
    return shapes[name][1]


def _graphs(
    user: _User, reference: OnnxReference, *, halves: bool, frames: int, seed: int
) -> tuple[dict[Role, onnx.ModelProto], int | None, list[dict[str, Any]]]:
    """The graphs of the bundle, T where it is fixed, and how far they are from the user's own."""
    cut = _cut(user)

    def made(fixed: int | None) -> tuple[dict[Role, onnx.ModelProto], int | None, list[dict[str, Any]]]:
        graphs = _clip(user, fixed) if cut is None else _parts(user, cut)
        if halves:
            graphs = {role: halve(graph) for role, graph in graphs.items()}
        return graphs, fixed, _compare(reference, graphs, fixed=fixed, seed=seed)

    if user.frames is not None or cut is not None:
        return made(user.frames)
    try:
        return made(None)
    except ExportRefused:  # pooling over time may leave nothing of a single frame
        return made(frames)


def _cut(user: _User) -> Cut | None:
    file, head = user.file, user.head
    if head is not None:
        (features,) = [value.name for value in file.model.graph.output]
        assert file.layout in ("NCHW", "NHWC")
        return Cut(
            tuple(file.model.graph.node), file.input, file.layout, features, head.input, tuple(head.model.graph.node)
        )
    return cut_clips(file) if file.takes_clips else cut_image(file)


def _parts(user: _User, cut: Cut) -> dict[Role, onnx.ModelProto]:
    features = int(np.prod(run_shapes(user.file, {cut.features})[0][cut.features][1:]))
    encoder = encoder_graph(user.file, cut, normalization=user.normalization, feature_dim=features)
    head = head_graph(
        user.head or user.file, cut, clips=user.file, feature_dim=features, frames=user.frames, ending=user.ending
    )
    return {"encoder": encoder, "head": head}


def _clip(user: _User, frames: int | None) -> dict[Role, onnx.ModelProto]:
    return {"clip": clip_graph(user.file, normalization=user.normalization, frames=frames, ending=user.ending)}


def _compare(
    reference: OnnxReference, graphs: Mapping[Role, onnx.ModelProto], *, fixed: int | None, seed: int
) -> list[dict[str, Any]]:
    """The bundle's graphs against the user's at three (B, T); raises ExportRefused where a probability is off by > 1e-4."""
    height, width, channels = reference.frame_shape
    runs = {role: Runtime(graph) for role, graph in graphs.items()}
    rows = []
    for batch, length in ((batch, fixed or length) for batch, length in _SHAPES):
        clips = synthetic_clips(count=batch, frames=length, height=height, width=width, channels=channels, seed=seed)
        try:
            wanted = reference.probabilities(clips)
            if "clip" in runs:
                found = runs["clip"](clips)["probabilities"]
            else:
                features = runs["encoder"](clips.reshape(-1, *clips.shape[2:]))["features"]
                found = runs["head"](features.reshape(batch, length, -1))["probabilities"]
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise ExportRefused(
                f"the graph does not run on {batch} clips of {length} frames ({str(error).splitlines()[0][:200]}); batch and time must not be "
                "written into it: export it with dynamic_axes of torch.onnx.export, and reshape by x.shape in the model"
            ) from error
        if found.shape != wanted.shape or not np.abs(found - wanted).max() <= LIMIT:
            raise ExportRefused(
                f"at {batch} clips of {length} frames the bundle's graphs give {list(found.shape)} and differ from the user's by "
                f"{_difference(found, wanted)} in probability, the limit is {LIMIT:g}; batch or time may be written into the graph: "
                "export it with dynamic_axes of torch.onnx.export"
            )
        rows.append({"batch": batch, "frames": length, "probabilities": float(np.abs(found - wanted).max())})
    return rows


def _difference(found: Any, wanted: Any) -> str:
    return f"{np.abs(found - wanted).max():.2g}" if found.shape == wanted.shape else "everything"


def _activation(graph: onnx.GraphProto, output: str) -> Activation:
    makers = {name: node for node in graph.node for name in node.output}
    while (node := makers.get(output)) is not None and node.op_type in _IDLE:
        output = node.input[0]
    if node is None or node.op_type not in _ACTIVATIONS:
        return "none"
    last = node.op_type == "Sigmoid" or next((helper.get_attribute_value(part) for part in node.attribute), -1) in (
        -1,
        1,
    )
    return _ACTIVATIONS[node.op_type] if last else "none"


def _width(encoder: onnx.ModelProto) -> int:
    return int(encoder.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
