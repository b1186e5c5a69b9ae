"""What every way of exporting hands over to be packed into a bundle: graphs, what they are, and a reference that answers for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from models.export.model.outputs import Activation
from service.bundle.manifest import Network, Role
from service.bundle.store import GoldenClips

Weights = Literal["float32", "float16"]


class Answering(Protocol):
    """The float reference of a bundle."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a frame as it arrives: bytes, RGB or grey."""
        ...

    def answers(self, clips: NDArray[np.uint8]) -> GoldenClips:
        """`clips` `[B, T, H, W, C]` with what the reference says to them; `features` is None where the network is not split."""
        ...


@dataclass(frozen=True, slots=True)
class Networks:
    """The graphs of one model by the role that they have in a bundle: encoder and head, or one clip network.

    `source`: whether the model itself takes clips or single images. `report`: what was done and measured, as JSON.
    """

    graphs: Mapping[Role, onnx.ModelProto]
    network: Network
    classes: int
    activation: Activation
    source: Literal["video", "image"]
    reference: Answering
    report: Mapping[str, Any]
    weights: Weights = "float32"
