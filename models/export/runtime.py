"""An ONNX graph run by onnxruntime on the CPU, in float: what the exporter compares with Keras."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray


class Runtime:
    """One graph with one input."""

    def __init__(self, model: onnx.ModelProto | bytes, *, threads: int = 0) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # the wheel holds a telemetry client
        import onnxruntime  # noqa: PLC0415 -- after the variable is set

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        data = model if isinstance(model, bytes) else model.SerializeToString()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, rows: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(self._outputs, self._session.run(None, {self._input: rows}), strict=True))
