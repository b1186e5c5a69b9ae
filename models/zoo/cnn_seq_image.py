"""A still image read like a line of text: the CNN's feature map, place by place, by an LSTM both ways."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers
from pydantic import Field
from typing_extensions import override

from models.zoo.architecture import ENCODE
from models.zoo.backbones import OnBackbone
from models.zoo.recurrent import Cell, answers, projected, read_out, recurrent
from models.zoo.seeds import Seeds
from models.zoo.stem import standardised
from service.bundle.manifest import Input


class CnnSeqImage(OnBackbone):
    """The parameters of `cnn_seq_image`, a network of single images."""

    name: Literal["cnn_seq_image"]
    projection: int | None = Field(default=None, ge=1)
    cell: Cell = "lstm"
    units: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = True
    readout: Literal["last", "mean", "max", "mean_max"] = "last"
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Images `[B, H, W, 3]` of 0…255 RGB → probabilities `[B, classes]`.

        `backbone` up to `until` → its map `[h, w, D]` row by row as h·w steps (7×7 at 224 pixels: 49) → BatchNorm → optionally
        Dense(`projection`) → `layers` of LSTM or GRU(`units`) → `readout` over the steps → Dense softmax.
        """
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        images = keras.Input((input.height, input.width, 3), name="images")
        network = self.network(input)
        maps = keras.Model(network.input, network.output, name=ENCODE)(images)
        rows, columns, channels = maps.shape[1:]
        x = standardised(layers.Reshape((rows * columns, channels), name="steps")(maps))
        if self.projection is not None:
            x = projected(x, self.projection, dropout=self.dropout, seeds=seeds)
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
        summary, _ = read_out(states, self.readout, seeds=seeds)
        found = answers(summary, None, classes=classes, dropout=self.dropout, seeds=seeds)
        return keras.Model(images, found, name="cnn_seq_image")
