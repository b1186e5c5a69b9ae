"""Rows to train on: what the network, or the part of it that is trained, is given of each clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Drawing:
    """Views of a batch of clips, `[b, T, …]` float32, and what their places show, `[b, P]` (−1: not known), where that is asked for."""

    rows: NDArray[np.float32]
    places: NDArray[np.int64] | None = None


class Rows(Protocol):
    """Clips by number; each has its `lengths` frames and its name."""

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def names(self) -> Sequence[str]: ...

    def plain(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """`[b, T, …]`: clips of one length as the server sees them."""
        ...

    def drawn(
        self, order: Sequence[NDArray[np.int64]], *, seed: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[Drawing]:
        """A view of every clip for one epoch, batch by batch in `order`.

        `seed` is that of the stage and the epoch. `rng` has drawn the order; its further draws may depend on it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Cached:
    """Activations of each clip, `[1 + V, T, …]`: view 0 is the clip as the server sees it, an epoch takes any one of them.

    `places` `[1 + V, P]` of each: what the places of its views show.
    """

    views: Sequence[NDArray[np.float16]]
    names: Sequence[str]
    places: Sequence[NDArray[np.int64]] | None = None

    @property
    def lengths(self) -> list[int]:
        return [len(views[0]) for views in self.views]

    def plain(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([self.views[i][0] for i in chosen]).astype(np.float32)

    def drawn(
        self, order: Sequence[NDArray[np.int64]], *, seed: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[Drawing]:
        del seed
        for chosen in order:
            views = rng.integers(0, [len(self.views[i]) for i in chosen])
            pairs = list(zip(chosen, views, strict=True))
            rows = np.stack([self.views[i][view] for i, view in pairs]).astype(np.float32)
            yield Drawing(rows, None if self.places is None else np.stack([self.places[i][view] for i, view in pairs]))
