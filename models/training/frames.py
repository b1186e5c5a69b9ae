"""Decoded frames of whole data sets in memory, and views of them drawn anew every epoch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.data.dataset import Dataset, Sample
from models.errors import BuildError
from models.schedule import Augmentation
from models.training.features import dense, identity
from models.training.marked import Marks
from models.training.rows import Drawing
from models.training.views import Views
from service.bundle.manifest import Input, Sampling
from service.media.sample import uniform


@dataclass(frozen=True, slots=True)
class Drawn:
    """Clips `[m, H, W, C]` uint8, of which an epoch sees new views of `lengths` frames; `plain` frames are the server's."""

    clips: Sequence[NDArray[np.uint8]]
    shown: Sequence[NDArray[np.int64]]
    names: Sequence[str]
    keys: NDArray[np.uint64]
    plan: Augmentation
    maps: Sequence[NDArray[np.uint8]] = ()
    marks: Marks | None = None

    @property
    def lengths(self) -> list[int]:
        return [len(shown) for shown in self.shown]

    def plain(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([self.clips[i][self.shown[i]] for i in chosen]).astype(np.float32)

    def drawn(
        self, order: Sequence[NDArray[np.int64]], *, seed: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[Drawing]:
        del rng
        # The next batch is drawn while the network learns from this one.
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._draw, order[0], seed)
            for following in order[1:]:
                drawing, waiting = waiting.result(), pool.submit(self._draw, following, seed)
                yield drawing
            yield waiting.result()

    def _draw(self, chosen: NDArray[np.int64], seed: tuple[int, int]) -> Drawing:
        views = Views.draw(self.plan, self.keys[chosen], seed=seed)
        rows = views.apply([self.clips[i] for i in chosen], frames=len(self.shown[chosen[0]]))
        if self.marks is None:
            return Drawing(rows.astype(np.float32, copy=False))
        moved = views.apply_to_maps([self.maps[i] for i in chosen])
        return Drawing(rows.astype(np.float32, copy=False), np.stack([self.marks.places(each) for each in moved]))


class Frames:
    """The frames of samples as uint8, each decoded once. `length` is the number of frames that the network takes, where that is fixed."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        spec: Input,
        sampling: Sampling,
        length: int | None,
        augmentation: Augmentation,
        memory_gib: float,
        marks: Marks | None = None,
    ) -> None:
        self._dataset, self._spec, self._sampling = dataset, spec, sampling
        self._length, self._augmentation, self._memory_gib = length, augmentation, memory_gib
        self._marks = marks
        self._held: dict[Sample, NDArray[np.uint8]] = {}
        # Views that lie elsewhere in time choose among more frames than the network sees.
        moves = augmentation.shift or augmentation.window < 1
        self._dense = dense(sampling) if moves and sampling.strategy == "uniform" else sampling

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Decode whatever is not held yet. Raises BuildError where all of it would take more than the limit."""
        missing = [sample for sample in samples if sample not in self._held]
        if not missing:
            return
        self._held[missing[0]] = first = self._load(missing[0])
        self._check(sum(clip.nbytes for clip in self._held.values()) + first.nbytes * (len(missing) - 1), samples)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            loaded = pool.map(self._load, missing[1:])
            progress = tqdm(missing[1:], desc="decode", unit="clip", disable=None)
            for sample, clip in zip(progress, loaded, strict=True):
                self._held[sample] = clip
        self._check(sum(clip.nbytes for clip in self._held.values()), samples)

    def read(self, samples: Sequence[Sample]) -> Drawn:
        """The frames of `samples`, which were prepared."""
        clips = [self._held[sample] for sample in samples]
        identities = [hashlib.sha256(identity(self._dataset, sample)).digest()[:8] for sample in samples]
        return Drawn(
            clips,
            [self._shown(len(clip)) for clip in clips],
            [sample.name for sample in samples],
            np.array([int.from_bytes(each) for each in identities], np.uint64),
            self._augmentation,
            [] if self._marks is None else [self._marks.map(sample) for sample in samples],
            self._marks,
        )

    @property
    def nbytes(self) -> int:
        return sum(clip.nbytes for clip in self._held.values())

    def _load(self, sample: Sample) -> NDArray[np.uint8]:
        return self._dataset.load(sample, spec=self._spec, sampling=self._dense).frames

    def _shown(self, count: int) -> NDArray[np.int64]:
        sampling = self._sampling
        found: Sequence[int] = range(count)
        if sampling.strategy == "uniform":
            found = uniform(count, sampling.frames, short_clip=sampling.short_clip)
        if self._length is not None:
            found = [found[i] for i in uniform(len(found), self._length, short_clip="repeat")]
        return np.array(found, np.int64)

    def _check(self, needed: int, samples: Sequence[Sample]) -> None:
        if needed > self._memory_gib * 2**30:
            raise BuildError(
                f"{len(samples)} clips as decoded frames take {needed / 2**30:.1f} GiB, above training.memory_gib = {self._memory_gib:g}; "
                "raise it, or take fewer or smaller frames, or a part of the data"
            )
