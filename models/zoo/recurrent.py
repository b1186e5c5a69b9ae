"""Steps read one after the other: LSTM or GRU, one way or both, stacked, and what is kept of their states."""

from __future__ import annotations

from typing import Any, Literal

from keras import layers

from models.zoo.seeds import Seeds

Cell = Literal["lstm", "gru"]
Readout = Literal["last", "mean", "max", "mean_max", "attention"]
_CELLS = {"lstm": layers.LSTM, "gru": layers.GRU}


def projected(features: Any, width: int, *, dropout: float, seeds: Seeds) -> Any:
    """Features `[B, T, D]` → Dropout → Dense → `[B, T, width]`."""
    dropped = layers.Dropout(dropout, seed=seeds.next(), name="drop_features")(features)
    return layers.Dense(width, name="project", **seeds.kernel())(dropped)


def recurrent(
    steps: Any,
    *,
    cell: Cell = "lstm",
    units: int,
    depth: int = 1,
    bidirectional: bool = True,
    dropout: float = 0.0,
    sequences: bool = True,
    seeds: Seeds,
) -> Any:
    """Steps `[B, T, D]` → states `[B, T, U]`, or without `sequences` the last `[B, U]`; U is `units`, twice that both ways.

    `depth` layers, one on the states of the other, with dropout between them. All options are those of the cuDNN kernel.
    """
    for number in range(depth):
        last = number == depth - 1
        suffix = "" if last else f"_{number}"
        inner = _CELLS[cell](
            units,
            return_sequences=sequences or not last,
            recurrent_initializer=seeds.orthogonal(),
            name=f"{cell}{suffix}",
            **seeds.kernel(),
        )
        layer = layers.Bidirectional(inner, name=f"bi{cell}{suffix}") if bidirectional else inner
        steps = layer(steps)
        if not last and dropout:
            steps = layers.Dropout(dropout, seed=seeds.next(), name=f"drop_states{suffix}")(steps)
    return steps


def read_out(states: Any, readout: Readout, *, seeds: Seeds) -> tuple[Any, Any | None]:
    """States `[B, T, U]` → a summary `[B, U]`, twice as wide for `mean_max`, and the weights of attention `[B, T]`, if any.

    `last` came without the time axis. `attention` weighs the states by softmax(wᵀ·tanh(h)) over time, and the summary is
    their weighted sum (Zhou et al. 2016, Attention-Based Bidirectional LSTM Networks for Relation Classification, eq. 9–11).
    """
    if readout == "last":
        return states, None
    if readout == "attention":
        scores = layers.Dense(1, use_bias=False, name="attention_scores", **seeds.kernel())(
            layers.Activation("tanh", name="attention_tanh")(states)
        )
        weights = layers.Softmax(axis=-1, name="attention")(layers.Flatten(name="attention_steps")(scores))
        return layers.Dot(axes=1, name="attended")([weights, states]), weights
    mean, largest = layers.GlobalAveragePooling1D(name="mean"), layers.GlobalMaxPooling1D(name="max")
    if readout == "max":
        return largest(states), None
    if readout == "mean_max":
        return layers.Concatenate(name="mean_max")([mean(states), largest(states)]), None
    return mean(states), None


def answers(summary: Any, attention: Any | None, *, classes: int, dropout: float, seeds: Seeds) -> Any:
    """A summary `[B, U]` → probabilities `[B, classes]`; with the attention, where there is one, a dict of both."""
    dropped = layers.Dropout(dropout, seed=seeds.next(), name="drop_summary")(summary)
    probabilities = layers.Dense(classes, activation="softmax", name="classify", **seeds.kernel())(dropped)
    return probabilities if attention is None else {"attention": attention, "probabilities": probabilities}
