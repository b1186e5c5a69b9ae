"""The curves of a training as event files, for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import tensorflow as tf

from models.training.checkpoint import History


class Curves:
    """Writes loss, val loss, val accuracy, rate and gradient norm of every epoch below `folder`; a context manager.

    The files are written by TensorFlow alone. The package tensorboard is only needed to look at them: its `tf.summary.scalar` would
    do no more than name the plugin, as is done here.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = tf.summary.create_file_writer(str(folder))
        self._metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
        )

    def write(self, stage: str, history: History) -> None:
        """The figures of the last epoch of `history`."""
        with self._writer.as_default():
            for name, curve in _named(history):
                if curve:
                    value = tf.constant(curve[-1], tf.float32)
                    tf.summary.write(f"{stage}/{name}", value, step=len(curve), metadata=self._metadata)
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _named(history: History) -> list[tuple[str, list[float]]]:
    return [
        ("loss", history.loss),
        ("val_loss", history.val_loss),
        ("val_accuracy", history.val_accuracy),
        ("rate", history.rate),
        ("gradient_norm", history.gradient_norm),
    ]
