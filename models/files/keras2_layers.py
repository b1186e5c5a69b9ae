"""One layer as Keras 2 described it, as a layer of Keras 3: settings that Keras 3 lost are dropped where they change nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from models.errors import ExportRefused
from models.files.keras2_functions import OTHERWISE

Build = Callable[[dict[str, Any]], Any]
Config = dict[str, Any]

# Settings of Keras 2 that Keras 3 has no more, and the values with which they mean nothing; any value where there are none.
_LOST: dict[str, tuple[Any, ...]] = {
    "time_major": (False,), "unroll": (False,), "implementation": (), "groups": (1,), "renorm": (False,), "renorm_clipping": (None,), "renorm_momentum": (),
    "fused": (), "virtual_batch_size": (None,), "adjustment": (None,), "causal": (False,), "ragged": (False,), "sparse": (False,),
    "batch_input_shape": (), "input_shape": (), "input_length": (), "query_shape": (), "key_shape": (), "value_shape": (),
    "dynamic": (False,), "synchronized": (), "num_cores": (), "unit_forget_bias": (), "use_causal_mask": (False,), "filters": (),
    "batch_size": (), "stateful": (False,), "zero_output_for_mask": (False,), "softmax_robust_masking": (), "experimental_run_tf_function": (), "vocabulary_size": (),
}  # fmt: skip
_RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}, "ELU": {"slope": "alpha"}}
_CLASSES = {"SyncBatchNormalization": "BatchNormalization", "BatchNormalizationV1": "BatchNormalization",
            "BatchNormalizationV2": "BatchNormalization", "LSTMV2": "LSTM", "GRUV2": "GRU", "Convolution2D": "Conv2D"}  # fmt: skip
_HOW_TRAINED = ("_initializer", "_regularizer", "_constraint")


def layer_from(entry: Mapping[str, Any], *, build: Build, custom: Mapping[str, Any]) -> Any:
    """The layer that `entry` describes, unbuilt. `build` makes those inside wrappers; `custom` are classes of the user's code.

    Raises ExportRefused with the layer's name where Keras 3 has no such class or setting.
    """
    class_name, config = _plain(str(entry["class_name"])), dict(entry["config"])
    name = str(config.get("name", entry.get("name", class_name)))
    if class_name in custom:
        return custom[class_name].from_config(config)
    known = getattr(keras.layers, _CLASSES.get(class_name, class_name), None)
    if not (inspect.isclass(known) and issubclass(known, keras.Layer)):
        raise ExportRefused(
            f"layer {name!r} is of the class {class_name}, which Keras 3 does not have; "
            "if it is your own, give the file that defines it with --model-code FILE.py --trust, else replace it and save the model again"
        )
    settings = _settings(known, config, name=name)
    for key, value in settings.items():
        settings[key] = _inner(value, build)
    try:
        return known(**settings)
    except (TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportRefused(
            f"layer {name!r} ({class_name}) of Keras 2 cannot be made in Keras 3 ({reason}); replace it and save the model again"
        ) from None


def input_shape(config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """`[B, …]` where a layer's settings tell what it takes, as the first layer's of a Sequential do."""
    shape = config.get("batch_input_shape", config.get("batch_shape"))
    return None if shape is None else tuple(shape)


def _plain(class_name: str) -> str:
    """`Package>Class` is how registered classes are written."""
    return class_name.rpartition(">")[2]


def _settings(known: type, config: Config, *, name: str) -> Config:
    parameters = inspect.signature(known).parameters
    accepted = {*parameters, "name", "trainable", "dtype"}
    renamed = _RENAMED.get(known.__name__, {})
    found: Config = {}
    for key, value in config.items():
        key = renamed.get(key, key)  # noqa: PLW2901 -- the very same setting
        if key.endswith(_HOW_TRAINED):
            continue  # the weights are in the file
        if key in accepted and not (key in ("groups", "filters") and "Depthwise" in known.__name__):
            found[key] = _value(key, value)
        elif key not in _LOST or (_LOST[key] and value not in _LOST[key]):
            raise ExportRefused(
                f"layer {name!r} ({known.__name__}) has the setting {key} = {value!r}, which Keras 3 does not have; "
                "save the model again without it"
            )
    if (
        known.__name__ in ("BatchNormalization", "LayerNormalization")
        and isinstance(found.get("axis"), list)
        and len(found["axis"]) == 1
    ):
        found["axis"] = found["axis"][0]
    return found


def _value(key: str, value: Any) -> Any:
    if key == "dtype":
        return _dtype(value)
    if key.endswith("activation") and isinstance(value, str):
        return OTHERWISE.get(value, value)
    return value


def _dtype(value: Any) -> Any:
    """A policy by its name."""
    return value["config"]["name"] if isinstance(value, dict) else value


def _inner(value: Any, build: Build) -> Any:
    """Layers inside settings: of a wrapper, of an RNN."""
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        return build(value)
    if isinstance(value, list) and value and all(isinstance(each, dict) and "class_name" in each for each in value):
        return [build(each) for each in value]
    return value
