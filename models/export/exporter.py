"""From a trained Keras model to a bundle that serves: split, fold, write, compare, store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import onnx

from models.errors import ExportRefused
from models.export.artifact import REPORT, artifact, json_bytes
from models.export.encoder import encoder_onnx
from models.export.fold import fold_batchnorm, round_half
from models.export.golden import answers, golden_clips, npz
from models.export.half import halve
from models.export.head import head_onnx
from models.export.normalization import Normalization
from models.export.parity import compare_graphs, compare_split
from models.export.reference import Reference
from models.export.split import Activation, Split, split_model
from service.bundle.manifest import Golden, Input, Manifest, Network, Provenance, Role, Sampling, Task
from service.bundle.store import Bundle, GoldenClips, sha256, write_bundle

Weights = Literal["float32", "float16"]
# What an engine may differ by in probability in fp32, and in fp16 by how the weights are stored; INT8's is measured when the
# bundle is quantized. In half, golden clips of three models moved by 1.2e-4 to 2.5e-3, 255 photos and clips by 4.9e-3 at most;
# rounding weights that the reference has in float32 adds up to 1.3e-2.
_FP32_TOLERANCE = 1e-3
_FP16_TOLERANCE: dict[Weights, float] = {"float16": 1e-2, "float32": 2e-2}
_GOLDEN_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Graphs:
    """What an export made of a model: the two graphs, the reference that they equal, and how well they do."""

    split: Split
    reference: Reference
    encoder: onnx.ModelProto
    head: onnx.ModelProto
    report: dict[str, Any]


def load_keras(path: str | Path) -> keras.Model:
    """The model in a `.keras` file. Keras's safe mode stays on: a Lambda would run code from the file. Raises ExportRefused."""
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = (
            "replace the Lambda layer by a layer or keras.ops, which carry no code of their own"
            if "ambda" in str(error)
            else "save it with model.save('model.keras') of Keras 3; a class of your own must be registered with keras.saving.register_keras_serializable"
        )
        raise ExportRefused(f"{path} cannot be loaded ({reason}); {remedy}") from error


def export_graphs(
    model: keras.Model,
    *,
    input: Input,  # noqa: A002 -- the manifest's own word
    normalization: Normalization | None = None,
    activation: Activation | None = None,
    weights: Weights = "float32",
    frames: int = 16,
    seed: int = 0,
) -> Graphs:
    """The encoder and head of `model`, equal to it within 1e-4 in probability; raises ExportRefused. `frames`: the usual T."""
    normalization = normalization or Normalization(color="gray" if input.color == "gray" else "rgb")
    if (normalization.color == "gray") != (input.color == "gray"):
        raise ExportRefused(
            f"frames are {input.color}, the normalisation is for {normalization.color}; give --color for both"
        )
    split = split_model(model, height=input.height, width=input.width, channels=input.channels, activation=activation)
    folded, folds = fold_batchnorm(split.encoder)
    reference = Reference(normalization.before(folded), split.head)
    lengths = sorted({split.static_frames or 1, split.static_frames or min(frames, 3)})
    own = compare_split(model, split, reference, normalization=normalization, lengths=lengths, seed=seed)
    rounding = None
    if weights == "float16":
        before = answers(reference, count=3, frames=lengths[-1], seed=seed).probabilities
        round_half(reference.encoder)
        round_half(reference.head)
        rounding = float(
            np.abs(answers(reference, count=3, frames=lengths[-1], seed=seed).probabilities - before).max()
        )
    encoder, head = encoder_onnx(reference.encoder), head_onnx(reference.head)
    if weights == "float16":
        encoder, head = halve(encoder), halve(head)
    parity = compare_graphs(reference, encoder, head, static_frames=split.static_frames, seed=seed)
    report = {
        "source": split.source,
        "encoder_layers": _table(reference.encoder),
        "head_layers": _table(reference.head),
        "batchnorm_folded": folds,
        "normalization": {
            "color": normalization.color,
            "mean": list(normalization.mean),
            "std": list(normalization.std),
        },
        "weights": weights,
        "rounding_shift": rounding,
        "split_against_model": own,
        "parity": parity,
    }
    return Graphs(split, reference, encoder, head, report)


