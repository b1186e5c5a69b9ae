"""Take in a model that was trained elsewhere: what its file does not say, the command line must."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras

from models.errors import ExportRefused
from models.export.exporter import export_model, load_keras
from models.export.normalization import Channels, Normalization
from models.provenance import file_sha256, packages
from service.bundle.manifest import Input, Provenance, Resize, Sampling
from service.bundle.store import Bundle

# Layers that bring bytes to the scale that a network was trained on.
_NORMALISING = (keras.layers.Rescaling, keras.layers.Normalization)


@dataclass(frozen=True, slots=True)
class Reading:
    """How frames reach the model, as the command line says it: see `marey-build export --help`."""

    preprocess: str | None
    color: Channels
    resize: str
    frames: int
    max_frames: int
    sampling: str


def export_foreign(
    file: Path,
    reading: Reading,
    *,
    out: Path,
    name: str,
    version: str,
    labels: Path,
    weights: Literal["float32", "float16"],
    calibration: Path,
    command: str,
) -> Bundle:
    """Export the `.keras` file to a float bundle at `out`. Raises ExportRefused with the flag that is missing or wrong."""
    model = load_keras(file)
    height, width = _size(model)
    sampling = parse_sampling(reading.sampling, frames=reading.frames, max_frames=reading.max_frames)
    return export_model(
        model,
        out=out,
        name=name,
        version=version,
        labels=read_labels(labels),
        input=_input(height, width, reading),
        sampling=sampling,
        normalization=_normalization(model, reading),
        weights=weights,
        provenance=Provenance(
            source_sha256=file_sha256(file), packages=packages(), data=calibration.name, command=command
        ),
    )


def read_labels(file: Path) -> tuple[str, ...]:
    """One class name a line; empty lines at the end do not count."""
    try:
        names = file.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportRefused(
            f"{file} cannot be read as labels ({error}); give a text file with one class name a line"
        ) from None
    return tuple(name.strip() for name in names)


def parse_resize(text: str) -> Resize:
    """`squash`, `pad`, or `crop:SHORT_SIDE`."""
    rule, _, side = text.partition(":")
    if rule in ("squash", "pad") and not side:
        return Resize(rule=rule)
    if rule == "crop" and side.isascii() and side.isdigit() and int(side) > 0:
        return Resize(rule="crop", short_side=int(side))
    raise ExportRefused(f"--resize {text!r} is none of squash, pad and crop:SHORT_SIDE, such as crop:256")


def parse_sampling(text: str, *, frames: int, max_frames: int) -> Sampling:
    """`uniform`, or `fps:RATE`."""
    strategy, _, rate = text.partition(":")
    if frames > max_frames:
        raise ExportRefused(f"--frames {frames} exceeds --max-frames {max_frames}; raise the latter")
    if strategy == "uniform" and not rate:
        return Sampling(frames=frames, max_frames=max_frames)
    try:
        return Sampling(strategy="fps", fps=float(rate), frames=frames, max_frames=max_frames)
    except ValueError:
        raise ExportRefused(f"--sampling {text!r} is neither uniform nor fps:RATE, such as fps:4") from None


def _size(model: keras.Model) -> tuple[int, int]:
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) not in (4, 5):
        raise ExportRefused(f"the model takes {shape}; Marey takes one input: clips [T, H, W, C] or images [H, W, C]")
    height, width, channels = shape[-3:]
    if height is None or width is None or channels not in (1, 3):
        raise ExportRefused(
            f"the model takes frames {shape[-3:]}; rebuild it with a fixed height and width and 1 or 3 channels"
        )
    return height, width


def _input(height: int, width: int, reading: Reading) -> Input:
    resize = parse_resize(reading.resize)
    if resize.short_side is not None and resize.short_side < max(height, width):
        raise ExportRefused(
            f"--resize {reading.resize}: a short side of {resize.short_side} is smaller than the model's frames of "
            f"{height}×{width}; give at least crop:{max(height, width)}"
        )
    return Input(height=height, width=width, color="gray" if reading.color == "gray" else "rgb", resize=resize)


def _normalization(model: keras.Model, reading: Reading) -> Normalization:
    if reading.preprocess is not None:
        return Normalization.parse(reading.preprocess, color=reading.color)
    if not _normalises(model):
        raise ExportRefused(
            "the model has no Rescaling or Normalization layer before its first weights, so its file does not say how pixels were normalised; "
            "give --preprocess none, caffe, tf, torch or MEAN/STD (0/255 divides by 255), as in training"
        )
    return Normalization.parse("none", color=reading.color)


def _normalises(model: keras.Model) -> bool:
    """Whether pixels are brought to scale before the first layer that learned from them."""
    for layer in _leaves(model):
        if isinstance(layer, _NORMALISING):
            return True
        if layer.weights:
            return False
    return False


def _leaves(layer: Any) -> Iterator[Any]:
    """The layers in their order, those inside sub-models and wrappers such as TimeDistributed in place of these."""
    inside = [*getattr(layer, "layers", ()), *([layer.layer] if hasattr(layer, "layer") else [])]
    for inner in inside:
        yield from _leaves(inner)
    if not inside:
        yield layer
