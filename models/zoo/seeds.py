"""Initial weights and dropout that one seed fixes, layer by layer."""

from __future__ import annotations

from typing import Any

import keras

_LAYERS = 100  # a network draws fewer seeds than this, so that those of two seeds do not meet


class Seeds:
    """Draws seeds in the order in which it is asked; `weight_decay` is the L2 penalty of every kernel, 0 for none."""

    def __init__(self, seed: int, *, weight_decay: float = 0.0) -> None:
        self._left = iter(range(seed * _LAYERS, (seed + 1) * _LAYERS))
        self._penalty = keras.regularizers.L2(weight_decay) if weight_decay else None

    def next(self) -> int:
        return next(self._left)

    def orthogonal(self) -> keras.initializers.Initializer:
        return keras.initializers.Orthogonal(seed=self.next())

    def glorot(self) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(self.next())

    def he(self) -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(self.next())

    def kernel(self, *, before_relu: bool = False) -> dict[str, Any]:
        """What a layer is told of its kernel."""
        return {"kernel_initializer": self.he() if before_relu else self.glorot(), "kernel_regularizer": self._penalty}
