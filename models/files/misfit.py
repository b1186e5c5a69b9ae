"""How the layers of a file of weights differ from those of a model, by the shapes of what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

Shapes = tuple[tuple[int, ...], ...]
Layers = list[tuple[str, Shapes]]
_SHOWN = 4
_NO_WEIGHTS = ("optimizer", "seed_generator", "metrics", "compile_metrics")  # groups that a file may hold beside them


def difference(model: keras.Model, path: Path, *, layout: str) -> str | None:
    """What the file has and `model` has not, and the other way round, in a few words; None where the shapes are the same.

    `layout`: `.h5`, which names the layers of the model itself, or `.weights.h5`, which holds what is nested in them one by one.
    """
    with h5py.File(path) as file:
        saved = list(_named(file) if layout == ".h5" else _nested(file))
    built = list(_layers(model) if layout == ".h5" else _leaves(model))
    there, here = _without(saved, built), _without(built, saved)
    if not there and not here:
        return None
    return f"the file alone has {_told(there)}; the model alone has {_told(here)}"


def _named(file: Any) -> Iterator[tuple[str, Shapes]]:
    group = file["model_weights"] if "layer_names" not in file.attrs else file
    for name in group.attrs["layer_names"]:
        layer = group[name]
        if shapes := tuple(tuple(layer[each].shape) for each in layer.attrs["weight_names"]):
            yield name.decode() if isinstance(name, bytes) else str(name), shapes


def _nested(group: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[str, Shapes]]:
    for name, inner in group.items():
        if not isinstance(inner, h5py.Group) or name in _NO_WEIGHTS:
            continue
        if name != "vars":
            yield from _nested(inner, parts if name == "layers" else (*parts, name))
        elif shapes := tuple(tuple(inner[each].shape) for each in sorted(inner, key=int)):
            yield "/".join(parts), shapes


def _layers(model: keras.Model) -> Iterator[tuple[str, Shapes]]:
    for layer in model.layers:
        if layer.weights:
            yield layer.name, tuple(tuple(each.shape) for each in layer.weights)


def _leaves(model: keras.Model) -> Iterator[tuple[str, Shapes]]:
    for layer in model._flatten_layers():  # noqa: SLF001 -- Keras has no public way to what is nested in layers of one's own
        own = [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001 -- without those of layers inside
        if own:
            yield layer.name, tuple(tuple(each.shape) for each in own)


def _without(layers: Layers, others: Layers) -> Layers:
    """Those of `layers` whose shapes no layer of `others` has; the names of a file are not always those of the layers."""
    left = [shapes for _, shapes in others]
    found = []
    for name, shapes in layers:
        if shapes in left:
            left.remove(shapes)
        else:
            found.append((name, shapes))
    return found


def _told(layers: Layers) -> str:
    shown = [f"{name} {' '.join(str(list(shape)) for shape in shapes)}" for name, shapes in layers[:_SHOWN]]
    more = f" and {len(layers) - _SHOWN} more layers" if len(layers) > _SHOWN else ""
    return f"{', '.join(shown)}{more}" if layers else "nothing"
