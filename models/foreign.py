"""Take in a model that was trained elsewhere: what its file does not say, the command line must."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from models.errors import ExportRefused
from models.export.exporter import export_model
from models.export.from_onnx import OnnxFile, onnx_networks
from models.export.model.subclassed import as_functional
from models.export.model.two_files import join_files
from models.export.networks import Weights
from models.export.normalization import Normalization
from models.export.pack import pack
from models.files.load import load_keras
from models.files.model_code import ModelCode
from models.provenance import file_sha256, packages
from models.readings.ask import normalization_of
from models.readings.flags import Reading, input_of, sampling_of
from models.readings.onnx_subject import OnnxSubject
from models.readings.subject import KerasSubject, Subject, check_labels, pixels_shape
from service.bundle.manifest import Input, Provenance, Sampling
from service.bundle.store import Bundle, sha256

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """What the user brings: one `model`, an `encoder` with its `head`, or one of these two as ONNX (`onnx`, then `head` is one too).

    `code` makes or completes the model; `trust`: what the files hold may run.
    """

    model: Path | None = None
    encoder: Path | None = None
    head: Path | None = None
    onnx: Path | None = None
    code: ModelCode | None = None
    trust: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for file in (self.model, self.encoder, self.onnx, self.head) if file is not None)

    def open(self) -> keras.Model | OnnxSubject:
        """The model itself, its code not yet looked into. Raises ExportRefused."""
        if self.onnx is not None:
            file, head = OnnxFile.read(self.onnx), None if self.head is None else OnnxFile.read(self.head)
            if file.layout is None:
                raise ExportRefused(
                    f"{self.onnx} takes features and no pixels; give the CNN with --from-onnx and this with --head"
                )
            return OnnxSubject(file, head)
        if self.model is not None:
            return load_keras(self.model, code=self.code, trust=self.trust)
        assert self.encoder is not None
        assert self.head is not None
        parts = (load_keras(file, code=self.code, trust=self.trust) for file in (self.encoder, self.head))
        return join_files(*parts)


def export_foreign(
    source: Source,
    reading: Reading,
    *,
    out: Path,
    name: str,
    version: str,
    labels: Path,
    weights: Weights,
    calibration: Path,
    command: str,
    tell: Tell,
) -> Bundle:
    """Export `source` to a float bundle at `out`; `tell` gets a line on how frames will reach it.

    Raises ExportRefused with the flag that is missing or wrong; where that is --preprocess, with the likeliest readings as they
    answer to clips of `calibration`.
    """
    names = read_labels(labels)
    subject, spec, sampling = _opened(source.open(), reading)
    check_labels(subject, names)
    normalization = normalization_of(
        subject, reading, spec=spec, sampling=sampling, labels=names, calibration=calibration
    )
    tell(_told(subject, normalization, spec=spec, sampling=sampling, fixed=subject.frames))
    provenance = Provenance(source_sha256=_digest(source), packages=packages(), data=calibration.name, command=command)
    if isinstance(subject, OnnxSubject):
        networks = onnx_networks(
            subject.file.sized(spec.height, spec.width),
            input=spec,
            normalization=normalization,
            head=subject.head,
            activation=reading.activation,
            weights=weights,
            frames=sampling.frames,
        )
        return pack(
            networks,
            out=out,
            name=name,
            version=version,
            labels=names,
            input=spec,
            sampling=sampling,
            provenance=provenance,
        )
    assert isinstance(subject, KerasSubject)
    return export_model(
        subject.model,
        out=out,
        name=name,
        version=version,
        labels=names,
        input=spec,
        sampling=sampling,
        normalization=normalization,
        activation=reading.activation,
        weights=weights,
        steps=reading.steps,
        provenance=provenance,
    )


def _opened(model: keras.Model | OnnxSubject, reading: Reading) -> tuple[Subject, Input, Sampling]:
    """The model as something that can be asked, and how frames reach it. Code of the user's own becomes calls of layers here."""
    if isinstance(model, OnnxSubject):
        return model, input_of(model.frame_shape, reading), sampling_of(model.frames, reading)
    shape = pixels_shape(model, gray=reading.color == "gray")
    height, width, channels = shape[-3:]
    spec = input_of((height, width, channels), reading)
    asked = sampling_of(shape[1] if len(shape) == 5 else None, reading)
    subject = KerasSubject(as_functional(model, input=spec, frames=asked.frames))
    return subject, spec, sampling_of(subject.frames, reading)  # its code may have fixed T


def read_labels(file: Path) -> tuple[str, ...]:
    """One class name a line; empty lines at the end do not count. Raises ExportRefused for fewer than two, or one twice."""
    try:
        names = tuple(name.strip() for name in file.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ExportRefused(
            f"{file} cannot be read as labels ({error}); give a text file with one class name a line"
        ) from None
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise ExportRefused(f"{file} names {twice!r} twice; each class needs a name of its own")
    if len(names) < 2:
        raise ExportRefused(
            f"{file} holds {len(names)} label(s), at least 2 are needed; a model of one output is given as two classes, the one it answers 0 for first"
        )
    return names


def _digest(source: Source) -> str:
    """Of the one file, or of the digests of several and of those in a folder."""
    files = [each for file in source.files for each in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    digests = [file_sha256(file) for file in files if file.is_file()]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode())


def _told(subject: Subject, normalization: Normalization, *, spec: Input, sampling: Sampling, fixed: int | None) -> str:
    inside = subject.scaled_in
    scaled = f"scaled by {inside!r} inside the model" if inside else "as bytes 0…255"
    outside = "" if normalization.is_identity else f"{normalization.sentence}, then "
    order = {"bgr": "BGR", "gray": "grey", "rgb": "RGB"}[normalization.color]
    taken = (
        f"{sampling.frames} frames over the whole clip" if sampling.fps is None else f"{sampling.fps:g} frames a second"
    )
    if fixed:
        taken += ", the number that the model takes; a shorter clip's are repeated"
    return f"frames: {taken}; {spec.height}×{spec.width} by {spec.resize.rule}; {order}; {outside}{scaled}"
