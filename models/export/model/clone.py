"""Copies of Keras layers: same settings, same weights, float32, a name of their own, any rank of input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from models.errors import ExportRefused
from models.export.model.reason import reason
from models.export.model.trace import Call, Edge, describe, functional, replay, trace


class Cloner:
    """Rebuilds calls on new tensors. A layer that is called twice is copied once, so that its weights stay shared."""

    def __init__(self) -> None:
        self._copies: dict[int, Any] = {}
        self._names: set[str] = set()

    def run(self, calls: Iterable[Call], values: dict[Edge, Any]) -> None:
        """Apply copies of `calls` to `values`, symbolic Keras tensors by edge, which gains the results."""
        replay(calls, values, lambda call, args, kwargs: self.apply(call.operation, args, kwargs))

    def apply(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(operation, keras.Layer):
            return _applied(operation, operation, args, kwargs)
        inner = functional(operation)
        if inner is not None:
            return self._inline(inner, args, kwargs)
        copy = self._copies.get(id(operation))
        if copy is not None:
            return _applied(copy, operation, args, kwargs)
        copy = self._copies[id(operation)] = self.copy(operation)
        result = _applied(copy, operation, args, kwargs)
        give_weights(copy, operation.get_weights(), like=operation)
        return result

    def copy(self, layer: Any, **changes: Any) -> Any:
        """A new layer with the settings of `layer` but for `changes`; its weights are still its own. Raises ExportRefused."""
        if getattr(layer, "stateful", False):
            raise ExportRefused(
                f"{describe(layer)} has stateful=True, and each clip starts anew; rebuild it with stateful=False"
            )
        try:
            config = _in_float32(layer.get_config())
            return type(layer).from_config({**config, "name": self.unique(layer.name), **changes})
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ExportRefused(
                f"{describe(layer)} cannot be made anew from its own get_config ({reason(error)}); {_remedy(layer)}"
            ) from error

    def unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate

    def _inline(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        flat = trace(model)
        given = [
            part
            for part in keras.tree.flatten((args, kwargs))
            if keras.ops.is_tensor(part) or isinstance(part, keras.KerasTensor)
        ]
        values = dict(zip(flat.inputs, given, strict=True))
        self.run(flat.calls, values)
        results = [values[edge] for edge in flat.outputs]
        return results[0] if len(results) == 1 else results


def _applied(copy: Any, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`copy` of `operation` on new tensors; raises ExportRefused where it does not take them."""
    try:
        return copy(*args, **kwargs)
    except ExportRefused:
        raise
    except Exception as error:
        shapes = [list(part.shape) for part in keras.tree.flatten((args, kwargs)) if hasattr(part, "shape")]
        raise ExportRefused(
            f"{describe(operation)} does not take {', '.join(map(str, shapes)) or 'what it is given'} ({reason(error)}); "
            "give the model a fixed number of frames and a fixed height and width"
        ) from error


def _in_float32(config: Any) -> Any:
    """`config` and those of layers within it without their policies: mixed precision is a matter of training."""
    if isinstance(config, dict):
        return {name: "float32" if _is_policy(name, part) else _in_float32(part) for name, part in config.items()}
    return [_in_float32(part) for part in config] if isinstance(config, list) else config


def _is_policy(name: str, part: Any) -> bool:
    return name == "dtype" and (
        isinstance(part, str) or (isinstance(part, dict) and "Policy" in part.get("class_name", ""))
    )


def _remedy(layer: Any) -> str:
    if isinstance(layer, keras.layers.Lambda):
        return "replace it with a layer, or with the keras.ops that it calls: those carry no code of their own"
    return "register classes and functions of your own with keras.saving.register_keras_serializable, or use what Keras has"


def give_weights(layer: Any, weights: list[Any], *, like: Any) -> None:
    """Set the weights of a built `layer`; raises ExportRefused where the copy of `like` came out another shape."""
    wanted, found = [array.shape for array in weights], [tuple(weight.shape) for weight in layer.weights]
    if wanted != found:
        raise ExportRefused(
            f"{describe(like)} holds weights {wanted} and its copy, made by from_config, {found}; "
            "its get_config must return all that decides their shapes, and none may depend on the number of frames"
        )
    layer.set_weights(weights)
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()  # Normalization computes with values derived from its weights
