"""Where a sample shows what it shows: its map of classes, and the places of a grid that a network answers for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset, Sample
from models.data.places import PlacesPlan, class_map, places
from service.bundle.manifest import Grid, Input


@dataclass(frozen=True, slots=True)
class Marks:
    """The masks and boxes of `dataset`, read for networks that see its pictures by `spec` and answer for `grid`."""

    dataset: Dataset
    spec: Input
    grid: Grid
    plan: PlacesPlan

    def map(self, sample: Sample) -> NDArray[np.uint8]:
        """`[H, W]`: the class of each pixel as the network sees it. Raises DataError."""
        return class_map(self.dataset, sample, spec=self.spec, background=self.plan.background)

    def places(self, classes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """`[P]`: the class of each place of a map, or of a view of it; −1 where the map does not tell."""
        background = self.dataset.labels.index(self.plan.background)
        return places(classes, grid=self.grid, background=background, covered=self.plan.covered)
