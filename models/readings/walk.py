"""What a model does, call by call, those inside nested models and TimeDistributed included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from models.errors import ExportRefused
from models.export.model.trace import Call, Edge, functional, trace


def operations(model: Any) -> Iterator[tuple[Any, Call | None]]:
    """Every layer and operation in the order in which it runs, with its call; without one inside what cannot be traced."""
    try:
        calls = trace(model).calls if functional(model) is not None else None
    except ExportRefused:
        calls = None
    if calls is None:
        inside = [*getattr(model, "layers", ()), *([model.layer] if isinstance(model, keras.layers.Wrapper) else [])]
        for each in inside:
            yield from operations(each)
        if not inside:
            yield model, None
        return
    for call in calls:
        if isinstance(call.operation, keras.layers.TimeDistributed):
            yield from ((each, inner or call) for each, inner in operations(call.operation.layer))
        else:
            yield call.operation, call


def constants(call: Call) -> bool:
    """Whether a call combines one tensor with constants, as `x / 255` does."""
    flat = [part for part in keras.tree.flatten((call.args, dict(call.kwargs))) if part is not None]
    return sum(isinstance(part, Edge) for part in flat) == 1 and len(flat) > 1
