"""The seam between Marey and whatever runs its networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Precision, Stage

# What messages call them.
TITLES: dict[Stage, str] = {"encoder": "encoder", "head": "head", "clip": "clip network"}
Choice = Literal["auto", "int8", "fp16", "fp32"]
Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs: CPU `threads`, or the GPU of CUDA ordinal `device`; the folder that keeps what was built for it.

    `engine_cache` None: the user's; with `must_keep`, an engine that cannot be kept there is an EngineError. While an engine is built, `progress` is told the phase and how much of it is done, 0 to 1,
    and `cancelled` is asked; once it is true, the build ends with EngineError.
    """

    threads: int
    device: int = 0
    engine_cache: Path | None = None
    must_keep: bool = False
    progress: Callable[[str, float], None] | None = None
    cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What really runs: `precision` of the first network's weights, `float_precision` of everything that is not INT8 in it.

    `max_batch`: the largest batch of the first network that pays on this device, in its rows: frames of an encoder, clips of a
    clip network; a power of two. `stages`: the networks of the bundle, in order. `head_engine`: what runs the head, where that is
    another than `name`.
    """

    name: str
    precision: Precision
    float_precision: Literal["fp32", "bf16", "fp16"]
    device: str
    max_batch: int = 64
    stages: tuple[Stage, ...] = ("encoder", "head")
    head_engine: str | None = None


class Engine(Protocol):
    """Runs one bundle's networks. Not thread-safe: called on one device thread; see `Kind.bound` for where it is opened and closed."""

    @property
    def info(self) -> EngineInfo: ...

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:
        """Rows in (`[N, …]`), as many rows out of every output, by the names in the manifest; raises EngineError.

        The arrays returned belong to the caller: a later call does not change them.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Overlapping(Engine, Protocol):
    """An engine whose device works on its own, so that the next rows are copied in while it computes."""

    def begin(self, stage: Stage, blocks: Sequence[NDArray[np.generic]], *, bucket: int) -> Callable[[], Outputs]:
        """Send the rows of all `blocks`, one after the other, as one batch of `bucket` rows (what is left of it is padding).

        Returns at once; the callable waits and gives the outputs, padding cut off. They are called in the order of `begin`,
        and at most two may be under way. Raises EngineError, at once or from the callable.
        """
        ...
