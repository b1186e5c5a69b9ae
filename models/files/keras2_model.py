"""A model as Keras 2 described it, rebuilt call by call in Keras 3: nested models, shared layers, TensorFlow's operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from models.errors import ExportRefused
from models.files.keras2_layers import input_shape, layer_from
from models.files.keras2_operations import call, function_of, is_operation

Entry = Mapping[str, Any]
_NESTED = ("Functional", "Model", "Sequential")


class Builder:
    """Makes models and layers from descriptions of Keras 2; `custom` are the classes of the user's own code, by name."""

    def __init__(self, custom: Mapping[str, Any] | None = None) -> None:
        self._custom = custom or {}

    def build(self, entry: Entry) -> Any:
        """The model or layer of `entry` (`class_name`, `config`), without weights. Raises ExportRefused with the layer at fault."""
        class_name = entry["class_name"]
        if class_name == "Sequential":
            return self._sequential(entry)
        if class_name in _NESTED:
            return self._functional(entry["config"])
        return layer_from(entry, build=self.build, custom=self._custom)

    def _sequential(self, entry: Entry) -> Any:
        config = entry["config"]
        entries = config if isinstance(config, list) else config["layers"]
        name = None if isinstance(config, list) else config.get("name")
        first = entries[0]
        shape = input_shape(first["config"])
        if shape is None and first["class_name"] in _NESTED[:2]:
            shape = self.build(first).input_shape
        if shape is None and not isinstance(config, list):
            shape = input_shape({"batch_shape": config.get("build_input_shape")})
        made = [self.build(each) for each in entries if each["class_name"] != "InputLayer"]
        if shape is None:
            return keras.Sequential(made, name=name)
        return keras.Sequential([keras.Input(batch_shape=shape), *made], name=name)

    def _functional(self, config: Entry) -> keras.Model:
        graph = _Graph()
        waiting: list[tuple[Entry, Any, list[Any]]] = []
        for entry in config["layers"]:
            if entry["class_name"] == "InputLayer":
                shape = input_shape(entry["config"])
                tensor = keras.Input(batch_shape=shape, dtype=_dtype(entry["config"]), name=entry["name"])
                graph.calls[entry["name"]] = [[tensor]]
                continue
            made = None if is_operation(entry["class_name"]) else self.build(entry)
            if entry["class_name"] in _NESTED:
                graph.models.add(entry["name"])
            waiting.append((entry, made, list(entry["inbound_nodes"])))
        while waiting:
            left = [each for each in waiting if not graph.advance(*each)]
            if len(left) == len(waiting) and not graph.moved():
                raise ExportRefused(
                    f"layer {left[0][0]['name']!r} is fed by layers that the file does not hold; save the model again"
                )
            waiting = left
        inputs, outputs = (graph.tensors(config[key]) for key in ("input_layers", "output_layers"))
        return keras.Model(inputs, outputs, name=config.get("name"))


class _Graph:
    """What each layer gave at each of its calls."""

    def __init__(self) -> None:
        self.calls: dict[str, list[list[Any]]] = {}
        self.models: set[str] = set()
        self._count = 0

    def moved(self) -> bool:
        """Whether anything was called since the last question."""
        before, self._count = self._count, sum(len(made) for made in self.calls.values())
        return self._count != before

    def advance(self, entry: Entry, layer: Any, nodes: list[Any]) -> bool:
        """Make the calls in `nodes` whose inputs are there, and take them from it; whether all are made."""
        name = entry["name"]
        made = self.calls.setdefault(name, [])
        while nodes and all(self._is_there(reference) for reference in _references(nodes[0])):
            args, kwargs = self._arguments(nodes.pop(0))
            if layer is None:
                function = function_of(entry["config"]["function"], layer=name)
                result = call(function, args, kwargs, layer=name)
            else:
                result = layer(*args, **kwargs)
            made.append(keras.tree.flatten(result))
        return not nodes

    def tensors(self, references: Any) -> Any:
        """The tensors at `[name, call, tensor]`, in lists or dicts as they came; a single one alone."""
        if _is_reference(references):
            return self._tensor(references)
        if isinstance(references, dict):
            return {key: self.tensors(value) for key, value in references.items()}
        found = [self.tensors(each) for each in references]
        return found[0] if len(found) == 1 else found

    def _arguments(self, node: Any) -> tuple[list[Any], dict[str, Any]]:
        parts = _parts(node)
        kwargs = {
            key: self._value(value) for part in parts for key, value in (part[3] if len(part) > 3 else {}).items()
        }
        first = [self._value([*part[:3]]) for part in parts]
        return [first[0] if len(first) == 1 else first], {
            key: value for key, value in kwargs.items() if key != "training"
        }

    def _value(self, value: Any) -> Any:
        if _is_reference(value):
            return value[2] if value[0] == "_CONSTANT_VALUE" else self._tensor(value)
        if isinstance(value, list):
            return [self._value(each) for each in value]
        return value

    def _tensor(self, reference: Any) -> Any:
        name, number, output = reference[:3]
        # A nested model's own inputs and outputs are its call 0, so that its first call counts as 1.
        return self.calls[name][max(number - 1, 0) if name in self.models else number][output]

    def _is_there(self, reference: Any) -> bool:
        name, number = reference[:2]
        if name == "_CONSTANT_VALUE":
            return True
        made = len(self.calls.get(name, ()))
        return made >= max(number, 1) if name in self.models else made > int(number)


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) >= 3
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and (isinstance(value[2], int) or value[0] == "_CONSTANT_VALUE")
    )


def _parts(node: Any) -> list[Any]:
    """A call's inputs: `[[name, call, tensor, kwargs], …]`, or one such, or a dict of them for a layer that takes a dict."""
    if isinstance(node, dict):
        return list(node.values())
    return [node] if _is_reference(node) else list(node)


def _references(node: Any) -> list[Any]:
    found: list[Any] = []

    def walk(value: Any) -> None:
        if _is_reference(value):
            found.append(value)
            for each in value[3:]:
                walk(each)
        elif isinstance(value, dict):
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(node)
    return found


def _dtype(config: Entry) -> Any:
    dtype = config.get("dtype")
    return dtype["config"]["name"] if isinstance(dtype, dict) else dtype


def lists(value: Any) -> Any:
    """Tuples as `.h5` has them: `{"class_name": "__tuple__", "items": […]}` becomes the list."""
    if isinstance(value, dict):
        if value.get("class_name") == "__tuple__":
            return lists(value["items"])
        return {key: lists(each) for key, each in value.items()}
    return [lists(each) for each in value] if isinstance(value, list) else value
