"""Functions of Keras 2 that mean something else in Keras 3 under the same name."""

from __future__ import annotations

from typing import Any

import keras


def hard_sigmoid_of_keras_2(x: Any) -> Any:
    """0.2·x + 0.5, limited to 0 … 1; Keras 3 has x/6 + 0.5."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


keras.saving.register_keras_serializable("marey")(hard_sigmoid_of_keras_2)
OTHERWISE = {"hard_sigmoid": hard_sigmoid_of_keras_2}
