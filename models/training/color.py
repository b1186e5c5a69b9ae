"""How far colours are from grey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Grey of an RGB picture, as ITU-R BT.601 and OpenCV weigh it.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def saturated(colors: NDArray[np.floating], factor: float | NDArray[np.float32]) -> NDArray[np.floating]:
    """RGB `[…, 3]` float32: 0 is its grey, 1 as it is, more is farther from grey."""
    grey = (colors @ _LUMA)[..., None]
    return grey + (colors - grey) * factor
