"""Normalisation that a user's model expects outside itself, taken into the graph so that no one can get it wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.model.clone import Cloner
from models.export.model.trace import trace

Channels = Literal["rgb", "bgr", "gray"]
# Beyond these what a network is fed would overflow float32 or vanish; 16-bit pictures, the widest scale in use, have a std of 1/257.
_SMALLEST_STD, _LARGEST = 1e-3, 1e6
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Normalization:
    """(x − mean) / std per channel, on bytes 0…255, after the channels were put in the order of `color`.

    Frames always arrive RGB (or grey, with `gray`); `mean` and `std` are in the network's order, one value or one per channel.
    """

    color: Channels = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, preprocess: str = "none", *, color: Channels = "rgb") -> Normalization:
        """From the command line: none, caffe, tf, torch (as keras.applications names them), or MEAN/STD, each of one or three numbers."""
        if color == "gray" and preprocess in ("caffe", "torch"):
            raise ExportRefused(
                f"--preprocess {preprocess} is for the three channels of a colour image, the model takes one; give none, tf or MEAN/STD"
            )
        if preprocess == "caffe":  # trained on BGR; the means are in that order
            return cls("bgr", (103.939, 116.779, 123.68))
        if preprocess == "torch":
            return cls(color, tuple(255 * value for value in _TORCH_MEAN), tuple(255 * value for value in _TORCH_STD))
        known = {"none": cls(color), "tf": cls(color, (127.5,), (127.5,))}
        if preprocess in known:
            return known[preprocess]
        try:
            mean, std = (tuple(float(number) for number in part.split(",")) for part in preprocess.split("/"))
        except ValueError:
            raise ExportRefused(
                f"--preprocess {preprocess!r} is none of none, caffe, tf, torch, and no MEAN/STD such as 127.5/127.5 or 124,116,104/58,57,57"
            ) from None
        return cls(color, mean, std)

    def __post_init__(self) -> None:
        channels = 1 if self.color == "gray" else 3
        for name, values, least in (("mean", self.mean, -_LARGEST), ("std", self.std, _SMALLEST_STD)):
            if len(values) not in (1, channels):
                allowed = "1" if channels == 1 else f"1 or {channels}"
                raise ExportRefused(
                    f"--preprocess: {name} has {len(values)} values ({', '.join(f'{value:g}' for value in values)}), "
                    f"{self.color} frames take {allowed}; write MEAN/STD as 127.5/127.5{'' if channels == 1 else ' or 124,116,104/58,57,57'}"
                )
            wrong = next((value for value in values if not least <= value <= _LARGEST), None)  # nan is never within
            if wrong is not None:
                raise ExportRefused(
                    f"--preprocess: {name} {wrong:g} is not within {least:g} … {_LARGEST:g}; "
                    f"{name} is of bytes 0…255, such as {'0 or 127.5' if name == 'mean' else '255 or 127.5'}"
                )

    @property
    def is_identity(self) -> bool:
        return self.color != "bgr" and set(self.mean) == {0.0} and set(self.std) == {1.0}

    def entry(self) -> dict[str, Any]:
        """As the report states it."""
        return {"color": self.color, "mean": list(self.mean), "std": list(self.std)}

    def apply(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the model itself would be fed for `frames` `[…, C]`."""
        ordered = frames[..., ::-1] if self.color == "bgr" else frames
        return ((ordered.astype(np.float64) - self.mean) / self.std).astype(np.float32)

    def before(self, encoder: keras.Model) -> keras.Model:
        """`encoder` with this in front: it then takes bytes as float32, RGB or grey."""
        if self.is_identity:
            return encoder
        frames = keras.Input(encoder.input_shape[1:], dtype="float32", name="frames")
        flat = trace(encoder)
        values = {flat.inputs[0]: self.of(frames)}
        Cloner().run(flat.calls, values)
        return keras.Model(frames, values[flat.outputs[0]], name=encoder.name)

    def of(self, frames: Any) -> Any:
        """Symbolic `frames` `[…, C]`, RGB or grey, as the model itself would be fed."""
        if self.is_identity:
            return frames
        x = keras.ops.take(frames, [2, 1, 0], axis=-1) if self.color == "bgr" else frames
        scale, offset = (
            [float(v) for v in np.broadcast_to(part, frames.shape[-1])]
            for part in (1 / np.array(self.std), -np.array(self.mean) / self.std)
        )
        return layers.Rescaling(scale, offset, name="normalise_frames")(x)
