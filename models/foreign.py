"""Take in a model that was trained elsewhere: what its file does not say, the command line must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from models.calibration import CalibrationFrames, from_folder
from models.errors import ExportRefused
from models.export.exporter import export_model
from models.export.from_onnx import OnnxFile, onnx_networks
from models.export.model.subclassed import as_functional
from models.export.model.two_files import join_files
from models.export.networks import Weights
from models.export.normalization import Normalization
from models.export.pack import pack
from models.export.report.reading import frames, pixels, resized, size
from models.files.load import load_keras
from models.files.model_code import ModelCode
from models.provenance import file_sha256, packages
from models.readings.ask import normalization_of
from models.readings.enhance import parse_step
from models.readings.flags import Reading, input_of, parse_resize, parse_size, sampling_of
from models.readings.onnx_subject import OnnxSubject
from models.readings.subject import KerasSubject, Subject, check_labels, pixels_shape
from service.bundle.manifest import Input, Manifest, Network, Provenance, Sampling
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
    labels: Sequence[str],
    weights: Weights,
    calibration: Path,
    command: str,
    tell: Tell,
) -> tuple[Bundle, CalibrationFrames]:
    """Export `source` to a float bundle at `out`, and give the frames of `calibration` that fit it.

    Whatever can be refused is looked at before the model is exported, which takes minutes where it is large; `tell` gets a line on
    how frames will reach it. Raises DataError, and ExportRefused with the flag that is missing or wrong; where that is --preprocess, with
    the likeliest readings as they answer to clips of `calibration`.
    """
    check_flags(reading)
    subject, spec, sampling = _opened(source.open(), reading)
    check_labels(subject, labels)
    normalization = normalization_of(
        subject, reading, spec=spec, sampling=sampling, labels=labels, calibration=calibration
    )
    tell(_told(subject, normalization, spec=spec, sampling=sampling))
    network = Network(static_frames=subject.frames)
    # All of a manifest that frames are chosen by; whether the model can be split is not known yet.
    told: dict[str, Any] = {"input": spec, "sampling": sampling, "network": network}
    chosen = from_folder(calibration, Manifest.model_construct(**told))
    bundle = _exported(
        subject,
        reading,
        out=out,
        name=name,
        version=version,
        labels=labels,
        input=spec,
        sampling=sampling,
        normalization=normalization,
        weights=weights,
        provenance=Provenance(
            source_sha256=_digest(source), packages=packages(), data=calibration.name, command=command
        ),
    )
    exported = bundle.manifest.network
    same = exported.kind == network.kind and exported.static_frames == network.static_frames
    return bundle, chosen if same else from_folder(calibration, bundle.manifest)


def check_flags(reading: Reading) -> None:
    """Raise ExportRefused for a flag that no model could follow, before one is opened."""
    if reading.preprocess is not None:
        Normalization.parse(reading.preprocess, color=reading.color or "rgb")
    if reading.size is not None:
        parse_size(reading.size)
    parse_resize(reading.resize)
    for step in reading.enhance:
        parse_step(step)


def _exported(
    subject: Subject, reading: Reading, *, normalization: Normalization, weights: Weights, **packed: Any
) -> Bundle:
    """`packed`: what else `pack` and `export_model` both take."""
    if isinstance(subject, OnnxSubject):
        spec: Input = packed["input"]
        networks = onnx_networks(
            subject.file.sized(spec.height, spec.width),
            input=spec,
            normalization=normalization,
            head=subject.head,
            activation=reading.activation,
            weights=weights,
            frames=packed["sampling"].frames,
        )
        return pack(networks, activation=reading.activation, **packed)
    assert isinstance(subject, KerasSubject)
    return export_model(
        subject.model,
        normalization=normalization,
        activation=reading.activation,
        weights=weights,
        steps=reading.steps,
        **packed,
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


def _digest(source: Source) -> str:
    """Of the one file, or of the digests of several and of those in a folder."""
    files = [each for file in source.files for each in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    digests = [file_sha256(file) for file in files if file.is_file()]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode())


def _told(subject: Subject, normalization: Normalization, *, spec: Input, sampling: Sampling) -> str:
    color = {"bgr": "BGR", "gray": "grey", "rgb": "RGB"}[normalization.color]
    fed = pixels(normalization.entry(), inside=subject.scaled_in)
    return f"read as: {size(spec)} {color}, {resized(spec)}; pixels {fed}; {frames(sampling, fixed=subject.frames)}"
