"""What a stage of training must remember to go on after an interruption: weights, optimizer, history."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class History:
    """Per epoch: mean training loss, loss and accuracy on val, mean norm of the gradient, rate at its end, seconds.

    `best` is the epoch whose weights were kept.
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)
    best: int = -1


class Checkpoint:
    """The weights now and at best, the optimizer's and the history; on disk after every epoch where there is a file."""

    def __init__(self, weights: Sequence[Any], optimizer: Any, file: Path | None) -> None:
        self._live = [*weights, *optimizer.variables]
        self._weights = len(weights)
        self._file = file
        self._best: list[NDArray[Any]] = []
        self._history = History()

    def resume(self) -> History:
        """What was reached before; the weights and the optimizer are set to it."""
        if self._file is None or not self._file.is_file():
            return self._history
        with np.load(self._file, allow_pickle=False) as saved:
            if not {each.name for each in dataclasses.fields(History)} <= set(saved.files):
                return self._history  # of an older version: the stage begins again
            for number, variable in enumerate(self._live):
                variable.assign(saved[f"live{number}"])
            self._best = [saved[f"best{number}"] for number in range(self._weights)]
            figures = {each.name: saved[each.name].tolist() for each in dataclasses.fields(History)}
            self._history = History(**figures)
        return self._history

    def save(self, history: History, *, better: bool) -> None:
        if better:
            history.best = len(history.loss) - 1
            self._best = [np.array(variable) for variable in self._live[: self._weights]]
        if self._file is None:
            return
        arrays = {f"live{number}": np.array(variable) for number, variable in enumerate(self._live)}
        arrays |= {f"best{number}": value for number, value in enumerate(self._best)}
        figures = {name: np.array(value) for name, value in dataclasses.asdict(history).items()}
        part = self._file.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **arrays, **figures)  # type: ignore[arg-type]  # NumPy's stub takes a dict for its flag
        part.replace(self._file)

    def restore_best(self) -> None:
        for variable, value in zip(self._live, self._best, strict=False):
            variable.assign(value)
