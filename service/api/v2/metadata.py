"""What the server and its networks say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service import __version__
from service.api.v2.network import Network
from service.api.v2.tensors import Spec
from service.engine.base import EngineInfo
from service.engine.buckets import buckets_up_to, usual_frames

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
# Framework and format, as the protocol's own platforms are called; of a model that is not open nobody knows the framework.
_PLATFORMS = {"openvino": "openvino_onnx", "onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
_FORMAT = "onnx"


def server() -> dict[str, Any]:
    return {"name": "marey", "version": __version__, "extensions": EXTENSIONS}


def model(network: Network, *, versions: Sequence[str], engine: str | None) -> dict[str, Any]:
    """The protocol's metadata; `versions` of this name are served, and `engine` runs this one, if it is open."""
    return {
        "name": network.name,
        "versions": versions,
        "platform": _PLATFORMS.get(engine or "", _FORMAT),
        "inputs": [_said(network.input)],
        "outputs": [_said(spec) for spec in network.outputs],
    }


def configuration(network: Network, *, infos: Sequence[EngineInfo], max_rows: int) -> dict[str, Any]:
    """As Triton's ModelConfig has it, of a network that runs by `infos`, one a device.

    The first axis is not among `dims`, because there is a `max_batch_size`: the largest request, which may run in several batches.
    """
    manifest, info = network.manifest, infos[0]
    frames = usual_frames(manifest) if network.reads_clips and network.part is None else 1
    first = network.stages[0]
    preferred = buckets_up_to(info.max_batch) if first != "head" else ()
    return {
        "name": network.name,
        "platform": _PLATFORMS.get(info.name, _FORMAT),
        "backend": info.name,
        "max_batch_size": max(1, max_rows // frames),
        "input": [_dims(network.input)],
        "output": [_dims(spec) for spec in network.outputs],
        "dynamic_batching": {
            "preferred_batch_size": preferred,
            "max_queue_delay_microseconds": 0,
            "priority_levels": 2,
            "default_priority_level": 1,
        },
        "instance_group": [
            {"name": each.device, "kind": "KIND_GPU" if each.name == "tensorrt" else "KIND_CPU", "count": 1}
            for each in infos
        ],
        "default_model_filename": manifest.artifacts[manifest.role(first, info.precision)].file,
        "parameters": {
            name: {"string_value": value}
            for name, value in {
                "precision": info.precision,
                "float_precision": info.float_precision,
                "labels": "\n".join(manifest.labels),
                # How a picture becomes a frame, and which frames become a clip: that is not done here.
                "input": manifest.input.model_dump_json(exclude_none=True),
                "sampling": manifest.sampling.model_dump_json(exclude_none=True),
            }.items()
        },
    }


def _said(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _dims(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": spec.shape[1:]}
