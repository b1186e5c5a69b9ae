"""From a trained Keras model to a bundle that serves: split, fold, write, compare, store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from models.errors import NotSplittable
from models.export.clip.networks import clip_networks
from models.export.model.outputs import Activation, Steps
from models.export.model.subclassed import as_functional
from models.export.networks import Networks, Weights
from models.export.normalization import Normalization
from models.export.pack import pack
from models.export.split.networks import same_color, split_networks
from models.files.load import load_keras
from models.provenance import file_sha256
from service.bundle.manifest import Input, Provenance, Sampling, Task
from service.bundle.store import Bundle


def keras_networks(
    model: keras.Model,
    *,
    input: Input,  # noqa: A002 -- the manifest's own word
    normalization: Normalization | None = None,
    activation: Activation | None = None,
    weights: Weights = "float32",
    steps: Steps | None = None,
    frames: int = 16,
    seed: int = 0,
) -> Networks:
    """The graphs of `model`, equal to it within 1e-4 in probability; raises ExportRefused. `frames`: the usual T.

    Encoder and head where frames stand alone before they meet, else one clip network. A subclassed model, and layers of the
    user's own, are taken apart first.
    """
    normalization = normalization or Normalization(color="gray" if input.color == "gray" else "rgb")
    same_color(input, normalization)
    model = as_functional(model, input=input, frames=frames)
    asked: dict[str, Any] = {
        "input": input,
        "normalization": normalization,
        "activation": activation,
        "weights": weights,
        "steps": steps,
        "frames": frames,
        "seed": seed,
    }
    try:
        return split_networks(model, **asked)
    except NotSplittable as reason:
        networks = clip_networks(model, **asked)
        return replace(networks, report={**networks.report, "not_split": str(reason)})


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
    steps: Steps | None = None,
    provenance: Provenance | None = None,
    seed: int = 0,
) -> Bundle:
    """Write the bundle of `model` (or of its `.keras` file) to the folder `out`; raises ExportRefused or BundleError.

    The same model and arguments give the same bytes. `activation` is added to a model that ends in plain scores; a model that
    has its own needs none, "none" says that plain scores are probabilities. `steps`: what answers for the clip where the model answers for each step.
    """
    provenance = provenance or Provenance()
    if not isinstance(model, keras.Model):
        file = Path(model)
        model = load_keras(file)
        provenance = provenance.model_copy(update={"source_sha256": file_sha256(file)})
    sampling = sampling or Sampling()
    networks = keras_networks(
        model,
        input=input,
        normalization=normalization,
        activation=activation,
        weights=weights,
        steps=steps,
        frames=sampling.frames,
        seed=seed,
    )
    return pack(
        networks,
        out=out,
        name=name,
        version=version,
        labels=labels,
        input=input,
        sampling=sampling,
        tasks=tasks,
        description=description,
        activation=activation,
        provenance=provenance,
        seed=seed,
    )
