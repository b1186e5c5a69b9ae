"""What cannot be cast is refused, with the reason and a remedy."""

from __future__ import annotations

import sys

import pytest

from service.engine.fp16 import to_fp16
from service.errors import EngineError, EngineUnavailable
from tests.engine.fp16.graphs import text

REFUSED = {
    "control flow": (
        """
    loops (float[N] x, bool yes) => (float[N] y) {
      y = If (yes) <then_branch = g1 () => (float[N] a) { a = Exp(x) }, else_branch = g2 () => (float[N] b) { b = Log(x) }>
    }""",
        r"control flow \(If\).*export the bundle again",
    ),
    "a computed scale": (
        """
    scaled (float[N] x, float s) => (float[N] y) <int8 zero = {0}> {
      q = QuantizeLinear(x, s, zero)
      y = DequantizeLinear(q, s, zero)
    }""",
        r"QuantizeLinear '' has a scale that is computed; quantize the bundle again",
    ),
    "an unknown node": (
        "odd (float[N] x) => (float[N] y) { y = Unheard(x) }",
        r"is ai.onnx::Unheard, which ONNX does not define",
    ),
    "types that do not fit": (
        "odd (float[N] x, int64[N] i) => (float[N] y) { y = Add(x, i) }",
        r"types do not fit.*export the bundle again",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cast_is_refused_by_its_node(name: str) -> None:
    body, reason = REFUSED[name]
    with pytest.raises(EngineError, match=reason):
        to_fp16(text(body))


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(EngineError, match="no ONNX model"):
        to_fp16(b"not a graph")


def test_without_the_onnx_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineUnavailable, match=r"run make gpu in a checkout, or pip install onnx"):
        to_fp16(b"")
