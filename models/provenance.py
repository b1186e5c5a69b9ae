"""Where a bundle comes from: the versions that made it, and the command."""

from __future__ import annotations

import hashlib
import shlex
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

# Options of `marey-build run` that name folders, and how they stand in a command for everybody.
_FOLDERS: dict[str, tuple[str, ...]] = {
    "--data": ("--data", "DATA"),
    "--out": ("--out", "BUNDLE"),
    "--work": (),
    "--cache": (),
    "--tensorboard": (),
    "--results": (),
}


def packages() -> dict[str, str]:
    """The installed versions, `marey` first."""
    found = {}
    for name in ("marey", *_PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_again(command: str) -> str:
    """A `marey-build run …` as anybody can type it: folders named by what they are, without what changes nothing in the bundle."""
    words = iter(word for said in shlex.split(command) for word in _apart(said))
    kept: list[str] = []
    for word in words:
        if word in _FOLDERS:
            next(words, None)
            kept += _FOLDERS[word]
        elif word != "--json":
            kept.append(Path(word).name if word.endswith(".toml") else word)
    return shlex.join(kept)


def _apart(word: str) -> list[str]:
    name, equals, value = word.partition("=")
    return [name, value] if equals and name in _FOLDERS else [word]


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
