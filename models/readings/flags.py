"""How frames reach the model, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import ExportRefused
from models.export.model.outputs import Activation, Steps
from models.export.normalization import Channels
from models.readings.enhance import enhanced
from service.bundle.manifest import Input, Resize, Sampling

DEFAULT_FRAMES = 16
MAX_FRAMES = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """The flags of `marey-build export` about frames and answers; None is what was not said."""

    preprocess: str | None = None
    color: Channels | None = None
    size: str | None = None
    resize: str = "squash"
    frames: int | None = None
    max_frames: int | None = None
    sampling: str = "uniform"
    activation: Activation | None = None
    steps: Steps | None = None
    enhance: tuple[str, ...] = ()


def parse_size(text: str) -> tuple[int, int]:
    """`HxW`, height first."""
    height, _, width = text.lower().replace("×", "x").partition("x")
    if all(part.isascii() and part.isdigit() and 0 < int(part) <= 4096 for part in (height, width)):
        return int(height), int(width)
    raise ExportRefused(f"--size {text!r} is not HxW, height first, such as 224x224")


def parse_resize(text: str) -> Resize:
    """`squash`, `pad`, or `crop:SHORT_SIDE`."""
    rule, _, side = text.partition(":")
    if rule in ("squash", "pad") and not side:
        return Resize(rule=rule)
    if rule == "crop" and side.isascii() and side.isdigit() and int(side) > 0:
        return Resize(rule="crop", short_side=int(side))
    raise ExportRefused(f"--resize {text!r} is none of squash, pad and crop:SHORT_SIDE, such as crop:256")


def input_of(shape: tuple[int | None, int | None, int | None], reading: Reading) -> Input:
    """The manifest's input for frames `(H, W, C)` as the model takes them; raises ExportRefused with the flag at fault."""
    *own, channels = shape
    if channels not in (1, 3):
        raise ExportRefused(
            f"the model takes frames of {channels} channels; Marey feeds 1 (grey) or 3 (RGB or BGR): rebuild it for one of these"
        )
    if channels == 1 and reading.color in ("rgb", "bgr"):
        raise ExportRefused(
            f"--color {reading.color} is for 3 channels, the model takes 1; leave it out, one channel is grey"
        )
    if channels == 3 and reading.color == "gray":
        raise ExportRefused(
            "--color gray is for 1 channel, the model takes 3; give rgb or bgr, grey frames arrive in all three channels alike"
        )
    height, width = _size(own[0], own[1], reading.size)
    resize = parse_resize(reading.resize)
    if resize.short_side is not None and resize.short_side < max(height, width):
        raise ExportRefused(
            f"--resize {reading.resize}: a short side of {resize.short_side} is smaller than the model's frames of "
            f"{height}×{width}; give at least crop:{max(height, width)}"
        )
    spec = Input(height=height, width=width, color="gray" if channels == 1 else "rgb", resize=resize)
    return enhanced(spec, reading.enhance)


def sampling_of(fixed: int | None, reading: Reading) -> Sampling:
    """The sampling for a model of `fixed` frames, or of any number with None; raises ExportRefused with the flag at fault."""
    frames = reading.frames or fixed or DEFAULT_FRAMES
    if fixed and frames != fixed:
        raise ExportRefused(
            f"--frames {frames}: the model takes {fixed} frames and no other number; leave --frames out"
        )
    max_frames = reading.max_frames or max(MAX_FRAMES, fixed or 0)
    if frames > max_frames:
        raise ExportRefused(f"--frames {frames} exceeds --max-frames {max_frames}; raise the latter")
    strategy, _, rate = reading.sampling.partition(":")
    if strategy == "uniform" and not rate:
        return Sampling(frames=frames, max_frames=max_frames, short_clip="repeat" if fixed else "as_is")
    try:
        sampling = Sampling(
            strategy="fps", fps=float(rate) if strategy == "fps" else -1, frames=frames, max_frames=max_frames
        )
    except ValueError:
        raise ExportRefused(f"--sampling {reading.sampling!r} is neither uniform nor fps:RATE, such as fps:4") from None
    if fixed:
        raise ExportRefused(
            f"--sampling {reading.sampling} gives a number of frames that follows from a clip's length, the model takes {fixed}; give --sampling uniform"
        )
    return sampling


def _size(height: int | None, width: int | None, given: str | None) -> tuple[int, int]:
    if given is None:
        if height is None or width is None:
            raise ExportRefused(
                f"the model takes frames of any size ({height or '?'}×{width or '?'}); say which it was trained on with --size HxW, such as 224x224"
            )
        return height, width
    wanted = parse_size(given)
    if any(own not in (None, size) for own, size in zip((height, width), wanted, strict=True)):
        raise ExportRefused(
            f"--size {given}: the model takes frames of {height}×{width} and no other size; leave --size out"
        )
    return wanted
