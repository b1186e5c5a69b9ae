"""A user's file, whatever it is, as a Keras 3 model. Nothing in it is run unless the user trusts it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from models.errors import ExportRefused
from models.files.keras2 import complete, load_keras2, load_weights
from models.files.kind import Kind, kind_of, read_config
from models.files.lambdas import refuse_lambdas
from models.files.model_code import ModelCode


def load_keras(path: str | Path, *, code: ModelCode | None = None, trust: bool = False) -> keras.Model:
    """The model at `path`: `.keras`, `.h5` or SavedModel of Keras 2 or 3, told by content, or weights for what `code` builds.

    Keras's safe mode stays on unless `trust`; `code` also defines the classes of the file's own layers. Raises ExportRefused.
    """
    path = Path(path)
    kind = kind_of(path)
    config = read_config(path, kind)
    of_keras3 = kind in ("keras3", "keras3_h5")
    if not (trust and of_keras3):
        refuse_lambdas(path, config, trustable=of_keras3)
    opened = None if code is None else code.open()
    custom = {} if opened is None else opened.custom
    if kind == "weights":
        if opened is None:
            raise ExportRefused(
                f"{path} holds weights and no layers; give the code that builds the model with --model-code FILE.py[:FUNCTION] --trust, "
                "or save the model itself with model.save('model.keras')"
            )
        model = opened.model()
        load_weights(model, path, layout=_layout(path))
        return model
    assert config is not None
    if of_keras3:
        return _keras3(path, kind, custom=custom, trust=trust)
    return load_keras2(path, kind, config, custom=custom)


def _layout(path: Path) -> str:
    with h5py.File(path) as file:
        return ".h5" if "layer_names" in file.attrs else ".weights.h5"


def _keras3(path: Path, kind: Kind, *, custom: Mapping[str, Any], trust: bool) -> keras.Model:
    with tempfile.TemporaryDirectory(prefix="marey-model-") as folder:
        link = Path(folder) / ("model.keras" if kind == "keras3" else "model.h5")  # Keras goes by the name alone
        link.symlink_to(path.resolve())
        try:
            with complete():
                model = keras.saving.load_model(link, custom_objects=dict(custom), compile=False, safe_mode=not trust)
        except (Exception, SystemExit) as error:  # SystemExit: of trusted code
            raise ExportRefused(_why(path, read_config(path, kind), error)) from error
    if not isinstance(model, keras.Model):
        raise ExportRefused(f"{path} holds a {type(model).__name__} and no model; save a keras.Model")
    return model


def _why(path: Path, config: Any, error: BaseException) -> str:
    """One sentence: which class is missing, else what Keras says and the remedy."""
    missing = re.search(r"Could not locate (?:class|function) '(\w+)'|Unknown layer: '(\w+)'", str(error))
    if missing:
        name = missing[1] or missing[2]
        layer = next(iter(_named(config, name)), None)
        where = f"layer {layer!r} of {path}" if layer else path
        return (
            f"{where} needs {name}, which is not Keras's own; give the file that defines it with --model-code FILE.py --trust, "
            "or build the model of Keras layers"
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{path} cannot be loaded ({reason}); if the file is whole, save it again with model.save('model.keras') of Keras 3"


def _named(config: Any, class_name: str) -> Iterator[str]:
    """The names of the layers of a class in a model's description."""
    if isinstance(config, dict):
        inner = config.get("config")
        if config.get("class_name") == class_name and isinstance(inner, dict) and "name" in inner:
            yield str(inner["name"])
        for each in config.values():
            yield from _named(each, class_name)
    elif isinstance(config, list):
        for each in config:
            yield from _named(each, class_name)
