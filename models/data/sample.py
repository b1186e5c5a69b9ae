"""One labelled clip of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Box = tuple[int, int, int, int, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled clip. `key` names the array in an npz. Samples of one `group` (source, scene, patient) belong together.

    Where something is shown *in* the image: `mask` is a picture of its size, above 127 where that is, and `boxes` are
    (left, top, right, bottom, label) as the data say them, in pixels of the original image of `width` × `height`.
    """

    path: Path
    key: str | None
    label: str
    group: str
    split: str | None
    mask: Path | None = None
    boxes: tuple[Box, ...] = ()
    width: int | None = None
    height: int | None = None

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.key}" if self.key else self.path.name
