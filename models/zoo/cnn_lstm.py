"""The CNN-LSTM: what each frame shows, then how it changes."""

from __future__ import annotations

from typing import Literal

import keras
from pydantic import Field
from typing_extensions import override

from models.zoo.backbones import OnBackbone
from models.zoo.layers import CellMotion, TemporalDifference
from models.zoo.recurrent import Cell, Readout, answers, projected, read_out, recurrent
from models.zoo.seeds import Seeds
from models.zoo.stem import encoded, standardised
from service.bundle.manifest import Input


class CnnLstm(OnBackbone):
    """The parameters of `cnn_lstm`. The plain network of the textbooks has `bidirectional = false` and the rest as it is."""

    name: Literal["cnn_lstm"]
    grid: tuple[int, int] = (1, 1)
    projection: int | None = Field(default=None, ge=1)
    change: Literal["none", "differences", "motion"] = "none"
    cell: Cell = "lstm"
    units: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = True
    readout: Readout = "last"
    dropout: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @property
    @override
    def trainable(self) -> bool:
        # Of random weights size and speed may be asked alone; the report then says that nothing was trained.
        return self.pretrained

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Clips `[B, T, H, W, 3]` of 0…255 RGB → probabilities `[B, classes]`; any T from 1 on.

        TimeDistributed(`backbone` up to `until`, averaged over `grid`) → BatchNorm → optionally Dense(`projection`)
        → `layers` of LSTM or GRU(`units`, each way where bidirectional) → `readout` over time → Dense softmax. `change` says how
        the frames before come in: `differences` beside the features, `motion` (see CellMotion) in their place, or `none`, by the
        recurrence alone. With `readout = "attention"` the weights of the frames, `attention` `[B, T]`, are an output too.
        `weight_decay` is an L2 penalty on the head's kernels. Raises RecipeError and WeightsError.
        """
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        clips, x = encoded(self.network(input), grid=self.grid)
        if self.change == "motion":
            x = CellMotion(self.grid[0] * self.grid[1], name="motion")(x)
        x = standardised(x)
        if self.projection is not None:
            x = projected(x, self.projection, dropout=self.dropout, seeds=seeds)
        if self.change == "differences":
            x = TemporalDifference(name="differences")(x)
        states = recurrent(
            x,
            cell=self.cell,
            units=self.units,
            depth=self.layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            sequences=self.readout != "last",
            seeds=seeds,
        )
        summary, weights = read_out(states, self.readout, seeds=seeds)
        found = answers(summary, weights, classes=classes, dropout=self.dropout, seeds=seeds)
        return keras.Model(clips, found, name="cnn_lstm")
