"""A Keras model as one clip network: for models that do not split, since frames meet before there are features of each.

T is fixed where the model fixes it or a layer is written out step by step. It stays free only where the graph was seen to equal
the model at several lengths, one frame among them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import onnx

from models.export.clip.parity import compare_graph, compare_reference, parity_shapes
from models.export.clip.reading import ClipReading, read_clip_model
from models.export.clip.reference import ClipReference
from models.export.golden import shift
from models.export.graphs.assemble import assemble
from models.export.half import halve
from models.export.model.fold import fold_batchnorm, round_half
from models.export.model.outputs import Activation, Steps
from models.export.model.reason import reason
from models.export.networks import Networks, Weights
from models.export.normalization import Normalization
from service.bundle.manifest import Input, Network


def clip_networks(
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
    """The clip network of `model`, equal to it within 1e-4 in every output at three (B, T); raises ExportRefused.

    `frames`: the T of a network whose model leaves it open and that cannot. `steps`: what answers for the clip where the model
    answers for each step.
    """
    reading = read_clip_model(model, input=input, activation=activation, steps=steps)
    fixed = reading.frames or (frames if reading.stepwise else None)
    arguments: dict[str, Any] = {
        "input": input,
        "normalization": normalization,
        "weights": weights,
        "seed": seed,
    }
    if fixed is not None:
        because = None if reading.frames else f"{reading.stepwise[0]} is written out step by step"
        return _export(model, reading, frames=fixed, because=because, **arguments)
    try:
        return _export(model, reading, frames=None, because=None, **arguments)
    except (
        Exception
    ) as error:  # of Keras, TensorFlow or onnxruntime, where a length is too short for a layer: no common class
        if reading.source == "image":
            raise
        because = f"it cannot be exported for any number of frames ({reason(error)})"
    return _export(model, reading, frames=frames, because=because, **arguments)


def clip_onnx(model: keras.Model) -> onnx.ModelProto:
    """`clips` uint8 `[B, T, H, W, C]` → the outputs of `model` by name, float32; raises ExportRefused by layer.

    `model` takes the same values as float32 and gives a dict of `probabilities` and what stands beside them.
    """
    frames, *shape = model.input_shape[1:]
    gives: dict[str, tuple[str | int, ...]] = {
        name: ("B", *(size or ("P" if name == "positions" else "T") for size in model.output[name].shape[1:]))
        for name in ("probabilities", "attention", "positions")
        if name in model.output
    }
    return assemble(model, name="clip", entry=("clips", ("B", frames or "T", *shape)), gives=gives)


def _export(
    model: keras.Model,
    reading: ClipReading,
    *,
    input: Input,  # noqa: A002 -- the manifest's own word
    normalization: Normalization,
    weights: Weights,
    frames: int | None,
    because: str | None,
    seed: int,
) -> Networks:
    folded, folds = fold_batchnorm(reading.build(input=input, normalization=normalization, frames=frames))
    reference = ClipReference(folded)
    shapes = parity_shapes(frames)
    lengths = shapes if frames is None else shapes[:1]  # the batch is the graph's affair
    own = compare_reference(model, reading, reference, normalization=normalization, shapes=lengths, seed=seed)
    rounding = None
    if weights == "float16":
        rounding = shift(reference, partial(round_half, reference.model), frames=shapes[-1][1], seed=seed)
    graph = clip_onnx(folded)
    if weights == "float16":
        graph = halve(graph)
    parity = compare_graph(reference, graph, shapes=shapes, seed=seed)
    rows = [layer for layer in folded.layers if not isinstance(layer, keras.layers.InputLayer)]
    classes = int(folded.output["probabilities"].shape[-1])
    report = {
        "source": reading.source,
        "clip_layers": [
            {"name": layer.name, "class": type(layer).__name__, "weights": int(layer.count_params())} for layer in rows
        ],
        "batchnorm_folded": folds,
        "normalization": normalization.entry(),
        "weights": weights,
        "rounding_shift": rounding,
        "written_step_by_step": list(reading.stepwise),
        "static_frames": frames,
        "static_frames_because": because,
        "clip_against_model": own,
        "parity": parity,
        "notes": list(reading.notes),
    }
    network = Network(
        kind="clip",
        static_frames=frames,
        attention=reading.outputs.attention is not None,
        positions=reading.outputs.positions is not None,
        multi_label=reading.activation == "sigmoid"
        and reading.flat.outputs[reading.outputs.probabilities].shape[-1] != 1,
    )
    return Networks({"clip": graph}, network, classes, reading.activation, reading.source, reference, report, weights)
