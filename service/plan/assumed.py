"""Figures in which a GPU that nobody measured stands for the engine: for plans on paper, and named as such."""

from __future__ import annotations

from service.errors import InvalidParameter
from service.plan.figures import Figures, Measured, Rows


def with_gpu(figures: Figures, *, frame_ms: float, head_ms: float) -> tuple[Figures, tuple[str, ...]]:
    """`figures` with the networks on a GPU that takes `frame_ms` for each frame and `head_ms` for each answer, whatever the batch.

    Decoding and the service stay as measured. With what is assumed, in words. Raises InvalidParameter.
    """
    for name, value in (("gpu-frame-ms", frame_ms), ("gpu-head-ms", head_ms)):
        if not 0 < value < float("inf"):
            raise InvalidParameter(f"{name} = {value:g}: it has to be above 0; give milliseconds of the GPU")
    networks = figures.networks
    if networks.kind == "clip":
        raise InvalidParameter("a network of clips has no frames and head of their own: measure it on a GPU host")

    def alone(milliseconds: float) -> tuple[Rows, ...]:
        seconds = milliseconds / 1000
        return (Rows(rows=1, seconds=Measured(median=seconds, low=seconds, high=seconds, n=1)),)

    changed = networks.model_copy(
        update={"unit": "gpu", "threads": 1, "entry": alone(frame_ms), "head": alone(head_ms), "device": "assumed GPU"}
    )
    clip_ms = networks.frames * frame_ms + head_ms
    said = f"a GPU of {frame_ms:g} ms a frame and {head_ms:g} ms a head: {clip_ms:.4g} ms for a clip of {networks.frames} frames"
    return figures.model_copy(update={"networks": changed}), (said,)
