"""Defects of a surface, and where they are: windows along its lines, read by LSTMs, each place answering for itself."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops
from pydantic import Field
from typing_extensions import override

from models.zoo.architecture import ENCODE, Locating
from models.zoo.backbones import OnBackbone
from models.zoo.lines import BackToLines, EachLine, SharpenedMean
from models.zoo.seeds import Seeds
from models.zoo.stem import standardised
from service.bundle.manifest import Grid, Input

Scan = Literal["rows", "columns", "both"]


class DefectBilstm(OnBackbone, Locating):
    """The parameters of `defect_bilstm`, a network of single images that says where.

    `until`: the last block of the CNN; its stride is the distance between two windows, and the grid of places has one cell for
    each. `scan`: whether lines run along the rows, the columns, or both ways (as ReNet: Visin et al. 2015, arXiv 1505.00393). `order`:
    how places are numbered, in the answer and for a chain over them.
    """

    name: Literal["defect_bilstm"]
    until: str = "block10"
    projection: int = Field(default=48, ge=1)
    scan: Scan = "both"
    units: int = Field(default=32, ge=1)
    heads: int = Field(default=2, ge=1)
    order: Literal["raster", "boustrophedon"] = "boustrophedon"
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @override
    def grid(self, model: keras.Model) -> Grid:
        """The grid of the places that `model`, a network of this architecture, answers for."""
        rows, columns = model.get_layer(ENCODE).output.shape[1:3]
        return Grid(rows=rows, columns=columns, order=self.order)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Images `[B, H, W, 3]` of 0…255 RGB → `probabilities` `[B, classes]` and `positions` `[B, P, classes]`.

        The CNN convolves all overlapping windows of the surface at once: one place of its map is one window, as wide as its receptive
        field. → BatchNorm → Dense(`projection`) → Bidirectional LSTM(`units` each way) along every line → MultiHeadAttention over all
        places → Dense softmax at each place. The picture's probabilities come from the scores of its places alone.
        """
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        images = keras.Input((input.height, input.width, 3), name="images")
        network = self.network(input)
        maps = keras.Model(network.input, network.output, name=ENCODE)(images)
        rows, columns = maps.shape[1:3]
        grid = Grid(rows=rows, columns=columns, order=self.order)
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_windows")(standardised(maps))
        windows = layers.Dense(self.projection, activation="relu", name="project", **seeds.kernel())(x)
        states = [self._lines(windows, along=along, seeds=seeds) for along in ("rows", "columns")]
        read = layers.Concatenate(name="both_ways")(states) if self.scan == "both" else states[self.scan == "columns"]
        places, steps = (_numbered(part, grid) for part in (windows, read))
        attended = layers.MultiHeadAttention(
            self.heads,
            max(1, self.units // self.heads),
            kernel_initializer=seeds.glorot(),
            seed=seeds.next(),
            name="attend",
        )(steps, steps)
        x = layers.LayerNormalization(name="normalise_states")(layers.Add(name="attended")([steps, attended]))
        x = layers.Concatenate(name="windows_and_lines")([x, places])
        x = layers.Dropout(self.dropout, seed=seeds.next(), name="drop_states")(x)
        scores = layers.Dense(classes, name="score", **seeds.kernel())(x)
        positions = layers.Softmax(name="positions")(scores)
        picture = SharpenedMean(name="of_the_picture")(scores)
        probabilities = layers.Dense(
            classes, activation="softmax", kernel_initializer=keras.initializers.Identity(), name="classify"
        )(picture)
        return keras.Model(images, {"probabilities": probabilities, "positions": positions}, name="defect_bilstm")

    def _lines(self, windows: Any, *, along: Literal["rows", "columns"], seeds: Seeds) -> Any:
        """`[B, rows, columns, D]` → `[B, rows, columns, 2·units]`, read along every row, or every column; None where it is not."""
        if self.scan not in (along, "both"):
            return None
        turned = along == "columns"
        x = layers.Permute((2, 1, 3), name="columns_first")(windows) if turned else windows
        lines = x.shape[1]
        recurrent = layers.LSTM(
            self.units,
            return_sequences=True,
            recurrent_initializer=seeds.orthogonal(),
            name=f"lstm_{along}",
            **seeds.kernel(),
        )
        x = layers.Bidirectional(recurrent, name=f"bilstm_{along}")(EachLine(name=f"each_of_{along}")(x))
        x = BackToLines(lines, name=f"back_to_{along}")(x)
        return layers.Permute((2, 1, 3), name="rows_first")(x) if turned else x


def _numbered(maps: Any, grid: Grid) -> Any:
    """`[B, rows, columns, D]` → `[B, P, D]` in the order of the grid's places."""
    steps = layers.Reshape((grid.places, maps.shape[-1]))(maps)
    if grid.order == "raster":
        return steps
    return ops.take(steps, [row * grid.columns + column for row, column in grid.cells], axis=1)
