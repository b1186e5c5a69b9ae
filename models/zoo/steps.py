"""A picture as a sequence: its rows or columns, several of them as one step, or each of them in several."""

from __future__ import annotations

from typing import Any, Literal

from keras import layers

from models.errors import RecipeError

Scan = Literal["rows", "columns"]


def in_steps(pixels: Any, *, scan: Scan, steps: int | None = None) -> Any:
    """Pixels `[B, H, W, …]` → `[B, steps, values]`: top to bottom and left to right, by `columns` the other way round.

    Each line is a step, unless another number is given. Where there are more lines than steps, lines that lie beside each other are one step; where there are fewer, a line is cut into
    steps. Raises RecipeError where neither comes out even.
    """
    height, width, *rest = pixels.shape[1:]
    if scan == "columns":
        axes = tuple(range(3, 3 + len(rest)))
        pixels = layers.Permute((2, 1, *axes), name="columns")(pixels)
        height, width = width, height
    steps = steps or height
    if height % steps and (steps % height or width % (steps // height)):
        raise RecipeError(
            f"{height} {scan} of {width} pixels do not come out even in {steps} steps; choose a divisor of {height}, or {height} times a "
            f"divisor of {width}"
        )
    return layers.Reshape((steps, -1), name="steps")(pixels)
