"""Which kind of file a path is: told by what it holds, never by its name; what is no model is refused with the remedy."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Literal

import h5py

from models.errors import ExportRefused
from models.files.saved_model import description_of
from models.files.stranger import FROM_ONNX, SAVE, checkpoint, stranger

Kind = Literal["keras3", "keras3_h5", "keras2", "keras2_h5", "saved_model", "weights"]


def kind_of(path: Path) -> Kind:
    """The kind of model at `path`; raises ExportRefused with one sentence for what holds none. Runs nothing."""
    if not path.exists():
        raise ExportRefused(f"{path} does not exist; give the file that model.save wrote")
    if path.is_dir():
        return _folder(path)
    head = _head(path)
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if h5py.is_hdf5(path):
        return _hdf5(path)
    raise ExportRefused(stranger(path, head))


def read_config(path: Path, kind: Kind) -> dict[str, Any] | None:
    """The architecture as the file tells it; None for weights, which have none. Raises ExportRefused."""
    if kind == "saved_model":
        return description_of(path)
    if kind in ("keras3", "keras2"):
        with zipfile.ZipFile(path) as archive:
            text: str | bytes = archive.read("config.json")
    elif kind in ("keras3_h5", "keras2_h5"):
        with h5py.File(path) as file:
            text = file.attrs["model_config"]
    else:
        return None
    try:
        config: dict[str, Any] = json.loads(text)
    except ValueError:
        raise ExportRefused(
            f"{path} holds a model whose description is no JSON; the file is damaged, save it again"
        ) from None
    return config


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise ExportRefused(f"{path} cannot be read ({error.strerror}); make it readable") from None


def _folder(path: Path) -> Kind:
    names = {each.name for each in path.iterdir()}
    if "saved_model.pb" in names:
        return "saved_model"
    if "saved_model.pbtxt" in names:
        raise ExportRefused(f"{path} is a SavedModel as text; load it where it was made and {SAVE}")
    if {"manifest.json", "golden.npz"} <= names:
        raise ExportRefused(f"{path} is a bundle already; serve it with marey serve {path}")
    if {"config.json", "metadata.json"} <= names:
        raise ExportRefused(f"{path} is an unpacked .keras file; zip its three files, or save the model again")
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        raise ExportRefused(checkpoint(path))
    if "model.json" in names:
        raise ExportRefused(f"{path} is a TensorFlow.js model; give the Keras model that it was made from")
    found = sorted(name for name in names if name.endswith((".keras", ".h5", ".hdf5")))
    inside = (
        f"it holds {', '.join(found[:3])}: give one of these"
        if found
        else "give a .keras or .h5 file, or a SavedModel folder"
    )
    raise ExportRefused(f"{path} is a folder without a saved_model.pb; {inside}")


def _archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "metadata.json" in names and "config.json" in names:
                metadata = json.loads(archive.read("metadata.json"))
                return "keras3" if _major(metadata.get("keras_version")) >= 3 else "keras2"
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ExportRefused(f"{path} is a damaged archive ({error}); copy it again, or save the model again") from None
    if any(name.endswith("data.pkl") for name in names):
        raise ExportRefused(f"{path} is a PyTorch file; {FROM_ONNX}")
    if any(name.endswith(".npy") for name in names):
        raise ExportRefused(f"{path} is an archive of NumPy arrays, which hold no layers; {SAVE}")
    folder = any(name.endswith(("saved_model.pb", ".keras", ".h5")) for name in names)
    remedy = "unpack it and give the model inside" if folder else SAVE
    raise ExportRefused(f"{path} is a zip archive without config.json and metadata.json, so no .keras file; {remedy}")


def _hdf5(path: Path) -> Kind:
    try:
        with h5py.File(path) as file:
            if "model_config" in file.attrs:
                return "keras3_h5" if _major(file.attrs.get("keras_version")) >= 3 else "keras2_h5"
            if "layer_names" in file.attrs or {"layers", "_layer_checkpoint_dependencies", "vars"} & set(file):
                return "weights"
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ExportRefused(
            f"{path} is a damaged HDF5 file ({error}); copy it again, or save the model again"
        ) from None
    raise ExportRefused(f"{path} is an HDF5 file without a Keras model or its weights; {SAVE}")


def _major(version: Any) -> int:
    """The first number of a version; 2 where none is told, as old files did."""
    text = version.decode() if isinstance(version, bytes) else str(version or "")
    first = text.partition(".")[0]
    return int(first) if first.isdigit() else 2
