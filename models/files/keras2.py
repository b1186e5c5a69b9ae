"""Files of Keras 2: `.h5` read directly, `.keras` and SavedModel folders through tf-keras."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras

from models.errors import ExportRefused
from models.files.cudnn import plain_layers, plain_weights
from models.files.keras2_model import Builder, lists
from models.files.kind import Kind
from models.files.misfit import difference
from models.files.through_tf_keras import compare, is_there, through_tf_keras


def load_keras2(path: Path, kind: Kind, config: Mapping[str, Any], *, custom: Mapping[str, Any]) -> keras.Model:
    """The model at `path`, as `config` describes it, in Keras 3. Where tf-keras is installed both must answer alike; raises ExportRefused.

    `custom`: classes of the user's own code, which tf-keras is not given: an `.h5` with such is not compared.
    """
    if kind == "keras2_h5":
        config = plain_layers(config)
    model = Builder(custom).build(lists(config))
    if not isinstance(model, keras.Model) or not model.built:
        raise ExportRefused(
            f"{path} does not say what its model takes; call it once on data, or build it, before it is saved"
        )
    if kind == "keras2_h5":
        load_weights(model, path, layout=".h5")
        if custom or not is_there():
            return model
    with through_tf_keras(path, kind, config) as found:
        if kind != "keras2_h5":
            load_weights(model, found.file, layout=".h5")
        compare(model, found, path=path)
    return model


def load_weights(model: keras.Model, path: Path, *, layout: str) -> None:
    """Give `model` the weights in `path`; `layout` is `.h5` (Keras 2: by layer names) or `.weights.h5` (Keras 3). Raises ExportRefused."""
    with tempfile.TemporaryDirectory(prefix="marey-weights-") as folder:
        link = Path(folder) / f"model{layout}"  # Keras tells the layouts apart by the name
        source = plain_weights(path, folder=Path(folder)) if layout == ".h5" else path
        link.symlink_to(source.resolve())
        try:
            if layout == ".h5":
                _check_names(model, path)
            with complete():
                model.load_weights(link)
        except (ValueError, KeyError, OSError, TypeError, UserWarning) as error:
            reason = (
                difference(model, source, layout=layout) or (str(error).strip() or type(error).__name__).splitlines()[0]
            )
            raise ExportRefused(
                f"the weights in {path} do not fit the model {model.name!r} ({reason}); give the code that built the model they were saved from"
            ) from None


@contextmanager
def complete() -> Iterator[None]:
    """Keras warns where the file holds no weights for a layer, which then keeps random ones: here that is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message="(?s).*(freshly-initialized|Skipping|could not be loaded)", category=UserWarning
        )
        yield


def _check_names(model: keras.Model, path: Path) -> None:
    """Keras 3 gives such weights to layers by their order alone: the names must say the same."""
    with h5py.File(path) as file:
        group = file["model_weights"] if "layer_names" not in file.attrs else file
        names = [_text(name) for name in group.attrs["layer_names"]]
        saved = [name for name in names if len(group[name].attrs["weight_names"])]
    ours = [layer.name for layer in model.layers if layer.weights]
    if sorted(saved) == sorted(ours) and saved != ours:
        raise ExportRefused(
            f"the layers in {path} stand in another order ({saved[:3]} …) than in the model ({ours[:3]} …); save the model with Keras 3"
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
