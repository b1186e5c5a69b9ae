"""Every graph of an export becomes a TensorRT engine, as far as that can be shown without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.errors import ExportRefused
from models.export.gate import build_gate
from models.export.half import halve
from service.bundle.manifest import Role
from service.bundle.store import Bundle, find_bundles, open_bundle

pytest.importorskip("tensorrt_rtx", reason="the gate needs tensorrt-rtx, which is for x86-64 only")


@pytest.mark.parametrize("role", ["encoder", "encoder.int8", "head"])
def test_tensorrt_builds_the_graphs_of_a_foreign_model(foreign_int8: Bundle, role: Role) -> None:
    gate = build_gate(foreign_int8.file(role).read_bytes())
    assert gate.layers > 20
    assert gate.plan_bytes > 100_000


@pytest.mark.parametrize("role", ["encoder", "encoder.int8", "head"])
@pytest.mark.parametrize("path", find_bundles(()), ids=lambda path: path.name)
def test_tensorrt_builds_the_graphs_of_the_shipped_bundles(path: Path, role: Role) -> None:
    assert build_gate(open_bundle(path).file(role).read_bytes()).plan_bytes > 10_000


@pytest.mark.parametrize("role", ["encoder", "head"])
def test_tensorrt_builds_weights_stored_in_half_precision(foreign_int8: Bundle, role: Role) -> None:
    model = onnx.load(foreign_int8.file(role))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    halved = halve(model)
    assert halved.ByteSize() < 0.55 * model.ByteSize()
    assert build_gate(halved).plan_bytes > 100_000


def test_what_tensorrt_cannot_read_is_refused_with_its_reason() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"], name="determinant")],
        "odd",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 3])],
        [value("y", onnx.TensorProto.FLOAT, ["N"])],
    )
    with pytest.raises(ExportRefused, match=r"TensorRT cannot read the graph.*Det"):
        build_gate(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
