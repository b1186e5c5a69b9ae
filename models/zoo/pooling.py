"""From a backbone's feature maps to one feature vector per frame."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from models.errors import RecipeError


def pooled(backbone: keras.Model, *, grid: tuple[int, int] = (1, 1), name: str = "encoder") -> keras.Model:
    """`backbone` with its maps `[N, h, w, D]` averaged over a `grid` of cells: frames → features `[N, rows·columns·D]`.

    One cell is the plain average; more keep where in the frame something happens. Raises RecipeError where the grid does
    not divide the maps.
    """
    maps = backbone.output
    return keras.Model(backbone.input, _average(maps, grid), name=name)


def _average(maps: Any, grid: tuple[int, int]) -> Any:
    if grid == (1, 1):
        return layers.GlobalAveragePooling2D(name="pool")(maps)
    height, width = maps.shape[1:3]
    rows, columns = grid
    if height % rows or width % columns:
        raise RecipeError(
            f"a grid of {rows}×{columns} cells does not divide maps of {height}×{width}; choose divisors, or another input size"
        )
    cells = layers.AveragePooling2D((height // rows, width // columns), name="pool")(maps)
    return layers.Flatten(name="cells")(cells)
