"""Add `encoder.int8.onnx` to a bundle, with what it was calibrated on and how far it is from float."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.artifact import REPORT, artifact, json_bytes
from models.quantize.measure import agreement, golden_difference, tolerance
from models.quantize.qdq import METHOD, quantize_encoder, sizes
from service.bundle.manifest import Calibration, Manifest
from service.bundle.store import MANIFEST, Bundle, open_bundle, write_bundle

_FILE = "encoder.int8.onnx"


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
    out: str | Path | None = None,
) -> Bundle:
    """Write the bundle anew, in place or to `out`, with its encoder in INT8 beside the float one; raises ExportRefused, BundleError.

    `frames` `[N, H, W, C]` uint8 are what the server's own preprocessing makes of real data; each `clip_frames` of them are one clip
    where the agreement of INT8 with float is reported. The head stays float. `skip`: nodes that do, too.
    """
    source = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    manifest = source.manifest
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
    floats, head = source.file("encoder").read_bytes(), source.file("head").read_bytes()
    model = onnx.load_from_string(floats)
    quantized = quantize_encoder(model, frames=frames, skip=skip)
    data = quantized.SerializeToString(deterministic=True)
    differences = golden_difference(data, head, source.golden())
    entry = artifact(data, _FILE, precision="int8", weights="int8")
    golden = manifest.golden.model_copy(
        update={"tolerance": {**manifest.golden.tolerance, "int8": tolerance(differences)}}
    )
    record = Calibration(
        data=calibration.description,
        data_sha256=calibration.sha256,
        split=calibration.split,
        frames=len(frames),
        method=METHOD,
        quantizer=f"onnxruntime {version('onnxruntime')}",
        skipped=tuple(skip),
    )
    updated = Manifest.model_validate(
        {
            **manifest.model_dump(),
            "artifacts": {**manifest.artifacts, "encoder.int8": entry},
            "golden": golden,
            "calibration": record,
            "metrics": tuple(
                metric for metric in manifest.metrics if metric.precision != "int8"
            ),  # those were of another encoder
        }
    )
    report = {
        "nodes": _counts(quantized),
        "skipped": list(skip),
        "weights": sizes(quantized),
        "file_bytes": len(data),
        "golden_difference": differences,
        "golden_tolerance": golden.tolerance["int8"],
        "calibration_agreement": agreement(floats, data, head, frames, clip_frames=clip_frames),
    }
    files = _files(source)
    files[REPORT] = json_bytes({**_of_float(json.loads(files.get(REPORT, b"{}"))), "quantization": report})
    return write_bundle(out or source.path, updated, {**files, _FILE: data})


def _files(bundle: Bundle) -> dict[str, bytes]:
    """What the folder holds, but for engines and pictures: those were of another encoder."""
    return {
        file.name: file.read_bytes()
        for file in bundle.path.iterdir()
        if file.is_file() and file.name != MANIFEST and file.suffix != ".png"
    }


def _of_float(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what was found of another INT8 encoder, and without what compares or draws it."""
    kept = {name: part for name, part in report.items() if name not in ("verdict", "confusion", "confusion_png")}
    for name in ("accuracy", "latency"):
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
