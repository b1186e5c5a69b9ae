"""Each engine gives what NumPy gives, says what it really runs, and is refused where it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from service.bundle.manifest import Golden
from service.bundle.store import Bundle, sha256
from service.engine.base import Place
from service.engine.buckets import BUCKETS
from service.engine.golden import probabilities, prove, warm
from service.engine.ort import OnnxRuntimeEngine
from service.engine.ov import OpenVinoEngine
from service.engine.select import open_engine
from service.errors import EngineError

ENGINES = [OpenVinoEngine, OnnxRuntimeEngine]


@pytest.fixture
def doubtful(make_bundle: Callable[..., Bundle], color_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A color bundle that holds a wrong INT8 encoder: it reads BGR, as a mix-up would."""
    wrong = onnx.load(color_bundle.file("encoder"))
    wrong.graph.node.append(onnx.helper.make_node("Gather", ["straight", "order"], ["features"], axis=1))
    next(node for node in wrong.graph.node if node.op_type == "Div").output[0] = "straight"
    wrong.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    data = wrong.SerializeToString()
    made = make_bundle(tmp_path / "doubtful")
    artifact = made.manifest.artifacts["encoder"].model_copy(
        update={
            "file": "encoder.int8.onnx",
            "sha256": sha256(data),
            "bytes": len(data),
            "precision": "int8",
            "weights": "int8",
        }
    )
    (made.path / "encoder.int8.onnx").write_bytes(data)
    golden = Golden(sha256=made.manifest.golden.sha256, tolerance={"fp32": 1e-4, "int8": 0.05})
    artifacts = {**made.manifest.artifacts, "encoder.int8": artifact}
    return Bundle(made.path, made.manifest.model_copy(update={"artifacts": artifacts, "golden": golden}))


@pytest.mark.parametrize("opener", ENGINES)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 7), (3, 4)])
def test_both_engines_compute_what_numpy_computes(color_bundle: Bundle, opener: type, batch: int, length: int) -> None:
    frames = np.random.default_rng(batch).integers(0, 256, (batch, length, 16, 16, 3), np.uint8)
    logits = frames.astype(np.float64).mean(axis=(1, 2, 3)) / 255 * 8
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    with closing(opener(color_bundle, precision="fp32", place=Place(threads=2))) as engine:
        assert probabilities(engine, frames) == pytest.approx(expected, abs=1e-5)
        assert engine.info.precision == engine.info.float_precision == "fp32"
        assert engine.info.device


def test_an_openvino_engine_says_that_its_head_runs_on_onnxruntime(color_bundle: Bundle) -> None:
    for opener, head in ((OpenVinoEngine, "onnxruntime"), (OnnxRuntimeEngine, None)):
        with closing(opener(color_bundle, precision="fp32", place=Place(threads=1))) as engine:
            assert engine.info.head_engine == head
            with pytest.raises(EngineError, match="onnxruntime failed in the head on rows"):
                engine.run("head", np.zeros((1, 2, 4), np.float32))


@pytest.mark.parametrize("opener", ENGINES)
def test_rows_are_independent_and_belong_to_the_caller(color_bundle: Bundle, opener: type) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    with closing(opener(color_bundle, precision="fp32", place=Place(threads=2))) as engine:
        together = engine.run("encoder", frames)["features"]
        copy = together.copy()
        alone = np.concatenate([engine.run("encoder", frames[i : i + 1])["features"] for i in range(5)])
    assert together == pytest.approx(alone, abs=1e-6)
    assert np.array_equal(together, copy), "a later run must not change rows that were handed out"


@pytest.mark.parametrize("opener", ENGINES)
def test_rows_of_a_wrong_shape_are_an_engine_error(color_bundle: Bundle, opener: type) -> None:
    with (
        closing(opener(color_bundle, precision="fp32", place=Place(threads=1))) as engine,
        pytest.raises(EngineError, match="encoder"),
    ):
        engine.run("encoder", np.zeros((1, 8, 8, 3), np.uint8))


def test_every_batch_size_can_be_warmed(color_bundle: Bundle) -> None:
    opened = open_engine(color_bundle, place=Place(threads=2))
    warm(opened.engine, color_bundle, buckets=BUCKETS)
    assert prove(opened.engine, color_bundle) == opened.golden_difference <= 1e-4


def test_a_wrong_int8_encoder_is_found_out_and_auto_serves_float_loudly(
    doubtful: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        opened = open_engine(doubtful, place=Place(threads=2))
    assert (opened.engine.info.name, opened.engine.info.precision) == ("openvino", "fp32")
    assert "openvino int8: openvino at int8 differs from the float reference of color" in opened.refused[-1]
    assert "does not run on openvino int8: openvino at int8 differs" in caplog.text


def test_a_wrong_int8_encoder_that_was_asked_for_is_an_error(doubtful: Bundle) -> None:
    with pytest.raises(EngineError, match=r"differs from the float reference .* use --precision fp32"):
        open_engine(doubtful, precision="int8", place=Place(threads=2))


def test_a_named_engine_that_cannot_do_it_is_an_error_with_its_reason(color_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="holds no INT8 encoder; make it with marey-build quantize"):
        open_engine(color_bundle, name="openvino", precision="int8", place=Place(threads=2))
    with pytest.raises(EngineError, match="does not run fp16"):
        open_engine(color_bundle, name="openvino", precision="fp16", place=Place(threads=2))
    with pytest.raises(
        EngineError, match="no engine 'abacus' in this version; choose auto, tensorrt, openvino, onnxruntime"
    ):
        open_engine(color_bundle, name="abacus", place=Place(threads=2))


def test_when_nothing_runs_every_reason_is_listed(color_bundle: Bundle) -> None:
    damaged = Bundle(
        color_bundle.path,
        color_bundle.manifest.model_copy(update={"golden": Golden(sha256="0" * 64, tolerance={"fp32": 0.0})}),
    )
    with pytest.raises(EngineError, match=r"openvino fp32: .*; onnxruntime fp32: ") as refusal:
        open_engine(damaged, place=Place(threads=2))
    assert "no engine runs bundle color" in str(refusal.value)
