"""How a bundle reads pixels, frames and answers, in words: what to look at first where answers are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.bundle.manifest import Input, Manifest, Sampling
from service.bundle.pixel_steps import pixel_steps, said

_RULES = {"squash": "squashed", "pad": "padded", "crop": "cropped"}
_NAMED = 6


def entry(manifest: Manifest) -> dict[str, Any]:
    """What report.json notes of the manifest for this."""
    told = manifest.model_dump(mode="json", include={"input", "sampling", "labels", "activation"}, exclude_none=True)
    return {**told, "multi_label": manifest.network.multi_label, "static_frames": manifest.network.static_frames}


def how_it_was_read(export: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
    """`read` as `entry` gave it; `export`: the normalisation, as the exporter noted it. Lines of a Markdown list; none where `read` is empty."""
    if not read:
        return []
    spec, sampling = Input.model_validate(read["input"]), Sampling.model_validate(read["sampling"])
    normalization = export.get("normalization")
    return [
        f"- Frames: {size(spec)}, {_color(spec, normalization)}; {_resize(spec)}{_steps(spec)}.",
        *([f"- Pixels: {pixels(normalization)}."] if normalization else []),
        f"- Clip: {frames(sampling, fixed=read['static_frames'])}; at most {sampling.max_frames} if a client asks.",
        f"- Labels: {_labels(read['labels'])}.",
        f"- Answers: {_answers(read)}.",
    ]


def size(spec: Input) -> str:
    """Height × width."""
    return f"{spec.height}×{spec.width}"


def resized(spec: Input) -> str:
    """The rule in one word, the side where it has one, and the steps after it."""
    side = spec.resize.short_side
    return _RULES[spec.resize.rule] + (f" from a short side of {side}" if side else "") + _steps(spec)


def pixels(normalization: Mapping[str, Any], *, inside: str | None = None) -> str:
    """What happens to a byte; `normalization`: `mean` and `std`. `inside`: the layer of the model itself that scales it then."""
    mean, std = (tuple(normalization[name]) for name in ("mean", "std"))
    same = set(mean) == {0.0} and set(std) == {1.0}
    told = "as bytes 0…255" if same else f"(x − {_numbers(mean)}) / {_numbers(std)}"
    if inside:
        return f"{told}, {'' if same else 'then '}scaled by {inside!r} inside the model"
    return told


def frames(sampling: Sampling, *, fixed: int | None) -> str:
    """Which frames of a clip are taken."""
    if sampling.fps is not None:
        return f"{sampling.fps:g} frames a second"
    taken = f"{sampling.frames} frame{'s' if sampling.frames > 1 else ''} over the clip"
    return f"{taken}, the number that the model takes; a shorter clip's are repeated" if fixed else taken


def _resize(spec: Input) -> str:
    if spec.resize.rule == "crop":
        return f"scaled to a short side of {spec.resize.short_side}, then the centre cut out"
    return (
        "squashed to that size, whatever their aspect"
        if spec.resize.rule == "squash"
        else "fitted whole, the rest black"
    )


def _steps(spec: Input) -> str:
    return "".join(f", then {said(step)}" for step in pixel_steps(spec))


def _color(spec: Input, normalization: Mapping[str, Any] | None) -> str:
    color = (normalization or {}).get("color", spec.color)
    return {"bgr": "BGR (the network turns RGB round itself)", "gray": "grey", "rgb": "RGB"}[color]


def _numbers(values: Sequence[float]) -> str:
    told = ", ".join(f"{value:g}" for value in values)
    return told if len(values) == 1 else f"[{told}]"


def _labels(labels: Sequence[str]) -> str:
    more = f" … ({len(labels)} in all)" if len(labels) > _NAMED else ""
    return ", ".join(f"{number} {label}" for number, label in enumerate(labels[:_NAMED])) + more


def _answers(read: Mapping[str, Any]) -> str:
    if read["activation"] == "softmax":
        return "softmax: one class of them all"
    if read["activation"] == "none":
        return "taken as probabilities as the model gives them (--activation none)"
    if read["multi_label"]:
        return "sigmoid: each label by itself, several may hold"
    no, yes = read["labels"]
    return f"sigmoid of one output p, which became two classes: {yes} is p, {no} is 1 − p"
