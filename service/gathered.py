"""Rows that lie elsewhere until they run: the windows of a long video overlap, and all of them at once would not fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Gathered:
    """`[N, T, …]`: row n is `source[numbers[n]]`, copied only by `array`.

    `source` is `[M, …]`, frames or features of one video; `numbers` `[N, T]` are positions in it.
    """

    source: NDArray[np.generic]
    numbers: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.numbers.shape, *self.source.shape[1:])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> Gathered:
        return Gathered(self.source, self.numbers[part])

    def array(self) -> NDArray[np.generic]:
        rows: NDArray[np.generic] = self.source[self.numbers]
        return rows
