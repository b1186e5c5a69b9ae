"""What the curves of a training say about how to train it better: pure functions from a history to sentences.

loss goes up and down                        → a lower rate, a larger batch
loss falls, the loss on val rises            → overfitting: augmentation, dropout
neither falls any more, and val is not good  → stalled: another rate, more of the network trained
memory is out                                → accumulation, shorter chunks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.schedule import FRAMES, Stage
from models.training.checkpoint import History

Kind = Literal["oscillating", "overfitting", "stalled"]

# Fewer epochs are no curve.
_EPOCHS = 6
# Of the way that a loss went from epoch to epoch, this much must have led down; a random walk of n steps leads about 1/√n of its way.
_STRAIGHT = 0.25
# Ups and downs below this share of the loss are the noise of batches and views.
_NOISE = 0.08
# A loss on val this much above its best, while that of training fell by _LEARNT, is overfitting.
_WORSE, _LEARNT = 1.15, 0.8
# A rate may be far too low as well: a loss that fell by less than this in all is stalled.
_FLAT = 0.03
# An accuracy on val from which on no curve is a fault: there is nothing left to learn.
_SOLVED = 0.98


@dataclass(frozen=True, slots=True)
class Advice:
    """What was recognised, and the remedy, as one sentence."""

    kind: Kind
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def advise(history: History, *, stage: Stage) -> list[Advice]:
    """What the curves of one stage show, the most certain first; nothing where they are as they should be, or too short."""
    if len(history.loss) < _EPOCHS:
        return []
    found = [_oscillating(history, stage), _overfitting(history), _stalled(history, stage)]
    return [each for each in found if each is not None]


def out_of_memory(stage: Stage, *, frames: int) -> str:
    """The sentence for a batch of `stage` that memory does not hold; its clips have `frames` frames."""
    half = max(1, stage.batch // 2)
    several = (stage.accumulate or 1) * stage.batch // half
    remedies = [f"set batch = {half} and accumulate = {several}, which trains alike"] if stage.batch > 1 else []
    if frames > 1:
        remedies.append(f"take fewer than {frames} frames a clip (sampling.frames)")
    remedies.append("take smaller frames (input.height, input.width)")
    if stage.cut == FRAMES:
        remedies.append("or freeze a part of the network (cut)")
    return f"memory does not hold a batch of {stage.batch} clips of {frames} frames at cut {stage.cut}; {', '.join(remedies)}"


def _oscillating(history: History, stage: Stage) -> Advice | None:
    loss = np.array(history.loss[1:])  # the first epoch falls from wherever the network began
    steps = np.diff(loss)
    way = np.abs(steps).sum()
    ups = steps[steps > 0]
    if not len(ups) or way == 0 or (loss[0] - loss[-1]) / way > _STRAIGHT or len(ups) < len(steps) / 3:
        return None
    size = float(ups.mean() / np.abs(loss).mean())
    if size < _NOISE:
        return None
    return Advice(
        "oscillating",
        f"the loss went up in {len(ups)} of {len(steps)} epochs, by {size:.0%} of itself on average: lower the stage's rate, "
        f"{stage.rate:g}, to a third, or take a larger batch than {stage.batch * (stage.accumulate or 1)} (accumulate)",
    )


def _overfitting(history: History) -> Advice | None:
    val = np.array(history.val_loss)
    if not len(val) or _end(np.array(history.val_accuracy)) >= _SOLVED:
        return None
    best = int(val.argmin())
    end = _end(val)
    if (
        end <= _WORSE * val[best]
        or history.loss[-1] >= _LEARNT * history.loss[0]
        or history.loss[-1] >= history.loss[best]
    ):
        return None
    return Advice(
        "overfitting",
        f"the loss on val rose from {val[best]:.3f} after epoch {best + 1} to {end:.3f}, while that of training went on falling to "
        f"{history.loss[-1]:.3f}: overfitting; more augmentation, more dropout, weight_decay, or a smaller network (and patience, "
        "to keep the best epoch)",
    )


def _stalled(history: History, stage: Stage) -> Advice | None:
    """No better on val since the first half, while training does not get better either: it is not overfitting, it does not learn."""
    val = np.array(history.val_loss)
    half = len(history.loss) // 2
    if not len(val) or int(val.argmin()) >= half or _end(val) > _WORSE * val.min():
        return None
    if _falls(history.loss[half:]) and _falls(history.loss):
        return Advice(
            "stalled",
            f"the loss on val has not become better since epoch {int(val.argmin()) + 1} of {len(val)}, while that of training fell to "
            f"{history.loss[-1]:.3f}: what is still learnt does not carry over; more augmentation or dropout, or fewer epochs",
        )
    if max(history.val_accuracy) >= _SOLVED:
        return None
    deeper = "" if stage.cut == FRAMES else ", or a deeper cut, so that more of the network is trained"
    return Advice(
        "stalled",
        f"neither the loss of training, {history.loss[-1]:.3f}, nor that on val, {val[-1]:.3f}, has become better since epoch "
        f"{int(val.argmin()) + 1} of {len(val)}: the network does not learn; another rate than {stage.rate:g} (ten times, a tenth)"
        f"{deeper}",
    )


def _falls(loss: Sequence[float]) -> bool:
    half = max(1, len(loss) // 2)
    return float(np.mean(loss[half:])) < (1 - _FLAT) * float(np.mean(loss[:half]))


def _end(curve: NDArray[np.float64]) -> float:
    """Where a curve ends, without the noise of its last epoch."""
    return float(np.median(curve[-3:]))
