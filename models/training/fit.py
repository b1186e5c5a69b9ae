"""Fit the trainable part of a network to rows, cached or drawn: one stage, one epoch after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tqdm import tqdm

from models.errors import BuildError
from models.schedule import Stage, Training
from models.training.advice import out_of_memory
from models.training.checkpoint import Checkpoint, History
from models.training.part import Part, batches
from models.training.rows import Drawing, Rows
from models.training.step import Batch, Step

_NAMED = 16  # samples of a batch, in an error


@dataclass(frozen=True, slots=True)
class Labelled:
    """Clips to fit or to judge by: their rows, and the numbers of their classes."""

    rows: Rows
    classes: NDArray[np.int64]


def class_weights(classes: NDArray[np.int64], *, count: int) -> NDArray[np.float32]:
    """`[K]`: n / (K·n_k), so that each class counts alike; 0 for a class without samples."""
    found = np.bincount(classes, minlength=count)
    return np.where(found > 0, len(classes) / (count * np.maximum(found, 1)), 0.0).astype(np.float32)


def fit_stage(
    model: keras.Model,
    *,
    training: Training,
    stage: Stage,
    train: Labelled,
    val: Labelled | None,
    weights: NDArray[np.float32],
    seed: int,
    train_batchnorm: bool = False,
    checkpoint: Path | None = None,
    quiet: bool = False,
    watch: Callable[[History], None] | None = None,
) -> History:
    """Train `model` after `stage.cut`, in place, each epoch on one view of every clip, with a cosine schedule.

    The order of the clips and the choice of views depend on `seed` and the epoch alone. With a `checkpoint`, an
    interrupted stage goes on after its last whole epoch. Without `val`, every epoch is run. `watch` is told the history after every
    epoch. Raises BuildError where the loss is no number, or memory does not hold a batch.
    """
    stage = stage.model_copy(update={"accumulate": stage.accumulate or training.accumulate})
    part = Part(model, cut=stage.cut, train_batchnorm=train_batchnorm)
    step = Step(part, training, stage)
    state = Checkpoint(part.variables, step.optimizer, checkpoint)
    history = state.resume()
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
        started = time.perf_counter()
        try:
            _run_epoch(step, stage, train, weights=weights, seed=seed, epoch=epoch, history=history)
            _judge(part, val, history)
        except (MemoryError, tf.errors.ResourceExhaustedError):
            raise BuildError(out_of_memory(stage, frames=max(train.rows.lengths))) from None
        history.seconds.append(round(time.perf_counter() - started, 3))
        better = val is None or not stage.patience or history.val_loss[-1] <= min(history.val_loss)
        state.save(history, better=better)
        if watch is not None:
            watch(history)
        progress.set_postfix(loss=f"{history.loss[-1]:.3f}", **({"val": f"{history.val_loss[-1]:.3f}"} if val else {}))
    state.restore_best()
    return history


def rate_at(stage: Stage, position: float) -> float:
    """The rate at `position` epochs: a linear rise over `warm_up`, then half a cosine to 0 (Loshchilov & Hutter, arXiv 1608.03983)."""
    if position < stage.warm_up:
        return float(stage.rate * position / stage.warm_up)
    share = (position - stage.warm_up) / (stage.epochs - stage.warm_up)
    return float(stage.rate * 0.5 * (1.0 + np.cos(np.pi * share)))


def _run_epoch(
    step: Step,
    stage: Stage,
    train: Labelled,
    *,
    weights: NDArray[np.float32],
    seed: int,
    epoch: int,
    history: History,
) -> None:
    rng = np.random.default_rng((seed, epoch))
    order = list(
        batches(train.rows.lengths, rng.permutation(len(train.classes)), batch=stage.batch * (stage.accumulate or 1))
    )
    # One step's clips are those that one larger batch would hold.
    small = [chosen[at : at + stage.batch] for chosen in order for at in range(0, len(chosen), stage.batch)]
    drawn = iter(zip(small, train.rows.drawn(small, seed=(seed, epoch), rng=rng), strict=True))
    losses: list[float] = []
    norms: list[float] = []
    rate = stage.rate
    for number, chosen in enumerate(order):
        warming = (number + 1) / len(order) if epoch < stage.warm_up else number / len(order)
        rate = rate_at(stage, epoch + warming)
        step.optimizer.learning_rate.assign(rate)
        parts = list(_parts(drawn, train, weights, count=len(chosen)))
        loss, norm = step(parts)
        if not (np.isfinite(loss) and (np.isfinite(norm) or step.skips_infinite)):
            names = ", ".join(train.rows.names[i] for i in chosen[:_NAMED])
            more = f" and {len(chosen) - _NAMED} more" if len(chosen) > _NAMED else ""
            before = f", {norms[-1]:.3g} in the batch before" if norms else ", in the very first batch"
            raise BuildError(
                f"the loss is {loss} in epoch {epoch + 1} of {stage.cut}, at rate {rate:.2g} and gradient norm {norm:.3g}{before}, in a "
                f"batch of {names}{more}; look at these clips, or lower the stage's rate {stage.rate:g} or training.clip_norm"
            )
        losses.append(loss)
        norms.append(norm)
    history.loss.append(float(np.mean(losses)))
    history.gradient_norm.append(float(np.mean(norms)))
    history.rate.append(rate)


def _parts(
    drawn: Iterator[tuple[NDArray[np.int64], Drawing]],
    train: Labelled,
    weights: NDArray[np.float32],
    *,
    count: int,
) -> Iterator[Batch]:
    while count > 0:
        chosen, drawing = next(drawn)
        classes = train.classes[chosen]
        yield Batch(drawing.rows, classes, weights[classes], drawing.places)
        count -= len(chosen)


def _judge(part: Part, val: Labelled | None, history: History) -> None:
    if val is None:
        return
    probabilities = part.predict(val.rows)
    right = probabilities[np.arange(len(val.classes)), val.classes]
    history.val_loss.append(float(-np.log(np.maximum(right, 1e-7)).mean()))
    history.val_accuracy.append(float((probabilities.argmax(1) == val.classes).mean()))
