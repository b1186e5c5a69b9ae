"""Recurrent nodes are listed with what makes them slow on a GPU."""

from __future__ import annotations

import onnx
import onnx.parser

from models.export.report.loops import Loop, loops, sentence
from service.bundle.store import find_bundles, open_bundle

_TWO = """<ir_version: 8, opset_import: ["" : 18]>
  head (float[B,T,3] x) => (float[T,1,B,6] y)
  <float[2,20,3] w1 = {}, float[2,20,5] r1 = {}, float[1,18,10] w2 = {}, float[1,18,6] r2 = {}, int64[3] flat = {0, 0, -1}> {
    first = Transpose<perm = [1, 0, 2]>(x)
    both = LSTM<hidden_size = 5, direction = "bidirectional">(first, w1, r1)
    last = Transpose<perm = [0, 2, 1, 3]>(both)
    joined = Reshape(last, flat)
    y = GRU<hidden_size = 6>(joined, w2, r2)
  }"""


def test_the_loops_of_the_shipped_bundles_are_those_of_their_architectures() -> None:
    found = {}
    for path in find_bundles(()):
        bundle = open_bundle(path)
        found[path.name] = loops(onnx.load(bundle.file("head")), sizes={"B": 1, "T": 24})
    assert found["imagenet"] == []
    assert found["fight"] == [Loop("bilstm", "LSTM", 16, 2, 24)]


def test_stacked_layers_wait_for_one_another() -> None:
    values = {"w1": 120, "r1": 200, "w2": 180, "r2": 108}
    text = _TWO
    for name, count in values.items():
        text = text.replace(f"{name} = {{}}", f"{name} = {{{', '.join(['0.5'] * count)}}}")
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"{node.output[0]}/{node.op_type}"
    found = loops(model, sizes={"B": 2, "T": 7})
    assert found == [Loop("both", "LSTM", 5, 2, 7), Loop("y", "GRU", 6, 1, 7)]
    assert "14 steps that wait for one another" in sentence(found)
    assert "about 0.11 ms" in sentence(found)


def test_a_head_without_recurrence_costs_no_steps() -> None:
    assert sentence([]).endswith("TensorRT runs nothing as a loop.")
