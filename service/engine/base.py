"""The seam between Marey and whatever runs its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision

Stage = Literal["encoder", "head"]
Choice = Literal["auto", "int8", "fp16", "fp32"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What really runs: `precision` of the encoder's weights, `float_precision` of everything that is not INT8 in it.

    `max_batch`: the largest batch of the encoder that pays on this device; a power of two.
    """

    name: str
    precision: Precision
    float_precision: Literal["fp32", "bf16", "fp16"]
    device: str
    max_batch: int = 64


class Engine(Protocol):
    """Runs one bundle's networks. Not thread-safe: opened, called and closed on one and the same device thread."""

    @property
    def info(self) -> EngineInfo: ...

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
        """Rows in (`[N, …]`), as many rows out of every output, by the names in the manifest; raises EngineError.

        The arrays returned belong to the caller: a later call does not change them.
        """
        ...

    def close(self) -> None: ...
