"""The steps before the network, as `--enhance` names them: `NAME`, or `NAME:PARAMETER=VALUE,…`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.errors import ExportRefused
from service.bundle.manifest import Input, Step
from service.bundle.pixel_steps import PIXEL_STEPS, pixel_steps
from service.errors import BundleError

_EXAMPLE = "clahe:clip_limit=2.0,tiles=8x8"


def parse_step(text: str) -> Step:
    """`clahe:clip_limit=2.0,tiles=8x8` → the newest version of the step with these parameters; raises ExportRefused."""
    name, colon, rest = text.partition(":")
    versions = [version for known, version in PIXEL_STEPS if known == name]
    if not versions:
        known = ", ".join(sorted({known for known, _ in PIXEL_STEPS}))
        raise ExportRefused(f"--enhance {text}: there is no step {name!r}, only {known}; give one, such as {_EXAMPLE}")
    pairs = [part.partition("=") for part in rest.split(",")] if colon else []
    if not all(key and equals and value for key, equals, value in pairs):
        raise ExportRefused(f"--enhance {text} is not NAME or NAME:PARAMETER=VALUE,…, such as {_EXAMPLE}")
    return Step(name=name, version=max(versions), parameters={key: _value(value) for key, _, value in pairs})


def enhanced(spec: Input, texts: Sequence[str]) -> Input:
    """`spec` with these steps after its own; raises ExportRefused where they do not suit it."""
    steps = spec.model_copy(update={"preprocess": (*spec.preprocess, *map(parse_step, texts))})
    try:
        pixel_steps(steps)
    except BundleError as error:
        raise ExportRefused(f"--enhance: {error}") from None
    return steps


def _value(text: str) -> Any:
    rows, times, columns = text.partition("x")
    if times and rows.isdecimal() and columns.isdecimal():
        return [int(rows), int(columns)]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
