"""How a file of a bundle is entered in its manifest, and how its report is written."""

from __future__ import annotations

import json
from typing import Any, Literal

import onnx

from service.bundle.manifest import Artifact, Precision, Tensor
from service.bundle.store import sha256

REPORT = "report.json"


def artifact(
    data: bytes, file: str, *, precision: Precision, weights: Literal["float32", "float16", "int8"]
) -> Artifact:
    """The manifest's entry of one ONNX file."""
    model = onnx.load_from_string(data)
    return Artifact(
        file=file,
        sha256=sha256(data),
        bytes=len(data),
        precision=precision,
        weights=weights,
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        inputs=tuple(_tensor(value) for value in model.graph.input),
        outputs=tuple(_tensor(value) for value in model.graph.output),
    )


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return Tensor(
        name=value.name, dtype=dtype, shape=tuple(part.dim_param or part.dim_value for part in kind.shape.dim)
    )
