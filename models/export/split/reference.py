"""The float reference of a bundle: its two Keras models, with BatchNorm folded and weights rounded as they are stored."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from models.export.model.outputs import output_names
from service.bundle.store import GoldenClips

_BATCH = 16  # frames at a time: a ResNet50 at 224 needs half a gigabyte for these


@dataclass(frozen=True, slots=True)
class Reference:
    """Keras's answers to frames as they arrive: bytes."""

    encoder: keras.Model
    head: keras.Model

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.encoder.input_shape[1:]
        return height, width, channels

    def answers(self, clips: NDArray[np.uint8]) -> GoldenClips:
        """`clips` `[B, T, H, W, C]` with their features and probabilities."""
        features = self.features(clips.reshape(-1, *self.frame_shape)).reshape(*clips.shape[:2], -1)
        return GoldenClips(clips, features, self.probabilities(features)["probabilities"])

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[N, H, W, C]` uint8 → `[N, D]`."""
        return run_in_batches(self.encoder, frames.astype(np.float32))

    def probabilities(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """`[B, T, D]` → every output of the head by name."""
        with warnings.catch_warnings():
            # Attention over the one frame of an image: Keras takes it for a mistake.
            warnings.filterwarnings("ignore", message=".*You are using a softmax over axis", category=UserWarning)
            outputs = keras.tree.flatten(self.head(features, training=False))
        return {
            name: np.asarray(value, np.float32) for name, value in zip(output_names(self.head), outputs, strict=True)
        }


def run_in_batches(model: keras.Model, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """`model` on rows `[N, …]`, a few at a time."""
    parts = [np.asarray(model(rows[start : start + _BATCH], training=False)) for start in range(0, len(rows), _BATCH)]
    return np.concatenate(parts).astype(np.float32, copy=False)
