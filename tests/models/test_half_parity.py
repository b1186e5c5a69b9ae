"""A foreign model in half stays within the tolerances that its manifest states, which are the engine's proof on a GPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from service.bundle.manifest import Precision, Role
from service.bundle.store import Bundle
from service.engine.fp16 import to_fp16


@pytest.mark.parametrize(("role", "precision"), [("encoder", "fp16"), ("encoder.int8", "int8")])
def test_a_foreign_model_in_half_keeps_to_the_tolerances_of_its_manifest(
    foreign_int8: Bundle, role: Role, precision: Precision
) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # see tests/engine/fp16/graphs.py
    encoder, head = (
        onnxruntime.InferenceSession(
            to_fp16(foreign_int8.file(each).read_bytes()), options, providers=["CPUExecutionProvider"]
        )
        for each in (role, "head")
    )
    golden = foreign_int8.golden()
    count, length = golden.frames.shape[:2]
    flat = golden.frames.reshape(count * length, *golden.frames.shape[2:])
    features = encoder.run(None, {"frames": flat})[0].reshape(count, length, -1)
    found = head.run(None, {"features": features})[0]
    difference = float(np.abs(found - golden.probabilities).max())
    assert difference < foreign_int8.manifest.golden.tolerance[precision] * (0.5 if precision == "fp16" else 1)
