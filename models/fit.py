"""Fit the trainable part of a CNN-LSTM on cached activations: one stage, one epoch after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tqdm import tqdm

from models.errors import BuildError
from models.features import cut_model
from models.schedule import Stage
from models.zoo.architecture import ENCODE

Rows = Sequence[NDArray[np.float16]]  # for each clip [1 + V, T, …]; view 0 is the clip as the server sees it


@dataclass(frozen=True, slots=True)
class Labelled:
    """Clips to fit or to judge by: their activations and the numbers of their classes."""

    rows: Rows
    classes: NDArray[np.int64]


@dataclass(slots=True)
class History:
    """Per epoch: mean training loss, loss and accuracy on val. `best` is the epoch whose weights were kept."""

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    best: int = -1


class Part:
    """The part of `model` after `cut`: activations `[B, T, …]` → probabilities. It shares its weights with `model`."""

    def __init__(self, model: keras.Model, *, cut: str) -> None:
        wrapped = model.get_layer(ENCODE)
        self.tail = cut_model(wrapped.layer, cut=cut)[1]
        self.head = keras.Model(wrapped.output, model.output)
        self.variables = [*(self.tail.variables if self.tail else ()), *self.head.variables]
        self.trainable = [*_kernels(self.tail), *self.head.trainable_variables]
        self._forward = tf.function(self.__call__, reduce_retracing=True)

    def __call__(self, rows: Any, *, training: bool = False) -> Any:
        if self.tail is not None:
            # BatchNorm of the CNN keeps its pretrained statistics: a batch of one clip's frames would spoil them.
            shape = tf.shape(rows)
            flat = tf.reshape(rows, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
            flat = tf.ensure_shape(flat, (None, *self.tail.input_shape[1:]))
            rows = tf.reshape(self.tail(flat, training=False), (shape[0], shape[1], self.head.input_shape[-1]))
        return self.head(rows, training=training)

    def penalty(self) -> Any:
        return tf.add_n(self.head.losses) if self.head.losses else tf.constant(0.0)

    def predict(self, rows: Rows, *, batch: int = 32) -> NDArray[np.float32]:
        """Probabilities `[clips, K]` of view 0 of each."""
        found: dict[int, NDArray[np.float32]] = {}
        for chosen in batches([len(row[0]) for row in rows], np.arange(len(rows)), batch=batch):
            inputs = np.stack([rows[i][0] for i in chosen]).astype(np.float32)
            found.update(zip(chosen.tolist(), self._forward(tf.constant(inputs)).numpy(), strict=True))
        return np.stack([found[i] for i in range(len(rows))])


def batches(lengths: Sequence[int], order: NDArray[np.int64], *, batch: int) -> Iterator[NDArray[np.int64]]:
    """`order` in batches whose clips all have the same number of frames, so that none is padded."""
    buckets: dict[int, list[int]] = {}
    for i in order.tolist():
        bucket = buckets.setdefault(lengths[i], [])
        bucket.append(i)
        if len(bucket) == batch:
            yield np.array(buckets.pop(lengths[i]))
    yield from (np.array(bucket) for bucket in buckets.values())


def class_weights(classes: NDArray[np.int64], *, count: int) -> NDArray[np.float32]:
    """`[K]`: n / (K·n_k), so that each class counts alike; 0 for a class without samples."""
    found = np.bincount(classes, minlength=count)
    return np.where(found > 0, len(classes) / (count * np.maximum(found, 1)), 0.0).astype(np.float32)


def fit_stage(
    model: keras.Model,
    *,
    stage: Stage,
    train: Labelled,
    val: Labelled | None,
    weights: NDArray[np.float32],
    seed: int,
    checkpoint: Path | None = None,
    quiet: bool = False,
) -> History:
    """Train `model` after `stage.cut`, in place, each epoch on one view of every clip, with a cosine schedule.

    The order of the clips and the choice of views depend on `seed` and the epoch alone. With a `checkpoint`, an
    interrupted stage goes on after its last whole epoch. Without `val`, every epoch is run. Raises BuildError where the loss is no number.
    """
    part = Part(model, cut=stage.cut)
    optimizer = keras.optimizers.Adam(stage.rate, clipnorm=1.0)
    optimizer.build(part.trainable)
    state = _State(part, optimizer, checkpoint)
    history = state.resume()
    step = _step(part, optimizer, smoothing=stage.label_smoothing)
    lengths = [len(row[0]) for row in train.rows]
    done = len(history.loss)
    progress = tqdm(
        range(done, stage.epochs),
        desc=f"train after {stage.cut}",
        unit="epoch",
        disable=quiet,
        initial=done,
        total=stage.epochs,
    )
    for epoch in progress:
        if val is not None and stage.patience and history.best >= 0 and epoch - history.best > stage.patience:
            break
        rng = np.random.default_rng((seed, epoch))
        order = list(batches(lengths, rng.permutation(len(train.rows)), batch=stage.batch))
        losses = []
        for number, chosen in enumerate(order):
            optimizer.learning_rate.assign(_cosine(stage.rate, (epoch + number / len(order)) / stage.epochs))
            views = rng.integers(0, [len(train.rows[i]) for i in chosen])
            rows = np.stack([train.rows[i][view] for i, view in zip(chosen, views, strict=True)]).astype(np.float32)
            classes = train.classes[chosen]
            losses.append(float(step(tf.constant(rows), tf.constant(classes), tf.constant(weights[classes]))))
        history.loss.append(float(np.mean(losses)))
        if not np.isfinite(history.loss[-1]):
            raise BuildError(
                f"the loss is {history.loss[-1]} in epoch {epoch + 1} of {stage.cut}; lower the stage's rate {stage.rate}"
            )
        _judge(part, val, history)
        better = val is None or not stage.patience or history.val_loss[-1] <= min(history.val_loss)
        state.save(history, better=better)
        progress.set_postfix(loss=f"{history.loss[-1]:.3f}", **({"val": f"{history.val_loss[-1]:.3f}"} if val else {}))
    state.restore_best()
    return history


def _kernels(tail: keras.Model | None) -> list[Any]:
    if tail is None:
        return []
    frozen = (keras.layers.BatchNormalization,)
    return [
        variable for layer in tail.layers if not isinstance(layer, frozen) for variable in layer.trainable_variables
    ]


def _cosine(rate: float, share: float) -> float:
    return float(rate * 0.5 * (1.0 + np.cos(np.pi * share)))


def _step(part: Part, optimizer: Any, *, smoothing: float) -> Callable[[Any, Any, Any], Any]:
    def run(rows: Any, classes: Any, weights: Any) -> Any:
        with tf.GradientTape() as tape:
            probabilities = part(rows, training=True)
            count = probabilities.shape[-1]
            wanted = tf.one_hot(classes, count) * (1.0 - smoothing) + smoothing / count
            loss = tf.reduce_mean(weights * keras.losses.categorical_crossentropy(wanted, probabilities))
            total = loss + part.penalty()
        optimizer.apply_gradients(zip(tape.gradient(total, part.trainable), part.trainable, strict=True))
        return loss

    return tf.function(run, reduce_retracing=True)  # type: ignore[no-any-return]


def _judge(part: Part, val: Labelled | None, history: History) -> None:
    if val is None:
        return
    probabilities = part.predict(val.rows)
    right = probabilities[np.arange(len(val.classes)), val.classes]
    history.val_loss.append(float(-np.log(np.maximum(right, 1e-7)).mean()))
    history.val_accuracy.append(float((probabilities.argmax(1) == val.classes).mean()))


class _State:
    """The weights now and at best, the optimizer's and the history; on disk after every epoch where there is a file."""

    def __init__(self, part: Part, optimizer: Any, file: Path | None) -> None:
        self._live = [*part.variables, *optimizer.variables]
        self._weights = len(part.variables)
        self._file = file
        self._best: list[NDArray[Any]] = []
        self._history = History()

    def resume(self) -> History:
        if self._file is None or not self._file.is_file():
            return self._history
        with np.load(self._file, allow_pickle=False) as saved:
            for number, variable in enumerate(self._live):
                variable.assign(saved[f"live{number}"])
            self._best = [saved[f"best{number}"] for number in range(self._weights)]
            figures = {name: saved[name].tolist() for name in ("loss", "val_loss", "val_accuracy")}
            self._history = History(**figures, best=int(saved["best"]))
        return self._history

    def save(self, history: History, *, better: bool) -> None:
        if better:
            history.best = len(history.loss) - 1
            self._best = [np.array(variable) for variable in self._live[: self._weights]]
        if self._file is None:
            return
        arrays = {f"live{number}": np.array(variable) for number, variable in enumerate(self._live)}
        arrays |= {f"best{number}": value for number, value in enumerate(self._best)}
        figures = {
            "loss": history.loss,
            "val_loss": history.val_loss,
            "val_accuracy": history.val_accuracy,
            "best": history.best,
        }
        part = self._file.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **arrays, **{name: np.array(value) for name, value in figures.items()})  # type: ignore[arg-type]  # NumPy's stub takes a dict for its flag
        part.replace(self._file)

    def restore_best(self) -> None:
        for variable, value in zip(self._live, self._best, strict=False):
            variable.assign(value)
