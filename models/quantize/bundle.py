"""Add the INT8 encoder, or the INT8 clip network, to a bundle, with what it was calibrated on and how far it is from float."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.artifact import REPORT, artifact, json_bytes
from models.quantize.frames import check_pictures, unlike
from models.quantize.measure import agreement, golden_difference, tolerance
from models.quantize.qdq import quantize_network, sizes
from models.quantize.ranges import activation_ranges, range_warnings, ranges_sentence
from models.quantize.search import Plan, search
from models.quantize.trial import Trial
from service.bundle.frame_statistics import statistics_of
from service.bundle.manifest import Calibration, Manifest
from service.bundle.store import MANIFEST, Bundle, open_bundle, write_bundle

# Of the ranges, so many of the widest are reported.
_WIDEST = 10
# Above this difference in probability on the golden clips a reader is told.
_MOVED = 0.3


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Where the calibration frames come from: a description for people, the hash of the data, the split or None."""

    description: str
    sha256: str
    split: str | None = None


def quantize_bundle(
    bundle: str | Path | Bundle,
    *,
    frames: NDArray[np.uint8],
    calibration: CalibrationData,
    skip: Sequence[str] = (),
    clip_frames: int = 1,
    trial: Trial | None = None,
    max_drop: float = 0.01,
    out: str | Path | None = None,
) -> Bundle:
    """Write the bundle anew, in place or to `out`, with INT8 beside its float encoder or clip network; raises ExportRefused, BundleError.

    `frames` `[N, H, W, C]` uint8 are what the server's own preprocessing makes of real data; each `clip_frames` of them are one clip:
    what a clip network takes, and where the agreement of INT8 with float is reported. A head stays float. `skip`: nodes that do, too.
    On a `trial` the best ranges and repairs are searched, and the fewest nodes in float with which it loses at most `max_drop`; without, ranges are
    as wide as what was seen.
    """
    source = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    manifest = source.manifest
    clips = _clips(manifest, frames, clip_frames)
    stage = manifest.network.stages[0]
    role = manifest.role(stage, "int8")
    floats = source.file(stage).read_bytes()
    head = source.file("head").read_bytes() if stage == "encoder" else None
    model = onnx.load_from_string(floats)
    rows = frames if stage == "encoder" else clips
    files = _files(source)
    old = json.loads(files.get(REPORT, b"{}"))
    if trial is None:
        quantized, plan, tables = quantize_network(model, rows=rows, skip=skip), Plan(), {}
    else:
        known = old.get("quantization", {}).get("sensitivity")
        found = search(model, head, rows=rows, trial=trial, skip=skip, max_drop=max_drop, known=known)
        quantized, model, plan, tables = found.quantized, found.floats, found.plan, found.tables
    data = quantized.SerializeToString(deterministic=True)
    differences = golden_difference(data, head, source.golden())
    ranges = activation_ranges(model, quantized, rows)
    entry = artifact(data, f"{role}.onnx", precision="int8", weights="int8")
    golden = manifest.golden.model_copy(
        update={"tolerance": {**manifest.golden.tolerance, "int8": tolerance(differences)}}
    )
    record = Calibration(
        data=calibration.description,
        data_sha256=calibration.sha256,
        split=calibration.split,
        frames=len(frames),
        method=str(plan),
        quantizer=f"onnxruntime {version('onnxruntime')}",
        skipped=(*skip, *plan.floats),
        statistics=statistics_of(frames),
    )
    updated = Manifest.model_validate(
        {
            **manifest.model_dump(),
            "artifacts": {**manifest.artifacts, role: entry},
            "golden": golden,
            "calibration": record,
            "metrics": tuple(
                metric for metric in manifest.metrics if metric.precision != "int8"
            ),  # those were of another quantized network
        }
    )
    report = {
        "nodes": _counts(quantized),
        "skipped": [*skip, *plan.floats],
        "weights": sizes(quantized),
        "file_bytes": len(data),
        "golden_difference": differences,
        "golden_tolerance": golden.tolerance["int8"],
        "calibration_agreement": agreement(floats, data, head, clips, multi_label=manifest.network.multi_label),
        "widest_ranges": ranges[:_WIDEST],
        "ranges": ranges_sentence(ranges),
        "warnings": [*range_warnings(ranges), *check_pictures(frames), *_unlike(clips, trial), *_far(differences)],
        **tables,
    }
    files[REPORT] = json_bytes({**_of_float(old), "quantization": report})
    return write_bundle(out or source.path, updated, {**files, entry.file: data})


def _clips(manifest: Manifest, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:
    """`frames` as clips `[B, T, H, W, C]`, or ExportRefused where they are none of this network's."""
    wanted = (manifest.input.height, manifest.input.width, manifest.input.channels)
    if (
        frames.dtype != np.uint8
        or frames.ndim != 4
        or frames.shape[1:] != wanted
        or not len(frames) >= clip_frames >= 1
    ):
        raise ExportRefused(
            f"calibration frames are {frames.dtype} {list(frames.shape)}, expected uint8 [N, {wanted[0]}, {wanted[1]}, {wanted[2]}], N ≥ {max(clip_frames, 1)}"
        )
    fixed = manifest.network.static_frames
    if fixed is not None and clip_frames != fixed:
        raise ExportRefused(
            f"calibration clips have {clip_frames} frames, the network takes {fixed} and no other number; sample {fixed} of each clip"
        )
    count = len(frames) // clip_frames
    return frames[: count * clip_frames].reshape(count, clip_frames, *wanted)


def _far(differences: Mapping[str, float]) -> list[str]:
    """A sentence where INT8 is far from float on the golden clips, which are nobody's data: they look like nothing that it was calibrated on."""
    furthest = max(differences.values())
    return (
        [
            f"on the golden clips, drawn and not photographed, INT8 moves a probability by {furthest:.2f}: judge it with --data"
        ]
        if furthest > _MOVED
        else []
    )


def _unlike(clips: NDArray[np.uint8], trial: Trial | None) -> list[str]:
    """What tells the middle frames of the calibration clips from those of the trial's."""
    if trial is None:
        return []
    middles = np.stack([clip[len(clip) // 2] for clip in trial.clips])
    return unlike(clips[:, clips.shape[1] // 2], middles, split=trial.split)


def _files(bundle: Bundle) -> dict[str, bytes]:
    """What the folder holds, but for engines and pictures: those were of another encoder."""
    return {
        file.name: file.read_bytes()
        for file in bundle.path.iterdir()
        if file.is_file() and file.name != MANIFEST and file.suffix not in (".png", ".html")
    }


def _of_float(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what was found of another INT8 encoder, and without what compares or draws it."""
    compared = ("verdict", "comparison", "confusion", "confusion_png")
    kept = {name: part for name, part in report.items() if name not in compared}
    for name in ("accuracy", "latency", "reliability", "robustness", "localisation"):
        if name in kept:
            kept[name] = [row for row in kept[name] if row["precision"] != "int8"]
    return kept


def _counts(model: onnx.ModelProto) -> dict[str, Any]:
    """How many nodes of each kind there are, and how many of them read int8."""
    made = {output: node for node in model.graph.node for output in node.output}
    counts: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm", "Add"):
            row = counts.setdefault(node.op_type, {"nodes": 0, "int8": 0})
            row["nodes"] += 1
            row["int8"] += any(name in made and made[name].op_type == "DequantizeLinear" for name in node.input)
    return counts
