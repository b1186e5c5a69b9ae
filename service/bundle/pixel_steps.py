"""The steps that `Input.preprocess` may name: the parameters of each, their limits, and what they are by default.

A name and a version stand for the same pixels for ever: whoever changes what a step does gives it a new version, so that old bundles
keep seeing what they were trained on. What the steps do is in `service.media.steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from service.bundle.manifest import Frozen, Input
from service.errors import BundleError

# A manifest may be written by hand, and its steps run on every frame: at these limits all of them together take 0.1 s a frame.
MAX_PIXELS = 2**20
_Tiles = Annotated[int, Field(ge=1, le=32)]
_MIN_TILE = 4  # pixels: of fewer, a histogram says nothing


class Denoise(Frozen):
    """The median of `kernel` × `kernel` pixels, each channel by itself: takes single wrong pixels out, keeps edges.

    Beyond 5 OpenCV's median takes 20 times as long; non-local means take 5,000 times as long as a median of 3 (460 ms at 256 pixels).
    """

    kernel: Literal[3, 5] = 3


class Clahe(Frozen):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV, 1994) of grey, or of L of CIELAB.

    `clip_limit`: how many times its share of a tile's pixels a grey level may hold. `tiles`: rows, columns.
    """

    clip_limit: float = Field(default=2.0, gt=0, le=100)
    tiles: tuple[_Tiles, _Tiles] = (8, 8)


class Vessels(Frozen):
    """A mask of thin dark lines, 255 on them and 0 elsewhere, as vessels are in the green channel of a fundus photograph.

    Green (or grey) → CLAHE with `clip_limit` and `tiles`, 0 for none → black top-hat: what a closing by an ellipse of `kernel` × `kernel`
    pixels fills in, so lines narrower than it → threshold by Otsu. The number of channels stays: the mask `replaces` one of them, or all.
    """

    kernel: int = Field(default=9, ge=3, le=31)
    clip_limit: float = Field(default=2.0, ge=0, le=100)
    tiles: tuple[_Tiles, _Tiles] = (8, 8)
    replaces: Literal["red", "green", "blue", "all"] = "all"

    @model_validator(mode="after")
    def _kernel_has_a_centre(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} has no pixel in its centre; give an odd number from 3 to 31")
        return self


PixelStep = Denoise | Clahe | Vessels
PIXEL_STEPS: Mapping[tuple[str, int], type[PixelStep]] = {
    ("clahe", 1): Clahe,
    ("denoise", 1): Denoise,
    ("vessels", 1): Vessels,
}


def pixel_steps(spec: Input) -> tuple[PixelStep, ...]:
    """The steps of `spec` in order, every parameter filled in; raises BundleError for what is unknown, beyond its limit or there twice."""
    found: dict[str, PixelStep] = {}
    for step in spec.preprocess:
        kind = PIXEL_STEPS.get((step.name, step.version))
        if kind is None:
            known = ", ".join(f"{name} version {version}" for name, version in sorted(PIXEL_STEPS))
            raise BundleError(
                f"preprocess step {step.name!r} version {step.version} is unknown here (known: {known}); upgrade marey"
            )
        if step.name in found:
            raise BundleError(f"preprocess names the step {step.name!r} twice; each may be there once: take one out")
        found[step.name] = _parsed(kind, step.name, step.parameters)
        _fits(step.name, found[step.name], spec)
    return tuple(found.values())


def said(step: PixelStep) -> str:
    """A step in words: `clahe (clip_limit 2.0, tiles 8×8)`."""
    name = next(name for (name, _), kind in PIXEL_STEPS.items() if kind is type(step))
    values = [f"{key} {'×'.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in step]
    return f"{name} ({', '.join(values)})"


def _parsed(kind: type[PixelStep], name: str, parameters: Mapping[str, Any]) -> PixelStep:
    try:
        return kind.model_validate(parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise BundleError(
                f"preprocess step {name!r} has no parameter {where!r}, only {', '.join(kind.model_fields)}; take it out"
            ) from None
        got = f"{where} = {first['input']!r}: " if where else ""
        reason = first["msg"].removeprefix("Value error, ")
        raise BundleError(f"preprocess step {name!r}: {got}{reason}; change it") from None


def _fits(name: str, step: PixelStep, spec: Input) -> None:
    size = f"{spec.height}×{spec.width}"
    if spec.height * spec.width > MAX_PIXELS:
        raise BundleError(
            f"preprocess step {name!r} takes frames of at most {MAX_PIXELS} pixels, the input is {size}; "
            "make the input smaller, or put the step into the network"
        )
    if isinstance(step, Clahe | Vessels):
        rows, columns = step.tiles
        if spec.height < _MIN_TILE * rows or spec.width < _MIN_TILE * columns:
            raise BundleError(
                f"preprocess step {name!r}: {rows}×{columns} tiles of an input of {size} have less than {_MIN_TILE} pixels a side; "
                "give fewer tiles"
            )
    if isinstance(step, Vessels) and spec.color == "gray" and step.replaces != "all":
        raise BundleError(
            f"preprocess step {name!r}: replaces = {step.replaces!r}, but a grey input has one channel; say 'all', or leave it out"
        )
