"""What the first BatchNormalization of a model is given, beside what it was given in training: its running mean and variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.errors import ExportRefused
from models.export.model.trace import Call, functional, replay, trace


@dataclass(frozen=True, slots=True)
class Seen:
    """Per channel `[C]`: `mean` and `variance` of what reaches the layer `name` now, `running_…` of what did in training."""

    name: str
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    running_mean: NDArray[np.float64]
    running_variance: NDArray[np.float64]
    epsilon: float

    @property
    def untrained(self) -> bool:
        """As the layer was made, 0 and 1: it saw no training, and tells nothing."""
        return not np.any(self.running_mean) and bool(np.all(self.running_variance == 1))

    @property
    def distance(self) -> float:
        """0 where they agree: the mean over channels of log(1 + D), D = KL(now ‖ training) between two normal distributions.

        The logarithm keeps one channel that a wrong scale throws far off from deciding alone.
        """
        now, then = self.variance + self.epsilon, self.running_variance + self.epsilon
        apart = np.log(then / now) + (now + (self.mean - self.running_mean) ** 2) / then - 1
        return float(np.log1p(np.maximum(apart, 0) / 2).mean())


class _ReachedError(Exception):
    """Ends the run at the layer; carries what it was given."""

    def __init__(self, layer: Any, values: Any) -> None:
        super().__init__(layer.name)
        self.layer, self.values = layer, values


def seen_by_first_batchnorm(model: Any, fed: NDArray[np.float32]) -> Seen | None:
    """Run `model` on `fed` (its own input, `[N, H, W, C]` or `[B, T, H, W, C]`) up to there; None where there is no such layer."""
    try:
        _run(model, fed)
    except _ReachedError as reached:
        values = np.asarray(reached.values, np.float64)
        layer, over = reached.layer, tuple(range(values.ndim - 1))
        return Seen(
            str(layer.name),
            values.mean(axis=over),
            values.var(axis=over),
            np.asarray(layer.moving_mean, np.float64),
            np.asarray(layer.moving_variance, np.float64),
            float(layer.epsilon),
        )
    except ExportRefused:  # a model that cannot be traced is judged by its answers alone
        return None
    return None


def _run(model: Any, fed: Any) -> Any:
    graph = functional(model)
    if graph is None:
        return _apply(model, [fed], {})
    flat = trace(model)
    values: dict[Any, Any] = {
        edge: fed if edge.dtype != "bool" else np.ones(fed.shape[:2], bool) for edge in flat.inputs
    }

    def apply(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _apply(call.operation, list(args), kwargs)

    replay(flat.calls, values, apply)
    results = [values[edge] for edge in flat.outputs]
    return results[0] if len(results) == 1 else results


def _apply(operation: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if isinstance(operation, keras.layers.BatchNormalization):
        axis = operation.axis if isinstance(operation.axis, int) else operation.axis[0]
        if axis in (-1, len(args[0].shape) - 1):
            raise _ReachedError(operation, args[0])
    if isinstance(operation, keras.layers.TimeDistributed):
        clips = args[0]
        frames = keras.ops.reshape(clips, (-1, *clips.shape[2:]))
        rows = _run(operation.layer, frames)
        return keras.ops.reshape(rows, (*clips.shape[:2], *rows.shape[1:]))
    return operation(*args, **kwargs)
