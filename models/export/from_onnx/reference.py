"""What a user's own ONNX says to clips, with the ending that was asked for: the float reference of a bundle made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.export.from_onnx.file import TURN, OnnxFile, Original
from models.export.model.outputs import Activation
from models.export.normalization import Normalization
from models.export.runtime import Runtime
from service.bundle.store import GoldenClips


@dataclass(frozen=True, slots=True)
class Ending:
    """What is done to the user's output `scores`, of `width` values: an activation, two classes out of one, the mean over frames."""

    scores: str
    width: int
    added: Activation | None
    averages: bool

    @property
    def classes(self) -> int:
        return max(self.width, 2)

    def apply(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """`scores` `[…, width]` → probabilities `[…, classes]`."""
        rows = scores.astype(np.float64)
        if self.added == "softmax":
            powers = np.exp(rows - rows.max(axis=-1, keepdims=True))
            rows = powers / powers.sum(axis=-1, keepdims=True)
        elif self.added == "sigmoid":
            rows = 1 / (1 + np.exp(-rows))
        if self.width == 1:
            rows = np.concatenate([1 - rows, rows], axis=-1)
        return rows.astype(np.float32)


class OnnxReference:
    """The user's graphs as they came, fed as their author fed them. `encoder`, once there is one, tells the golden features."""

    def __init__(self, file: OnnxFile, head: OnnxFile | None, *, normalization: Normalization, ending: Ending) -> None:
        self._file, self._normalization, self._ending = file, normalization, ending
        self._run, self._head = Original(file), None if head is None else Original(head)
        self.encoder: Runtime | None = None

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self._file.frame_shape
        assert height is not None
        assert width is not None
        return height, width, channels

    def answers(self, clips: NDArray[np.uint8]) -> GoldenClips:
        """`clips` `[B, T, H, W, C]`, their features where there is an encoder, and their probabilities."""
        if self.encoder is None:
            return GoldenClips(clips, None, self.probabilities(clips))
        features = self.encoder(clips.reshape(-1, *self.frame_shape))["features"]
        return GoldenClips(clips, features.reshape(*clips.shape[:2], -1), self.probabilities(clips))

    def probabilities(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[B, T, H, W, C]` → `[B, K]`."""
        assert self._file.layout is not None
        fed = self._normalization.apply(clips)
        if not self._file.takes_clips:
            fed = fed.reshape(-1, *clips.shape[2:])
        outputs = self._run(np.ascontiguousarray(fed.transpose(TURN[self._file.layout])))
        if self._head is not None:
            (features,) = outputs.values()
            outputs = self._head(features.reshape(*clips.shape[:2], -1))
        rows = self._ending.apply(outputs[self._ending.scores])
        return rows.reshape(*clips.shape[:2], -1).mean(axis=1) if self._ending.averages else rows


def rounded(file: OnnxFile) -> OnnxFile:
    """`file` with every kernel rounded to values that float16 can hold; biases and statistics are small and stay."""
    model = onnx.ModelProto.FromString(file.model.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor)
            if np.abs(array).max(initial=0) <= np.finfo(np.float16).max:
                tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16).astype(np.float32), tensor.name))
    return replace(file, model=model)