def export_model(
    model: keras.Model | str | Path,
    *,
    out: str | Path,
    name: str,
    version: str,
    labels: Sequence[str],
    input: Input,  # noqa: A002 -- the manifest's own word
    sampling: Sampling | None = None,
    tasks: Sequence[Task] | None = None,
    description: str = "",
    normalization: Normalization | None = None,
    activation: Activation | None = None,
    weights: Weights = "float32",
    provenance: Provenance | None = None,
    seed: int = 0,
) -> Bundle:
    """Write the bundle of `model` (or of its `.keras` file) to the folder `out`; raises ExportRefused or BundleError.

    The same model and arguments give the same bytes. `tasks` defaults to video, and image where a clip may be one frame.
    `activation` is added to a model that ends in plain scores; a model that has its own needs none.
    """
    provenance = provenance or Provenance()
    if not isinstance(model, keras.Model):
        provenance = provenance.model_copy(
            update={"source_sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest()}
        )
        model = load_keras(model)
    sampling = sampling or Sampling()
    graphs = export_graphs(
        model,
        input=input,
        normalization=normalization,
        activation=activation,
        weights=weights,
        frames=sampling.frames,
        seed=seed,
    )
    split = graphs.split
    if len(labels) != split.classes:
        raise ExportRefused(
            f"the model tells {split.classes} classes apart, {len(labels)} labels are given; give one per output, in their order"
        )
    if split.static_frames and (sampling.frames, sampling.short_clip) != (split.static_frames, "repeat"):
        raise ExportRefused(
            f"the model takes {split.static_frames} frames and no other number; set frames = {split.static_frames} and short_clip = 'repeat'"
        )
    golden, spread = golden_clips(
        graphs.reference, frames=split.static_frames or min(sampling.frames, _GOLDEN_FRAMES), seed=seed
    )
    _check_probabilities(split, golden)
    clips = npz(golden)
    files = {
        "encoder.onnx": graphs.encoder.SerializeToString(deterministic=True),
        "head.onnx": graphs.head.SerializeToString(deterministic=True),
    }
    roles: dict[Role, str] = {"encoder": "encoder.onnx", "head": "head.onnx"}
    manifest = Manifest(
        name=name,
        version=version,
        description=description,
        tasks=tuple(tasks or (("video",) if split.static_frames else ("image", "video"))),
        labels=tuple(labels),
        input=input,
        sampling=sampling,
        network=Network(
            feature_dim=split.feature_dim,
            static_frames=split.static_frames,
            attention=split.attention,
            multi_label=_multi_label(split),
        ),
        activation=split.activation,
        artifacts={
            role: artifact(files[file], file, precision="fp32", weights=weights) for role, file in roles.items()
        },
        golden=Golden(sha256=sha256(clips), tolerance={"fp32": _FP32_TOLERANCE, "fp16": _FP16_TOLERANCE[weights]}),
        provenance=provenance,
    )
    report = {"export": {**graphs.report, "golden_spread": spread}}
    return write_bundle(out, manifest, {**files, manifest.golden.file: clips, REPORT: json_bytes(report)})


def _table(model: keras.Model) -> list[dict[str, Any]]:
    rows = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return [{"name": layer.name, "class": type(layer).__name__, "weights": int(layer.count_params())} for layer in rows]


def _multi_label(split: Split) -> bool:
    """Sigmoids of their own for each class; a single one that became two classes is none."""
    return split.activation == "sigmoid" and not any(
        isinstance(layer, keras.layers.Concatenate) and layer.name.startswith("two_classes")
        for layer in split.head.layers
    )


def _check_probabilities(split: Split, golden: GoldenClips) -> None:
    """Scores that are no probabilities would be served as such: ask what turns them into some."""
    rows = golden.probabilities
    inside = bool((rows >= 0).all() and (rows <= 1).all())
    sums = bool(np.allclose(rows.sum(axis=-1), 1, atol=1e-3))
    if not np.isfinite(rows).all():
        raise ExportRefused(
            "the model answers NaN or infinity to synthetic frames; check its weights and its normalisation"
        )
    if not (inside and (sums or _multi_label(split))):
        raise ExportRefused(
            f"the model's answers, such as {np.round(rows[0][:3], 3).tolist()}, are no probabilities; name the activation that it lacks with --activation softmax or sigmoid"
        )
