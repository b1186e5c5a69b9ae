"""What is done to a model's `positions` after its network: the manifest's `postprocess`, named and versioned steps.

`crf`, version 1: a conditional random field (Lafferty, McCallum & Pereira 2001) over the places of a picture as one chain, in the
order in which the network numbers them. A place that the network is unsure of takes after its neighbours:

    score(y) = Σ_i weight·log p_i(y_i) + bias[y_i]  +  Σ_i transitions[y_i, y_i+1]

Its answer is P(y_i = k), by the forward–backward algorithm, in place of the network's p_i(k). The probabilities of the whole picture
stay the network's own, and so does what the Open Inference Protocol answers: raw tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleError

MAX_PLACES, MAX_CLASSES = 1024, 64  # 10 ms
# Of a score: e^±30 stays far from what float64 holds, however surely the network speaks.
MAX_SCORE, MAX_WEIGHT = 30.0, 10.0
_FLOOR = 1e-7  # of a probability before its logarithm
_CRF = ("crf", 1)


class Step(Protocol):
    """A step as the manifest has it."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Crf:
    """`weight` of what the network says, `bias` `[K]`, `transitions` `[K, K]` from a place to the next; natural logarithms."""

    weight: float
    bias: NDArray[np.float64]
    transitions: NDArray[np.float64]

    @classmethod
    def read(cls, parameters: Mapping[str, Any], *, classes: int) -> Self:
        """Raises BundleError where they are none of a chain over `classes` classes, or out of their limits."""
        wanted: dict[str, tuple[tuple[int, ...], float]] = {
            "weight": ((), MAX_WEIGHT),
            "bias": ((classes,), MAX_SCORE),
            "transitions": ((classes, classes), MAX_SCORE),
        }
        if set(parameters) != set(wanted):
            raise BundleError(
                f"postprocess crf has the parameters {', '.join(sorted(parameters)) or 'none'}; it needs {', '.join(wanted)}, and no others: "
                "export the bundle again"
            )
        if classes > MAX_CLASSES:
            raise BundleError(f"postprocess crf over {classes} classes; {MAX_CLASSES} are allowed: take the step out")
        arrays = {}
        for name, (shape, limit) in wanted.items():
            try:
                array = np.array(parameters[name], np.float64)
            except (TypeError, ValueError):
                array = np.array(np.nan)
            if array.shape != shape or not (np.abs(array) <= limit).all():
                raise BundleError(
                    f"postprocess crf: {name} is {list(array.shape)}, expected {list(shape)} numbers of at most ±{limit:g} for {classes} "
                    "classes; export the bundle again"
                )
            arrays[name] = array
        return cls(float(arrays["weight"]), arrays["bias"], arrays["transitions"])

    def parameters(self) -> dict[str, Any]:
        """As the manifest holds them."""
        return {"weight": self.weight, "bias": self.bias.tolist(), "transitions": self.transitions.tolist()}

    def scores(self, positions: NDArray[np.floating]) -> NDArray[np.float64]:
        """What each place speaks for by itself, `[B, P, K]`: positions are probabilities."""
        found: NDArray[np.float64] = self.weight * np.log(np.maximum(positions.astype(np.float64), _FLOOR)) + self.bias
        return found

    def marginals(self, positions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities `[B, P, K]` of single places → those of places in their chain."""
        forward, backward, _ = messages(self.scores(positions), self.transitions)
        joint = forward * backward
        found: NDArray[np.float32] = (joint / joint.sum(axis=-1, keepdims=True)).astype(np.float32)
        return found


def messages(
    scores: NDArray[np.float64], transitions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Forward and backward messages `[B, P, K]`, each place's scaled to sum 1, and log Z `[B]` of the chain.

    `forward` holds the score of its own place, `backward` does not: their product, scaled, is the marginal. Scaling at each place
    (Rabiner 1989) is the logarithms' shift by their maximum, in a third of the time: nothing under- or overflows, since a score
    is bounded, or −inf where a state is ruled out.
    """
    count, places, classes = scores.shape
    highest = scores.max(axis=-1, keepdims=True)
    local = np.exp(scores - highest)
    step = np.exp(transitions - transitions.max())
    # Both run at once, the second over the chain turned round: half as many steps in Python.
    both = np.stack([local, local[:, ::-1]]).transpose(2, 0, 1, 3)  # [P, 2, B, K]
    steps = np.stack([step, step.T])
    found, totals = np.empty_like(both), np.empty((places, 2, count, 1))
    message = np.full((2, count, classes), 1.0 / classes)
    for place in range(places):
        if place:
            message = message @ steps
        found[place, 1] = message[1]
        message = message * both[place]
        totals[place] = message.sum(axis=-1, keepdims=True)
        message = message / totals[place]
        found[place, 0] = message[0]
    log_z = np.log(totals[:, 0, :, 0]).sum(axis=0) + highest.sum(axis=(1, 2)) + np.log(classes)
    log_z += (places - 1) * transitions.max()
    return found[:, 0].transpose(1, 0, 2), found[::-1, 1].transpose(1, 0, 2), log_z


@dataclass(frozen=True, slots=True)
class Postprocess:
    """All steps, in their order."""

    steps: tuple[Crf, ...] = ()

    @classmethod
    def read(cls, steps: Sequence[Step], *, classes: int, places: int | None) -> Self:
        """Of a bundle of `classes` classes that answers for the `places` of a grid, None for one that does not. Raises BundleError."""
        for step in steps:
            if (step.name, step.version) != _CRF:
                raise BundleError(
                    f"postprocess step {step.name!r} version {step.version} is unknown here (known: crf version 1); upgrade marey"
                )
            if places is None or places > MAX_PLACES:
                raise BundleError(
                    f"postprocess crf runs over the places of a grid, {MAX_PLACES} at most; this network has {places or 'no grid'}: take the step out"
                )
        return cls(tuple(Crf.read(step.parameters, classes=classes) for step in steps))

    def positions(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of places `[B, P, K]` as the network gives them → as they are answered."""
        for step in self.steps:
            rows = step.marginals(rows)
        return rows
