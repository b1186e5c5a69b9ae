"""TensorFlow functions in a user's `call`, applied to symbolic Keras tensors: each becomes an operation of the functional model.

Keras 3 itself refuses them there. Functions that keras.ops has too become these, which the node writers know; any other is kept
as it is and goes through tf2onnx.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

_active = False
_registered = False
# Of keras.ops, by the name of TensorFlow's function: the arguments that are passed on, by their names there and here.
_SAME: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "reduce_mean": (ops.mean, {"input_tensor": "x", "axis": "axis", "keepdims": "keepdims"}),
    "reduce_sum": (ops.sum, {"input_tensor": "x", "axis": "axis", "keepdims": "keepdims"}),
    "reduce_max": (ops.max, {"input_tensor": "x", "axis": "axis", "keepdims": "keepdims"}),
    "reduce_min": (ops.min, {"input_tensor": "x", "axis": "axis", "keepdims": "keepdims"}),
    "concat": (ops.concatenate, {"values": "xs", "axis": "axis"}),
    "expand_dims": (ops.expand_dims, {"input": "x", "axis": "axis"}),
    "squeeze": (ops.squeeze, {"input": "x", "axis": "axis"}),
    "transpose": (ops.transpose, {"a": "x", "perm": "axes"}),
    "softmax": (ops.softmax, {"logits": "x", "axis": "axis"}),
    "relu": (ops.relu, {"features": "x"}),
    "tanh": (ops.tanh, {"x": "x"}),
    "sigmoid": (ops.sigmoid, {"x": "x"}),
    "multiply": (ops.multiply, {"x": "x1", "y": "x2"}),
    "add": (ops.add, {"x": "x1", "y": "x2"}),
    "subtract": (ops.subtract, {"x": "x1", "y": "x2"}),
}


class TensorFlowCall(keras.Operation):  # type: ignore[misc]  # Keras ships no types
    """One call of a TensorFlow function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(name=f"tf_{function.__name__}")
        self._function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


@contextlib.contextmanager
def tensorflow_calls() -> Iterator[None]:
    """While this is open, TensorFlow's functions take symbolic Keras tensors."""
    global _active  # noqa: PLW0603 -- TensorFlow's list of dispatchers is global and can only grow
    _register()
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before


def _register() -> None:
    global _registered  # noqa: PLW0603
    if _registered:
        return
    import tensorflow as tf  # noqa: PLC0415 -- seconds to import

    dispatch = tf.__internal__.dispatch

    class KerasTensors(dispatch.GlobalOpDispatcher):  # type: ignore[misc, name-defined]
        def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
            if not _active or not any(map(_symbolic, keras.tree.flatten((args, kwargs)))):
                return self.NOT_SUPPORTED
            return _apply(op, args, kwargs)

    KerasTensors().register()
    _registered = True


def _symbolic(part: Any) -> bool:
    return isinstance(part, keras.KerasTensor)


def _apply(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    name = function.__name__.removesuffix("_v2")
    if name in ("convert_to_tensor", "identity", "convert_to_tensor_v2_with_dispatch"):
        return next(part for part in keras.tree.flatten((args, kwargs)) if _symbolic(part))
    if name == "reshape":
        x, sizes = inspect.signature(function).bind(*args, **kwargs).args[:2]
        known = batch_first(x.shape, sizes) if _symbolic(x) and isinstance(sizes, (list, tuple)) else None
        return TensorFlowCall(function)(*args, **kwargs) if known is None else ops.reshape(x, known)
    if name in _SAME:
        same, arguments = _SAME[name]
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        passed = {
            name: value for name, value in given.items() if name != "name" and value is not None and value is not False
        }
        if passed.keys() <= arguments.keys():
            return same(**{arguments[name]: value for name, value in passed.items()})
    return TensorFlowCall(function)(*args, **kwargs)


def batch_first(shape: Sequence[int | None], sizes: Sequence[Any]) -> tuple[int, ...] | None:
    """`sizes` to reshape `shape` to, its batch as -1 and every other a number; None where they are not known."""
    lead, *rest = sizes
    if lead == -1 and all(isinstance(size, int) for size in rest):
        return (-1, *rest)
    if isinstance(lead, int) or not all(isinstance(size, int) for size in rest):
        return None
    if -1 not in rest:
        return (-1, *rest)
    if None in shape[1:]:
        return None
    missing = math.prod(size or 1 for size in shape[1:]) // math.prod(size for size in rest if size != -1)
    return (-1, *(missing if size == -1 else size for size in rest))
