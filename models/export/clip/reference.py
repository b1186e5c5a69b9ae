"""The float reference of a clip network: one Keras model, with BatchNorm folded and weights rounded as they are stored."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from models.export.model.outputs import output_names
from service.bundle.store import GoldenClips

_PIXELS = 16 * 112 * 112  # at a time: the activations of a 3D network take half a gigabyte for these


@dataclass(frozen=True, slots=True)
class ClipReference:
    """Keras's answers to clips as they arrive: bytes."""

    model: keras.Model

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.model.input_shape[2:]
        return height, width, channels

    def answers(self, clips: NDArray[np.uint8]) -> GoldenClips:
        """`clips` `[B, T, H, W, C]` with their probabilities."""
        return GoldenClips(clips, None, self.outputs(clips)["probabilities"])

    def outputs(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Every output by name, a few clips at a time."""
        count = max(1, _PIXELS // math.prod(clips.shape[1:4]))
        parts = [self._call(clips[start : start + count]) for start in range(0, len(clips), count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _call(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with warnings.catch_warnings():
            # Attention over the one frame of an image: Keras takes it for a mistake.
            warnings.filterwarnings("ignore", message=".*You are using a softmax over axis", category=UserWarning)
            found = self.model(clips.astype(np.float32), training=False)
        return {name: np.asarray(found[name], np.float32) for name in output_names(self.model)}
