"""Training in mixed precision: float16 where it is fast, float32 where it is needed, and a float32 network in the end.

Micikevicius et al. 2018 (arXiv 1710.03740): weights stay float32, the loss is scaled so that small gradients survive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from models.schedule import Training

_MIXED = "mixed_float16"


def gpus() -> list[str]:
    """The GPUs that TensorFlow sees, by name."""
    found = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(each).get("device_name", each.name) for each in found]


def is_mixed(training: Training) -> bool:
    """Whether `training` is in mixed precision here: `auto` only where there is a GPU."""
    return training.mixed_precision == "always" or (training.mixed_precision == "auto" and bool(gpus()))


@contextmanager
def built_for(training: Training) -> Iterator[None]:
    """Networks that are built within compute in the precision of `training`; their variables are float32 in any case."""
    before = keras.config.dtype_policy()
    if is_mixed(training):
        keras.config.set_dtype_policy(_MIXED)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
