"""The normalisation that a model needs outside itself: from the flag, or not at all, but never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError, ExportRefused
from models.export.normalization import Channels, Normalization
from models.readings.candidates import candidates
from models.readings.flags import Reading
from models.readings.sample import sample_clips
from models.readings.subject import Subject, probabilities
from models.readings.table import table
from service.bundle.manifest import Input, Sampling

_CLIPS, _FRAMES = 8, 4  # what statistics are taken of
_SHOWN = 3


def normalization_of(
    subject: Subject,
    reading: Reading,
    *,
    spec: Input,
    sampling: Sampling,
    labels: Sequence[str],
    calibration: Path,
) -> Normalization:
    """What `reading` says, or nothing where the model scales its pixels itself.

    Else raises ExportRefused: a sentence, and the likeliest readings as a table of answers to clips of `calibration`.
    """
    color: Channels = "gray" if spec.color == "gray" else (reading.color or "rgb")
    if reading.preprocess is not None:
        return Normalization.parse(reading.preprocess, color=color)
    if subject.scaled_in is not None:
        return Normalization.parse("none", color=color)
    asked = (
        "the model has no Rescaling or Normalization layer before its first weights, so its file does not say how pixels were normalised; "
        "give --preprocess none, caffe, tf, torch or MEAN/STD (0/255 divides by 255), as in training"
    )
    try:
        clips = sample_clips(calibration, spec=spec, sampling=sampling, count=_CLIPS)
    except DataError as error:
        raise ExportRefused(f"{asked}; no clip could be tried: {error}") from None
    found = candidates(
        [_thinned(frames, subject) for _, frames in clips],
        look=subject.look,
        color="gray" if spec.color == "gray" else reading.color,
        expected=subject.customary,
    )
    name, first = clips[0]
    rows = [
        probabilities(subject.ask(each.normalization.apply(first)[None]), labels, reading.activation)[0]
        for each in found[:_SHOWN]
    ]
    raise ExportRefused(
        f"{asked}\n{table(found, rows, clip=name, count=len(clips), labels=labels, family=subject.family)}"
    )


def _thinned(frames: NDArray[np.uint8], subject: Subject) -> NDArray[np.uint8]:
    """A few frames of a clip tell its statistics; a model of fixed T gets all of them."""
    return frames if subject.frames else frames[:: max(1, len(frames) // _FRAMES)]
