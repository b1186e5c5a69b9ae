"""A Keras model as encoder and head: split, folded, written as ONNX, and compared with the model itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from models.errors import ExportRefused
from models.export.golden import shift
from models.export.graphs.encoder import encoder_onnx
from models.export.graphs.head_graph import head_graph
from models.export.half import halve
from models.export.model.fold import fold_batchnorm, round_half
from models.export.model.outputs import Activation, Steps
from models.export.networks import Networks, Weights
from models.export.normalization import Normalization
from models.export.split.parity import compare_graphs, compare_split
from models.export.split.reference import Reference
from models.export.split.split import Split, split_model
from service.bundle.manifest import Input, Network


def split_networks(
    model: keras.Model,
    *,
    input: Input,  # noqa: A002 -- the manifest's own word
    normalization: Normalization,
    activation: Activation | None = None,
    weights: Weights = "float32",
    frames: int = 16,
    steps: Steps | None = None,
    seed: int = 0,
) -> Networks:
    """The encoder and head of `model`, equal to it within 1e-4 in probability; `frames`: the usual T.

    `steps`: what answers for the clip where the model answers for each step.
    Raises NotSplittable where the model is no CNN followed by layers over time, and ExportRefused for what else is in the way.
    """
    split = split_model(
        model,
        height=input.height,
        width=input.width,
        channels=input.channels,
        activation=activation,
        steps=steps,
        frames=frames,
    )
    folded, folds = fold_batchnorm(split.encoder)
    reference = Reference(normalization.before(folded), split.head)
    lengths = sorted({split.static_frames or 1, split.static_frames or min(frames, 3)})
    own = compare_split(model, split, reference, normalization=normalization, lengths=lengths, seed=seed)
    rounding = None
    if weights == "float16":
        rounding = shift(reference, partial(_round, reference), frames=lengths[-1], seed=seed)
    encoder, head = encoder_onnx(reference.encoder), head_graph(reference.head)
    if weights == "float16":
        encoder, head = halve(encoder), halve(head)
    parity = compare_graphs(reference, encoder, head, static_frames=split.static_frames, seed=seed)
    report = {
        "source": split.source,
        "encoder_layers": _table(reference.encoder),
        "head_layers": _table(reference.head),
        "batchnorm_folded": folds,
        "normalization": normalization.entry(),
        "weights": weights,
        "rounding_shift": rounding,
        "split_against_model": own,
        "parity": parity,
        "notes": list(split.notes),
    }
    network = Network(
        feature_dim=split.feature_dim,
        static_frames=split.static_frames,
        attention=split.attention,
        positions=split.positions,
        multi_label=_multi_label(split),
    )
    return Networks(
        {"encoder": encoder, "head": head},
        network,
        split.classes,
        split.activation,
        split.source,
        reference,
        report,
        weights,
    )


def _round(reference: Reference) -> None:
    round_half(reference.encoder)
    round_half(reference.head)


def _table(model: keras.Model) -> list[dict[str, Any]]:
    rows = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return [{"name": layer.name, "class": type(layer).__name__, "weights": int(layer.count_params())} for layer in rows]


def _multi_label(split: Split) -> bool:
    """Sigmoids of their own for each class; a single one that became two classes is none."""
    return split.activation == "sigmoid" and not any(
        isinstance(layer, keras.layers.Concatenate) and layer.name.startswith("two_classes")
        for layer in split.head.layers
    )


def same_color(input: Input, normalization: Normalization) -> None:  # noqa: A002 -- the manifest's own word
    """Raises ExportRefused where frames and normalisation are of different colours."""
    if (normalization.color == "gray") != (input.color == "gray"):
        raise ExportRefused(
            f"frames are {input.color}, the normalisation is for {normalization.color}; give --color for both"
        )
