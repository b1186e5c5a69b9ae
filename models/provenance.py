"""Where a bundle comes from: the versions that made it, and the command."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Those whose version can change what a bundle holds.
_PACKAGES = (
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "openvino",
    "numpy",
    "opencv-python-headless",
)


def packages() -> dict[str, str]:
    """The installed versions, `marey` first."""
    found = {}
    for name in ("marey", *_PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
