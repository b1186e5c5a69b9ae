"""A user's ONNX graph as what readings are tried on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.export.from_onnx import OnnxFile
from models.export.from_onnx.file import TURN, Original
from models.readings.activations import Seen
from models.readings.family import Family
from models.readings.said import scaling_in_graph
from models.readings.subject import Pixels


@dataclass(frozen=True, slots=True)
class OnnxSubject:
    """A user's ONNX graph, or an encoder and the head over its features."""

    file: OnnxFile
    head: OnnxFile | None = None

    @property
    def frames(self) -> int | None:
        return self.file.frames if self.head is None else self.head.shape[1]

    @property
    def frame_shape(self) -> tuple[int | None, int | None, int | None]:
        return self.file.frame_shape

    @property
    def scaled_in(self) -> str | None:
        return scaling_in_graph(self.file.model.graph)

    @property
    def family(self) -> Family | None:
        """None of those of keras.applications."""
        return None

    @property
    def customary(self) -> str | None:
        """What torchvision's transforms do."""
        return "torch"

    @property
    def outputs(self) -> tuple[int | None, ...]:
        graph = (self.head or self.file).model.graph
        last = [value.type.tensor_type.shape.dim[-1:] for value in graph.output]
        return tuple(dims[0].dim_value or None if dims else None for dims in last)

    def ask(self, fed: Pixels) -> list[NDArray[np.float32]]:
        batch, length = fed.shape[:2]
        assert self.file.layout is not None
        clips = fed if self.file.takes_clips else fed.reshape(-1, *fed.shape[2:])
        rows = list(Original(self.file)(np.ascontiguousarray(clips.transpose(TURN[self.file.layout]))).values())
        if self.head is not None:
            return list(Original(self.head)(rows[0].reshape(batch, length, -1)).values())
        return (
            rows
            if self.file.takes_clips
            else [each.reshape(batch, length, *each.shape[1:]).mean(axis=1) for each in rows]
        )

    def look(self, fed: Pixels) -> Seen | None:
        """None: exporters to ONNX fold BatchNormalization away."""
        del fed
        return None
