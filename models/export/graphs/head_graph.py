"""The head as ONNX, whatever its layers: written node by node, and by way of tf2onnx where a layer is the user's own."""

from __future__ import annotations

import keras
import onnx

from models.errors import ExportRefused
from models.export.graphs.assemble import assemble
from models.export.graphs.head import head_onnx


def head_graph(head: keras.Model) -> onnx.ModelProto:
    """As `head_onnx`; layers and operations that no writer knows are translated. Raises ExportRefused as the writers do."""
    try:
        return head_onnx(head)
    except ExportRefused as refused:
        frames, dim = head.input_shape[1:]
        time = frames or "T"
        gives = {
            name: ("B", *(size or time for size in head.output[name].shape[1:]))
            for name in ("probabilities", "attention", "positions")
            if name in head.output
        }
        try:
            return assemble(head, name="head", entry=("features", ("B", time, dim)), gives=gives, dtype="float32")
        except ExportRefused:
            raise refused from None
