"""Learn the chain over the places of a picture that a bundle carries as its postprocess step `crf`.

By maximum likelihood of the places' classes, given what the network says of each: −log P(y | p) of a linear-chain conditional random
field (Lafferty, McCallum & Pereira 2001), by L-BFGS on its exact gradient, the difference between what the chain expects with the
known places held fast and without. A place of which nothing is known is summed over. `service.postprocess` runs what is learned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.data.places import UNKNOWN
from models.errors import BuildError
from service.postprocess import MAX_SCORE, MAX_WEIGHT, Crf, messages

# Of the penalty on transitions and biases, and on the weight's distance from 1: val chooses.
STRENGTHS = (1e-4, 1e-3, 1e-2)
_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Places:
    """Pictures of which the places are known: `said` `[n, P, K]` by the network, `truth` `[n, P]`, UNKNOWN where it is not known."""

    said: NDArray[np.float32]
    truth: NDArray[np.int64]

    def allowed(self) -> NDArray[np.float64]:
        """`[n, P, K]`: 0 for a class that a place may be, −inf for others."""
        classes = np.arange(self.said.shape[-1])
        known = self.truth[..., None] != UNKNOWN
        return np.where(known & (classes != self.truth[..., None]), -np.inf, 0.0)


@dataclass(frozen=True, slots=True)
class Learned:
    """`crf`, the `strength` that was chosen, and the mean −log P of a picture's places on val: of the network alone and of the chain."""

    crf: Crf
    strength: float
    val_loss_alone: float
    val_loss: float


def learn_crf(train: Places, val: Places, *, strengths: Sequence[float] = STRENGTHS) -> Learned:
    """The chain that fits `train`, with the strength of its penalty that fits `val` best. Raises BuildError where a split knows no place."""
    for name, each in (("train", train), ("val", val)):
        if not (each.truth != UNKNOWN).any():
            raise BuildError(
                f"no place of split {name} is known, so no chain can be learned; give masks or boxes, or crf = false"
            )
    found = [(_fit(train, strength), strength) for strength in strengths]
    losses = [_loss(crf, val) for crf, _ in found]
    best = int(np.argmin(losses))
    classes = train.said.shape[-1]
    alone = Crf(1.0, np.zeros(classes), np.zeros((classes, classes)))
    return Learned(*found[best], _loss(alone, val), losses[best])


def _loss(crf: Crf, places: Places) -> float:
    """Mean −log P of the known places of a picture."""
    scores = crf.scores(places.said)
    held = messages(scores + places.allowed(), crf.transitions)[2]
    return float((messages(scores, crf.transitions)[2] - held).mean())


def _fit(places: Places, strength: float) -> Crf:
    """No direction along the chain is another's opposite in meaning: the transitions are symmetric."""
    classes = places.said.shape[-1]
    speaks, allowed = Crf(1.0, np.zeros(classes), np.zeros((classes, classes))).scores(places.said), places.allowed()

    def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        crf = _unpacked(values, classes)
        scores = crf.weight * speaks + crf.bias
        free, held = _expected(scores, crf.transitions), _expected(scores + allowed, crf.transitions)
        apart = free.single - held.single
        pairs = (free.pairs - held.pairs) / len(scores)
        gradient = np.concatenate(
            [
                [(apart * speaks).sum() / len(scores)],
                apart.sum(axis=(0, 1)) / len(scores),
                ((pairs + pairs.T) / 2).ravel(),
            ]
        )
        from_plain = values - _plain(classes)
        loss = float((free.log_z - held.log_z).mean()) + strength / 2 * float(from_plain @ from_plain)
        return loss, gradient + strength * from_plain

    bounds = [(0.0, MAX_WEIGHT)] + [(-MAX_SCORE, MAX_SCORE)] * (classes + classes**2)
    result: Any = minimize(
        objective, _plain(classes), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS}
    )
    return _unpacked(result.x, classes)


@dataclass(frozen=True, slots=True)
class _Expected:
    """Marginals of places `[n, P, K]`, expected pairs of neighbours `[K, K]` over all pictures, log Z `[n]`."""

    single: NDArray[np.float64]
    pairs: NDArray[np.float64]
    log_z: NDArray[np.float64]


def _expected(scores: NDArray[np.float64], transitions: NDArray[np.float64]) -> _Expected:
    forward, backward, log_z = messages(scores, transitions)
    joint = forward * backward
    single = joint / joint.sum(axis=-1, keepdims=True)
    local = np.exp(scores - scores.max(axis=-1, keepdims=True))
    step = np.exp(transitions - transitions.max())
    before, after = forward[:, :-1], (local * backward)[:, 1:]
    total = ((before @ step) * after).sum(axis=-1, keepdims=True)
    pairs = np.einsum("npk,npl->kl", before / total, after, optimize=True) * step
    return _Expected(single, pairs, log_z)


def _plain(classes: int) -> NDArray[np.float64]:
    """The chain that leaves everything as it is: weight 1, nothing else."""
    return np.concatenate([[1.0], np.zeros(classes + classes**2)])


def _unpacked(values: NDArray[np.float64], classes: int) -> Crf:
    transitions = values[1 + classes :].reshape(classes, classes)
    return Crf(float(values[0]), values[1 : 1 + classes], (transitions + transitions.T) / 2)
