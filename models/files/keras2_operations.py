"""TensorFlow operations in a Keras 2 model (`x / 127.5`, `tf.nn.relu(x)`, `preprocess_input(x)`) as operations of Keras 3.

Keras 2 stored each as a TFOpLambda or a SlicingOpLambda with the name of TensorFlow's function and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from models.errors import ExportRefused

# TensorFlow's names for arguments that the functions below call otherwise; `name` and what is only a hint are left out.
_IGNORED = frozenset({"name", "data_format"})
_ARGUMENTS = {"input": "x", "tensor": "x", "logits": "x", "features": "x", "input_tensor": "x", "a": "x"}

Function = Callable[..., Any]


def _bias_add(x: Any, bias: Any) -> Any:
    return keras.ops.add(x, np.asarray(bias, np.float32) if isinstance(bias, list) else bias)


def _take(x: Any, slice_spec: Any) -> Any:
    """`x[spec]`; a reversal of the last axis, as in RGB → BGR, becomes a choice of channels, which every runtime has."""
    spec = tuple(_slice(part) for part in (slice_spec if isinstance(slice_spec, list) else [slice_spec]))
    if len(spec) in (2, len(x.shape)) and spec[-1] == slice(None, None, -1) and _whole(spec[:-1]):
        return keras.ops.take(x, list(range(x.shape[-1]))[::-1], axis=-1)
    return x[spec]


def _whole(spec: tuple[Any, ...]) -> bool:
    return all(part is Ellipsis or part == slice(None) for part in spec)


def _slice(part: Any) -> Any:
    if isinstance(part, dict):
        if part.get("class_name") == "__ellipsis__":
            return Ellipsis
        return slice(part["start"], part["stop"], part["step"])
    return part


_TWO: dict[str, Function] = {
    "add": keras.ops.add,
    "subtract": keras.ops.subtract,
    "multiply": keras.ops.multiply,
    "truediv": keras.ops.true_divide,
    "divide": keras.ops.true_divide,
    "maximum": keras.ops.maximum,
    "minimum": keras.ops.minimum,
    "pow": keras.ops.power,
}
_FUNCTIONS: dict[str, Function] = {
    **{f"math.{name}": function for name, function in _TWO.items()},
    **{f"__operators__.{name}": function for name, function in _TWO.items()},
    "nn.bias_add": _bias_add,
    "cast": lambda x, dtype: keras.ops.cast(x, _dtype(dtype)),
    "identity": lambda x: x,
    "math.negative": keras.ops.negative,
    "math.abs": keras.ops.abs,
    "math.square": keras.ops.square,
    "math.sqrt": keras.ops.sqrt,
    "math.exp": keras.ops.exp,
    "math.log": keras.ops.log,
    "math.sigmoid": keras.ops.sigmoid,
    "math.tanh": keras.ops.tanh,
    "nn.sigmoid": keras.ops.sigmoid,
    "nn.tanh": keras.ops.tanh,
    "nn.relu": keras.ops.relu,
    "nn.relu6": keras.ops.relu6,
    "nn.softmax": lambda x, axis=None: keras.ops.softmax(x, axis=-1 if axis is None else axis),
    "math.reduce_mean": keras.ops.mean,
    "math.reduce_sum": keras.ops.sum,
    "math.reduce_max": keras.ops.max,
    "concat": lambda values, axis: keras.ops.concatenate(values, axis=axis),
    "stack": lambda values, axis=0: keras.ops.stack(values, axis=axis),
    "reshape": lambda x, shape: keras.ops.reshape(x, [x.shape[0], *shape[1:]] if shape[0] is None else shape),
    "expand_dims": keras.ops.expand_dims,
    "squeeze": keras.ops.squeeze,
    "transpose": lambda x, perm=None: keras.ops.transpose(x, perm),
    "linalg.matmul": keras.ops.matmul,
    "__operators__.getitem": _take,
}  # fmt: skip


def is_operation(class_name: str) -> bool:
    return class_name in ("TFOpLambda", "SlicingOpLambda")


def function_of(name: str, *, layer: str) -> Function:
    """What Keras 3 calls for TensorFlow's `name`; raises ExportRefused with the layer's name where there is nothing known."""
    try:
        return _FUNCTIONS[name]
    except KeyError:
        raise ExportRefused(
            f"layer {layer!r} is TensorFlow's tf.{name}, which Keras 2 stored as a call of its own and Keras 3 does not know; "
            "replace it by a Keras layer and save the model again"
        ) from None


def call(function: Function, args: list[Any], kwargs: dict[str, Any], *, layer: str) -> Any:
    """The result on Keras tensors, with TensorFlow's argument names; raises ExportRefused where these do not fit."""
    named = {_ARGUMENTS.get(key, key): value for key, value in kwargs.items() if key not in _IGNORED}
    positional = list(args)
    if function in _TWO.values():
        positional += [named.pop(key) for key in ("x", "y") if key in named]
        positional = [np.asarray(each, np.float32) if isinstance(each, list) else each for each in positional]
    try:
        return function(*positional, **named)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ExportRefused(
            f"layer {layer!r} cannot be rebuilt in Keras 3 ({_first_line(error)}); replace it by a Keras layer and save the model again"
        ) from None


def _dtype(value: Any) -> str:
    if isinstance(value, dict):  # {"class_name": "TypeSpec"…} or {"class_name": "__tensor_dtype__", …} of some versions
        value = value.get("config", value.get("value", "float32"))
    return str(value).removeprefix("<dtype: '").removesuffix("'>")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
