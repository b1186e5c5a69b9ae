"""What the server and its networks say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service import __version__
from service.api.v2.network import Network
from service.api.v2.tensors import Spec
from service.engine.base import TITLES
from service.engine.buckets import buckets_up_to, usual_frames

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
# Framework and format, as the protocol's own platforms are called.
_PLATFORMS = {"openvino": "openvino_onnx", "onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}


def server() -> dict[str, Any]:
    return {"name": "marey", "version": __version__, "extensions": EXTENSIONS}


def platform(network: Network) -> str:
    engine = network.model.info.name
    return _PLATFORMS.get(engine, f"{engine}_onnx")


def model(network: Network, versions: Sequence[str]) -> dict[str, Any]:
    """The protocol's metadata; `versions` of this name are served."""
    return {
        "name": network.name,
        "versions": versions,
        "platform": platform(network),
        "inputs": [_said(network.input)],
        "outputs": [_said(spec) for spec in network.outputs],
    }


def configuration(network: Network, *, max_rows: int) -> dict[str, Any]:
    """As Triton's ModelConfig has it: an axis of rows is not among `dims`, because there is a `max_batch_size`."""
    manifest, info = network.model.manifest, network.model.info
    frames = usual_frames(manifest) if network.reads_clips and network.part is None else 1
    first = network.stages[0]
    preferred = buckets_up_to(info.max_batch) if first != "head" else (1,)
    return {
        "name": network.name,
        "platform": platform(network),
        "backend": info.name,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max(1, max_rows // frames),
        "input": [{**_dims(network.input), "format": "FORMAT_NONE"}],
        "output": [
            _dims(spec) | ({"label_filename": "labels.txt"} if spec.name == "probabilities" else {})
            for spec in network.outputs
        ],
        "dynamic_batching": {
            "preferred_batch_size": list(preferred),
            "max_queue_delay_microseconds": 0,
            "priority_levels": 2,
            "default_priority_level": 1,
        },
        "instance_group": [
            {
                "name": network.name,
                "kind": "KIND_GPU" if info.name == "tensorrt" else "KIND_CPU",
                "count": 1,
                "gpus": [],
            }
            for _ in network.model.replicas
        ],
        "default_model_filename": manifest.artifacts[manifest.role(first, info.precision)].file,
        "parameters": {
            name: {"string_value": value}
            for name, value in {
                "network": TITLES[first] if network.part else manifest.network.kind,
                "precision": info.precision,
                "float_precision": info.float_precision,
                "device": info.device,
                "input": manifest.input.model_dump_json(),
                "sampling": manifest.sampling.model_dump_json(),
            }.items()
        },
    }


def _said(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _dims(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape[1:])}
