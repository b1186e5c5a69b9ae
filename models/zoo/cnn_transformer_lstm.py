"""CNN, self-attention over the frames, then an LSTM: every frame is first seen in the light of all others."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers
from pydantic import Field
from typing_extensions import override

from models.errors import RecipeError
from models.zoo.backbones import OnBackbone
from models.zoo.recurrent import Readout, answers, projected, read_out, recurrent
from models.zoo.seeds import Seeds
from models.zoo.stem import encoded, standardised
from service.bundle.manifest import Input


class CnnTransformerLstm(OnBackbone):
    """The parameters of `cnn_transformer_lstm`."""

    name: Literal["cnn_transformer_lstm"]
    grid: tuple[int, int] = (1, 1)
    width: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    blocks: int = Field(default=1, ge=1, le=8)
    units: int = Field(default=64, ge=1)
    bidirectional: bool = False
    readout: Readout = "last"
    dropout: float = Field(default=0.5, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)

    @override
    def build(self, *, classes: int, input: Input, frames: int, seed: int) -> keras.Model:
        """Clips `[B, T, H, W, 3]` of 0…255 RGB → probabilities `[B, classes]`; any T from 1 on.

        TimeDistributed(`backbone` up to `until`, averaged over `grid`) → BatchNorm → Dense(`width`) → `blocks` of self-attention
        over the frames and a feed-forward layer, each added to what it was given and layer-normalised (Vaswani et al. 2017,
        arXiv 1706.03762, §3.1) → LSTM(`units`) → `readout` over time → Dense softmax. There are no positional encodings: the LSTM
        knows the order.
        """
        if self.width % self.heads:
            raise RecipeError(f"{self.heads} heads do not divide a width of {self.width}; choose a divisor")
        seeds = Seeds(seed, weight_decay=self.weight_decay)
        clips, x = encoded(self.network(input), grid=self.grid)
        x = projected(standardised(x), self.width, dropout=self.dropout, seeds=seeds)
        for number in range(self.blocks):
            x = self._block(x, number, seeds)
        states = recurrent(
            x,
            units=self.units,
            bidirectional=self.bidirectional,
            sequences=self.readout != "last",
            seeds=seeds,
        )
        summary, weights = read_out(states, self.readout, seeds=seeds)
        found = answers(summary, weights, classes=classes, dropout=self.dropout, seeds=seeds)
        return keras.Model(clips, found, name="cnn_transformer_lstm")

    def _block(self, x: Any, number: int, seeds: Seeds) -> Any:
        attend = layers.MultiHeadAttention(self.heads, self.width // self.heads, name=f"attend_{number}")
        seen = attend(x, x)
        # Keras gives queries, keys and values one initialiser, and with a seed one and the same kernel; each gets its own.
        for dense in (attend.query_dense, attend.key_dense, attend.value_dense, attend.output_dense):
            dense.kernel.assign(seeds.glorot()(dense.kernel.shape))
        x = self._joined(x, seen, f"attend_{number}", seeds)
        wide = layers.Dense(2 * self.width, activation="relu", name=f"widen_{number}", **seeds.kernel())(x)
        narrow = layers.Dense(self.width, name=f"narrow_{number}", **seeds.kernel())(wide)
        return self._joined(x, narrow, f"feed_{number}", seeds)

    def _joined(self, x: Any, more: Any, name: str, seeds: Seeds) -> Any:
        more = layers.Dropout(self.dropout / 2, seed=seeds.next(), name=f"drop_{name}")(more)
        return layers.LayerNormalization(name=f"norm_{name}")(layers.Add(name=f"add_{name}")([x, more]))
