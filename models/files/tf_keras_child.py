"""Run as a process of its own, with Keras 2 (the package tf-keras): read what Keras 2 wrote, and write it as `.h5` with samples.

    python -m models.files.tf_keras_child SOURCE KIND FOLDER

FOLDER holds `config.json`, the model's description, in which the parent found no Lambda. It gets `model.h5`, and `samples.npz` with
what Keras 2 answers: inputs `x0_0` … and outputs `y0_0` … of each sample. Nothing that the file holds is run: the layers are made
from their description, the weights read from tables. Keras 3 is not imported here.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_LENGTH, _SIDE = 3, 64  # for dimensions that the model leaves open
_BATCH = 2


def main(source: Path, kind: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write({"saved_model": _saved_model, "keras2": _archive, "keras2_h5": _hdf5}[kind](source, config), folder)


def _saved_model(source: Path, config: dict[str, Any]) -> Any:
    from tf_keras.models import model_from_json  # noqa: PLC0415 -- only in this process

    model = model_from_json(json.dumps(config))
    # The variables of a SavedModel are an object-based checkpoint of the model: a table, no code.
    model.load_weights(str(source / "variables" / "variables")).assert_existing_objects_matched().expect_partial()
    return model


def _archive(source: Path, config: dict[str, Any]) -> Any:
    from tf_keras.saving import deserialize_keras_object  # noqa: PLC0415

    with zipfile.ZipFile(source) as archive, tempfile.TemporaryDirectory() as folder:
        model = deserialize_keras_object(_renamed(config), safe_mode=True)
        model.load_weights(archive.extract("model.weights.h5", folder))
    return model


def _renamed(config: Any) -> Any:
    """Modules of the Keras 2 that came within TensorFlow by the names that tf-keras has for them."""
    if isinstance(config, dict):
        module = config.get("module")
        if isinstance(module, str) and module.startswith(("keras.src.", "keras.engine.")):
            config = {**config, "module": "tf_keras.src." + module.removeprefix("keras.").removeprefix("src.")}
        return {key: _renamed(value) for key, value in config.items()}
    return [_renamed(each) for each in config] if isinstance(config, list) else config


def _hdf5(source: Path, config: dict[str, Any]) -> Any:
    """By the description that the parent gives: layers of cuDNN, which run on no CPU, are plain ones in it, and tf-keras lays their weights out."""
    from tf_keras.models import model_from_json  # noqa: PLC0415 -- the parent has refused Lambdas, all else is a description

    model = model_from_json(json.dumps(config))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.h5"  # tf-keras tells HDF5 by the name
        file.symlink_to(source.resolve())
        model.load_weights(file)
    return model


def _write(model: Any, folder: Path) -> None:
    arrays: dict[str, Any] = {}
    random = np.random.default_rng(0)
    for number, scale in enumerate((255.0, 1.0)):  # as bytes, and as what most networks were trained on
        x = [_sample(tensor, random, scale) for tensor in model.inputs]
        result = model(x[0] if len(x) == 1 else x, training=False)
        outputs = (
            list(result.values())
            if isinstance(result, dict)
            else result
            if isinstance(result, (list, tuple))
            else [result]
        )
        arrays |= {f"x{number}_{index}": value for index, value in enumerate(x)}
        arrays |= {f"y{number}_{index}": np.asarray(value) for index, value in enumerate(outputs)}
    np.savez(folder / "samples.npz", **arrays)
    model.save(folder / "model.h5", save_format="h5", include_optimizer=False)


def _sample(tensor: Any, random: np.random.Generator, scale: float) -> Any:
    batch, *shape = tensor.shape
    open_ = (
        [_LENGTH, _SIDE, _SIDE] if len(shape) == 4 else [_SIDE, _SIDE] if len(shape) == 3 else [_LENGTH] * len(shape)
    )
    full = [size or free for size, free in zip(shape, [*open_, 3], strict=False)]
    return (scale * random.random((batch or _BATCH, *full))).astype(tensor.dtype.as_numpy_dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
