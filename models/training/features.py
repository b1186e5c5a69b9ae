"""Activations of the frozen part of a network, computed once for each clip and view, and kept on disk.

    clip ──load──► frames ──views──► [1 + V, T, H, W, C] ──frozen CNN up to a cut──► [1 + V, T, …]

View 0 is the clip exactly as the server would see it. One file per clip and cut, written whole or not at all, so that
an interrupted run goes on where it stopped; the folder's name is a hash of everything the activations depend on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.data.dataset import Dataset, Sample
from models.schedule import Augmentation
from models.training.augment import View
from models.training.marked import Marks
from models.training.part import FEATURES, cut_model
from models.training.rows import Cached
from service.bundle.manifest import Input, Sampling

_CHUNK = 32  # frames in one call of the CNN
_DENSE = 3  # views draw their frames from this many times as many


class Activations:
    """What the frozen CNN says of every clip and view, at each of `cuts`."""

    def __init__(
        self,
        encoder: keras.Model,
        *,
        dataset: Dataset,
        spec: Input,
        sampling: Sampling,
        cuts: Sequence[str] = (FEATURES,),
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: Path,
        marks: Marks | None = None,
    ) -> None:
        self._dataset, self._spec, self._sampling, self._seed, self._marks = dataset, spec, sampling, seed, marks
        self._augmentation = augmentation or Augmentation()
        self._cuts = tuple(dict.fromkeys(cuts))
        models = {cut: cut_model(encoder, cut=cut)[0] for cut in self._cuts}
        self._frozen = keras.Model(encoder.input, [model.output for model in models.values()])
        stamp = [spec.model_dump_json(), sampling.model_dump_json(), self._augmentation.model_dump_json(), str(seed)]
        stamp += [dataset.root.name, *([dataset.motion.model_dump_json()] if dataset.motion else [])]
        self._folders = {cut: cache / f"{cut}-{_digest(model, stamp)}" for cut, model in models.items()}

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Compute whatever is not on disk yet."""
        for folder in self._folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        missing = [sample for sample in samples if not all(self._file(cut, sample).is_file() for cut in self._cuts)]
        waiting: list[tuple[Sample, NDArray[np.uint8]]] = []
        for sample in tqdm(missing, desc="CNN, frozen part", unit="clip", disable=not missing):
            waiting.append((sample, self._views(sample)))
            # Images go through the CNN together, clips of many frames each by itself.
            if sum(views.shape[0] * views.shape[1] for _, views in waiting) >= _CHUNK:
                self._keep(waiting)
                waiting = []
        self._keep(waiting)

    def read(self, samples: Sequence[Sample], *, cut: str) -> Cached:
        """For each sample `[1 + V, T, …]`, mapped from disk; T may differ from clip to clip."""
        views = [np.load(self._file(cut, sample), mmap_mode="r") for sample in samples]
        places = None if self._marks is None else [self._places(sample, self._marks) for sample in samples]
        return Cached(views, [sample.name for sample in samples], places)

    def _keep(self, waiting: Sequence[tuple[Sample, NDArray[np.uint8]]]) -> None:
        if not waiting:
            return
        rows = self._encode(np.concatenate([views.reshape(-1, *views.shape[2:]) for _, views in waiting]))
        for cut, activations in zip(self._cuts, rows, strict=True):
            at = 0
            for sample, views in waiting:
                count = views.shape[0] * views.shape[1]
                kept = activations[at : at + count].reshape(*views.shape[:2], *activations.shape[1:])
                _write(self._file(cut, sample), kept)
                at += count

    def _views(self, sample: Sample) -> NDArray[np.uint8]:
        """`[1 + V, T, H, W, C]`."""
        frames = self._dataset.load(sample, spec=self._spec, sampling=self._sampling).frames
        if not self._augmentation.views:
            return frames[None]
        clip = self._dataset.load(sample, spec=self._spec, sampling=dense(self._sampling)).frames
        return np.stack([frames, *(draw.apply(clip) for draw in self._draws(sample, frames=len(frames)))])

    def _places(self, sample: Sample, marks: Marks) -> NDArray[np.int64]:
        """`[1 + V, P]`: what the places of each view show."""
        seen = marks.map(sample)
        moved = [draw.apply_to_map(seen) for draw in self._draws(sample, frames=1)]
        return np.stack([marks.places(each) for each in (seen, *moved)])

    def _draws(self, sample: Sample, *, frames: int) -> list[View]:
        """They depend on the seed and the clip's name, not on its place in the data set."""
        key = int.from_bytes(hashlib.sha256(identity(self._dataset, sample)).digest()[:8])
        return [
            View.draw(self._augmentation, frames=frames, seed=(self._seed, key, view))
            for view in range(self._augmentation.views)
        ]

    def _encode(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float16]]:
        parts = []
        for start in range(0, len(frames), _CHUNK):
            found = self._frozen.predict_on_batch(frames[start : start + _CHUNK].astype(np.float32))
            parts.append(found if isinstance(found, list) else [found])  # Keras unwraps a list of one
        return [np.concatenate(part).astype(np.float16) for part in zip(*parts, strict=True)]

    def _file(self, cut: str, sample: Sample) -> Path:
        state = sample.path.stat()  # a file that was written anew is another
        named = identity(self._dataset, sample) + f"\0{state.st_size}\0{state.st_mtime_ns}".encode()
        return self._folders[cut] / f"{hashlib.sha256(named).hexdigest()[:24]}.npy"


def dense(sampling: Sampling) -> Sampling:
    """So many frames that views of a clip can differ in time."""
    count = min(_DENSE * sampling.frames, 1024)
    return Sampling(frames=count, max_frames=count)


def identity(dataset: Dataset, sample: Sample) -> bytes:
    """What tells `sample` from all others of `dataset`, wherever that lies."""
    return dataset.identity(sample)


def _digest(model: keras.Model, stamp: Sequence[str]) -> str:
    total = hashlib.sha256("\0".join(stamp).encode())
    for layer in model.layers:
        total.update(f"{layer.name} {layer.get_config()}".encode())
    for weight in model.weights:
        total.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return total.hexdigest()[:16]


def _write(path: Path, array: NDArray[Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")  # another run may share the folder
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)
