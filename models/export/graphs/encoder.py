"""The encoder as ONNX: frames as bytes in, features out, with the normalisation inside."""

from __future__ import annotations

import keras
import onnx

from models.export.graphs.assemble import assemble


def encoder_onnx(encoder: keras.Model) -> onnx.ModelProto:
    """`frames` uint8 `[N, H, W, C]` → `features` float32 `[N, D]`; raises ExportRefused where a layer traces to a loop.

    `encoder` takes the same values as float32. An LSTM or GRU over the rows of a picture is a real node.
    """
    return assemble(
        encoder,
        name="encoder",
        entry=("frames", ("N", *encoder.input_shape[1:])),
        gives={"features": ("N", int(encoder.output_shape[-1]))},
    )
