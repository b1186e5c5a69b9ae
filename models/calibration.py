"""Frames to calibrate on: real ones, of the train split, through the server's own preprocessing."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.data.dataset import Dataset, Sample
from models.data.layout import is_dataset
from models.data.load import IMAGES, VIDEOS
from models.data.motion import Motion
from models.errors import DataError
from models.quantize import CalibrationData, Trial
from models.quantize.frames import check_pictures
from service.bundle.manifest import Manifest
from service.errors import MareyError
from service.media.sample import uniform

MIN_FRAMES = 32
# A network that takes whole clips is shown as many of them at least, as far as they reach: clips differ more than their frames do.
_MIN_CLIPS = 32
DEFAULT_FRAMES = 512
_TRIAL_FRAMES = 1024


@dataclass(frozen=True, slots=True)
class CalibrationFrames:
    """`frames` `[N, H, W, C]` uint8 and what they were taken from.

    Each `clip_frames` of them are one clip; 1 where clips gave different numbers, which those of a clip network never do.
    """

    frames: NDArray[np.uint8]
    clip_frames: int
    source: CalibrationData


def from_dataset(
    dataset: Dataset, manifest: Manifest, *, split: str = "train", limit: int = DEFAULT_FRAMES, seed: int = 0
) -> CalibrationFrames:
    """At most `limit` frames of a data set's `split`, the same number of clips from each class as far as they reach."""
    samples = _stratified(dataset.split(split), seed)
    used, parts = _load(dataset, samples, manifest, limit)
    return _joined(parts, CalibrationData(dataset.root.name, dataset.digest(used), split))


def trial_of(dataset: Dataset, manifest: Manifest, *, split: str = "val", seed: int = 0) -> Trial | None:
    """Clips of `split`, which gave no ranges, to choose between quantized networks by: whole ones, as they are served; None where it is empty.

    The same number of each class, as far as they reach, up to 1,024 frames in all.
    """
    samples = _stratified([sample for sample in dataset.samples if sample.split == split], seed)
    whole = _whole_clip(manifest)
    used: list[Sample] = []
    clips: list[NDArray[np.uint8]] = []
    count = 0
    for sample in tqdm(samples[:_TRIAL_FRAMES], desc=split, unit="clip", disable=None):
        clip = dataset.load(sample, spec=manifest.input, sampling=manifest.sampling).frames
        if whole is not None:
            clip = clip[list(uniform(len(clip), whole, short_clip="repeat"))]
        count += len(clip)
        if count > _TRIAL_FRAMES:
            break
        used.append(sample)
        clips.append(clip)
    return Trial(split, tuple(clips), np.array(dataset.class_ids(used), np.int64)) if clips else None


def from_folder(
    folder: Path, manifest: Manifest, *, motion: Motion | None = None, limit: int = DEFAULT_FRAMES, seed: int = 0
) -> CalibrationFrames:
    """Any folder of images or videos, searched recursively, labels ignored; a data set with splits gives its train split.

    `motion` is that of the bundle's recipe. A file that cannot be decoded is passed over, which one line on stderr tells, as long as half of those tried can be. Raises DataError.
    """
    if is_dataset(folder):
        return from_dataset(Dataset.open(folder, motion=motion), manifest, limit=limit, seed=seed)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder; name one that holds images or videos like those that will be classified"
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES | VIDEOS)
    order = np.random.default_rng(seed).permutation(len(files))
    samples = [Sample(files[number], None, "", "", None) for number in order]
    used, parts = _load(Dataset(folder, (), tuple(samples), motion), samples, manifest, limit, strict=False)
    digest = hashlib.sha256()
    for sample in sorted(used, key=lambda each: each.path):
        digest.update(hashlib.sha256(sample.path.read_bytes()).digest())
    return _joined(parts, CalibrationData(folder.name, digest.hexdigest()))


def _stratified(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Shuffled, then dealt one class after the other, so that any first part holds the classes evenly."""
    random = np.random.default_rng(seed)
    by_class: dict[str, list[Sample]] = {}
    for number in random.permutation(len(samples)):
        by_class.setdefault(samples[number].label, []).append(samples[number])
    dealt = [(turn, label, sample) for label, found in by_class.items() for turn, sample in enumerate(found)]
    return [sample for _, _, sample in sorted(dealt, key=lambda each: each[:2])]


def _joined(parts: Sequence[NDArray[np.uint8]], source: CalibrationData) -> CalibrationFrames:
    lengths = {len(part) for part in parts}
    frames = np.concatenate(parts)
    for told in check_pictures(frames):
        tqdm.write(f"warning: {told}", file=sys.stderr)
    return CalibrationFrames(frames, lengths.pop() if len(lengths) == 1 else 1, source)


def _load(
    dataset: Dataset, samples: Sequence[Sample], manifest: Manifest, limit: int, *, strict: bool = True
) -> tuple[list[Sample], list[NDArray[np.uint8]]]:
    """`limit` frames of as many clips as there are: each gives its share, spread over its length, or all where a clip is one row.

    With `strict` a file that cannot be decoded is a DataError.
    """
    whole = _whole_clip(manifest)
    share = whole or -(-limit // max(1, len(samples)))
    limit = max(limit, _MIN_CLIPS * (whole or 0))
    used: list[Sample] = []
    frames: list[NDArray[np.uint8]] = []
    broken: list[str] = []
    count = 0
    for sample in tqdm(samples, desc="calibration", unit="clip", disable=None):
        if count >= limit:
            break
        try:
            clip = dataset.load(sample, spec=manifest.input, sampling=manifest.sampling).frames
        except (MareyError, OSError) as error:
            broken.append(_named(sample.path, error))
            if strict:
                raise DataError(f"a clip of the data set cannot be read: {broken[0]}") from error
            continue
        if whole is not None:
            chosen = clip[list(uniform(len(clip), whole, short_clip="repeat"))]
        else:
            spread = np.linspace(0, len(clip) - 1, min(share, len(clip), limit - count))
            chosen = clip[np.unique(spread.round().astype(int))]
        used.append(sample)
        frames.append(chosen)
        count += len(chosen)
    passed = (
        f"{len(broken)} of {len(used) + len(broken)} calibration files cannot be read, the first {broken[0]}"
        if broken
        else ""
    )
    if len(broken) > len(used):
        raise DataError(f"{passed}; give a folder of images or videos that are whole")
    if count < MIN_FRAMES:
        raise DataError(
            f"{count} calibration frames were found, at least {MIN_FRAMES} are needed; give a folder with more images or videos"
            f"{f' ({passed})' if passed else ''}"
        )
    if passed:
        tqdm.write(f"passed over: {passed}", file=sys.stderr)
    return used, frames


def _named(path: Path, error: Exception) -> str:
    """What is wrong with the file at `path`, which the server's own sentences do not name."""
    reason = str(error)
    return reason if str(path) in reason else f"{path}: {reason}"


def _whole_clip(manifest: Manifest) -> int | None:
    """The frames of a clip where the network, or its head, takes no part of one; a picture is then repeated, as when serving."""
    network = manifest.network
    return network.static_frames or (manifest.sampling.frames if network.kind == "clip" else None)
