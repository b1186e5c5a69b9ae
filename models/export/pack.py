"""Networks, labels and how frames reach them, packed into a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.errors import ExportRefused
from models.export.artifact import REPORT, artifact, json_bytes
from models.export.golden import golden_clips, npz
from models.export.model.outputs import Activation
from models.export.networks import Networks, Weights
from models.export.report.describe import describe_graphs, keras_classes
from models.export.report.reading import entry
from service.bundle.manifest import Golden, Input, Manifest, Provenance, Sampling, Task
from service.bundle.store import Bundle, GoldenClips, sha256, write_bundle

# What an engine may differ by in probability in fp32, and in fp16 by how the weights are stored; INT8's is measured when the
# bundle is quantized. In half, golden clips of three models moved by 1.2e-4 to 2.5e-3, 255 photos and clips by 4.9e-3 at most;
# rounding weights that the reference has in float32 adds up to 1.3e-2.
_FP32_TOLERANCE = 1e-3
_FP16_TOLERANCE: dict[Weights, float] = {"float16": 1e-2, "float32": 2e-2}
_GOLDEN_FRAMES = 4
# What may stand between the last activation and the answers.
_IDLE = {
    "Cast",
    "Concat",
    "Flatten",
    "Gather",
    "Identity",
    "ReduceMean",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


def pack(
    networks: Networks,
    *,
    out: str | Path,
    name: str,
    version: str,
    labels: Sequence[str],
    input: Input,  # noqa: A002 -- the manifest's own word
    sampling: Sampling,
    tasks: Sequence[Task] | None = None,
    description: str = "",
    activation: Activation | None = None,
    provenance: Provenance | None = None,
    seed: int = 0,
) -> Bundle:
    """Write the bundle to the folder `out`; raises ExportRefused or BundleError.

    The same networks and arguments give the same bytes. `tasks` defaults to video, and image where a clip may be one frame.
    `activation`: what the user said; only "none" lets a network pass that ends in no activation, if its answers are probabilities.
    """
    fixed = networks.network.static_frames
    if len(labels) != networks.classes:
        raise ExportRefused(
            f"the model tells {networks.classes} classes apart, {len(labels)} labels are given; give one per output, in their order"
        )
    if fixed and (sampling.frames, sampling.short_clip) != (fixed, "repeat"):
        raise ExportRefused(
            f"the model takes {fixed} frames and no other number; set frames = {fixed} and short_clip = 'repeat'"
        )
    golden, spread = golden_clips(networks.reference, frames=fixed or min(sampling.frames, _GOLDEN_FRAMES), seed=seed)
    _check_probabilities(golden, networks, asked=activation)
    clips = npz(golden)
    files = {f"{role}.onnx": graph.SerializeToString(deterministic=True) for role, graph in networks.graphs.items()}
    manifest = Manifest(
        name=name,
        version=version,
        description=description,
        tasks=tuple(tasks or (("video",) if fixed else ("image", "video"))),
        labels=tuple(labels),
        input=input,
        sampling=sampling,
        network=networks.network,
        activation=networks.activation,
        artifacts={
            role: artifact(files[f"{role}.onnx"], f"{role}.onnx", precision="fp32", weights=networks.weights)
            for role in networks.graphs
        },
        golden=Golden(
            sha256=sha256(clips), tolerance={"fp32": _FP32_TOLERANCE, "fp16": _FP16_TOLERANCE[networks.weights]}
        ),
        provenance=provenance or Provenance(),
    )
    described = describe_graphs(
        networks.graphs, frames=fixed or sampling.frames, classes=keras_classes(networks.report)
    )
    report = {"read": entry(manifest), "export": {**networks.report, **described, "golden_spread": spread}}
    return write_bundle(out, manifest, {**files, manifest.golden.file: clips, REPORT: json_bytes(report)})


def _check_probabilities(golden: GoldenClips, networks: Networks, *, asked: Activation | None) -> None:
    """Scores that are no probabilities would be served as such: ask what turns them into some.

    A few synthetic clips prove no range: scores may lie in 0…1 by chance.
    """
    rows = golden.probabilities
    if not np.isfinite(rows).all():
        raise ExportRefused(
            "the model answers NaN or infinity to synthetic frames; check its weights and its normalisation"
        )
    inside = bool((rows >= 0).all() and (rows <= 1).all())
    sums = bool(np.allclose(rows.sum(axis=-1), 1, atol=1e-3))
    such = f"such as {np.round(rows[0][:3], 3).tolist()}"
    if networks.activation == "none" and _ends_in_tanh(networks):
        raise ExportRefused(
            f"the model ends in tanh, whose answers, {such}, lie in −1…1 and are no probabilities; "
            "map them to 0…1 in the model, as (x + 1) / 2, and give --activation none, or train it with softmax or sigmoid at its end"
        )
    if networks.activation == "none" and asked != "none":
        raise ExportRefused(
            f"the model ends in plain scores, {such}; name the activation that it lacks with --activation softmax or sigmoid, "
            "or --activation none where its answers are probabilities already"
        )
    if not (inside and (sums or networks.network.multi_label)):
        raise ExportRefused(
            f"the model's answers, {such}, are no probabilities: those lie in 0…1 and add up to 1; "
            "name the activation that it lacks with --activation softmax or sigmoid"
        )


def _ends_in_tanh(networks: Networks) -> bool:
    """Whether the last graph's answers come out of a Tanh, perhaps one that became two classes or was averaged."""
    graph = networks.graphs[networks.network.stages[-1]].graph
    makers = {name: node for node in graph.node for name in node.output}
    name = "probabilities"
    while (node := makers.get(name)) is not None and node.op_type in _IDLE:
        name = node.input[-1] if node.op_type == "Concat" else node.input[0]  # [1 − p, p]
    return node is not None and node.op_type == "Tanh"
