"""BatchNorm folded into the layer before it, and weights rounded to half precision: the float reference of a bundle.

Both are done to the Keras model, not to the graph, so that what is exported and what it is compared with are the same numbers.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.export.model.clone import Cloner, give_weights
from models.export.model.trace import Call, Edge, Trace, replay, trace

# The kernel's axis of output channels, where it is one axis.
_OUTPUT_AXIS = {
    layers.Conv3D: -1,
    layers.Conv2D: -1,
    layers.Conv1D: -1,
    layers.Dense: -1,
    layers.Conv3DTranspose: -2,
    layers.Conv2DTranspose: -2,
    layers.SeparableConv2D: -1,
}
# The largest finite float16.
_HALF_MAX = float(np.finfo(np.float16).max)


def fold_batchnorm(model: keras.Model) -> tuple[keras.Model, int]:
    """A copy of the functional `model` of one input without the BatchNormalizations that a linear layer can take over, and how many those were.

    W′ = W·γ/√(σ² + ε), b′ = (b − μ)·γ/√(σ² + ε) + β, computed in float64.
    """
    flat = trace(model)
    folds = _foldable(flat)
    cloner = Cloner()
    tensor = keras.Input(model.input_shape[1:], dtype="float32", name=model.inputs[0].name)
    values: dict[Edge, Any] = {flat.inputs[0]: tensor}
    folded_norms = {id(norm.operation) for norm in folds.values()}

    def apply(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if id(call.operation) in folded_norms:
            return args[0]
        norm = folds.get(id(call.operation))
        return (
            cloner.apply(call.operation, args, kwargs)
            if norm is None
            else _folded(cloner, call.operation, norm.operation, args[0])
        )

    replay(flat.calls, values, apply)
    outputs = keras.tree.pack_sequence_as(model.output, [values[edge] for edge in flat.outputs])
    return keras.Model(tensor, outputs, name=model.name), len(folds)


def round_half(model: keras.Model) -> None:
    """Round every kernel of `model` in place to values that float16 can hold. Biases and statistics are small and stay as they are."""
    for weight in model.weights:
        array = weight.numpy()
        if array.ndim >= 2 and array.dtype == np.float32 and np.abs(array).max(initial=0) <= _HALF_MAX:
            weight.assign(array.astype(np.float16).astype(np.float32))


def _foldable(flat: Trace) -> dict[int, Call]:
    """The BatchNorm call by the id of the layer that takes it over."""
    readers, maker = flat.consumers(), {edge: call for call in flat.calls for edge in call.outputs}
    uses: dict[int, int] = {}
    for call in flat.calls:
        uses[id(call.operation)] = uses.get(id(call.operation), 0) + 1
    found: dict[int, Call] = {}
    for call in flat.calls:
        if type(call.operation) is not layers.BatchNormalization or uses[id(call.operation)] > 1:
            continue
        before = maker.get(call.inputs[0])
        if (
            before
            and uses[id(before.operation)] == 1
            and readers[call.inputs[0]] == 1
            and _takes_over(before.operation, call)
        ):
            found[id(before.operation)] = call
    return found


def _takes_over(layer: Any, norm: Call) -> bool:
    linear = getattr(layer, "activation", None) is keras.activations.linear
    known = type(layer) in _OUTPUT_AXIS or type(layer) is layers.DepthwiseConv2D
    last = norm.operation.axis in (-1, norm.inputs[0].rank - 1)
    return known and linear and last and getattr(layer, "data_format", "channels_last") == "channels_last"


def _folded(cloner: Cloner, layer: Any, norm: Any, tensor: Any) -> Any:
    copy = cloner.copy(layer, use_bias=True)
    result = copy(tensor)
    weights = [weight.astype(np.float64) for weight in layer.get_weights()]
    bias = weights.pop() if layer.use_bias else 0.0
    scale, shift = batchnorm_affine(norm)
    if isinstance(layer, layers.DepthwiseConv2D):
        kernel = weights[0] * scale.reshape(weights[0].shape[2:])
    else:
        axis = _OUTPUT_AXIS[type(layer)]
        kernel = weights[-1] * np.expand_dims(scale, tuple(range(axis + 1, 0)))
    parts = [*weights[:-1], kernel, bias * scale + shift]
    give_weights(copy, [part.astype(np.float32) for part in parts], like=layer)
    return result


def batchnorm_affine(norm: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A trained BatchNormalization as y = scale·x + shift, one value per channel, float64."""
    mean, variance = (np.asarray(weight, np.float64) for weight in (norm.moving_mean, norm.moving_variance))
    gamma = np.asarray(norm.gamma, np.float64) if norm.scale else np.ones_like(mean)
    beta = np.asarray(norm.beta, np.float64) if norm.center else np.zeros_like(mean)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale
