"""ONNX nodes written from Keras layers. Each module registers the writers of its layers, so importing the package knows them all."""

from models.export.nodes import (
    activation,
    attention,
    conv,
    convlstm,
    dense,
    fold_time,
    functions,
    lines,
    merge,
    normalize,
    recurrent,
    shape,
    zoo,
)

__all__ = [
    "activation",
    "attention",
    "conv",
    "convlstm",
    "dense",
    "fold_time",
    "functions",
    "lines",
    "merge",
    "normalize",
    "recurrent",
    "shape",
    "zoo",
]
