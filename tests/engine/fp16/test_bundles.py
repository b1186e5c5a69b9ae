"""The shipped bundles cast to half answer what they answer in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.data.dataset import Dataset
from service.bundle.manifest import Role
from service.bundle.store import Bundle, find_bundles, open_bundle
from service.engine.fp16 import to_fp16
from tests.engine.fp16.graphs import FLOAT, HALF, kinds, session

ROLES: tuple[Role, ...] = ("encoder", "encoder.int8", "head")


@pytest.fixture(params=find_bundles(()), ids=lambda path: path.name)
def shipped(request: pytest.FixtureRequest) -> Bundle:
    return open_bundle(request.param)


def answers(encoder: Any, head: Any, clips: list[np.ndarray]) -> np.ndarray:
    """`[B, K]` for clips `[T, H, W, C]`."""
    rows = []
    for clip in clips:
        features = np.concatenate(
            [encoder.run(None, {"frames": clip[at : at + 8]})[0] for at in range(0, len(clip), 8)]
        )
        rows.append(head.run(None, {"features": features[None]})[0][0])
    return np.stack(rows)


@pytest.mark.parametrize("role", ROLES)
def test_inputs_and_outputs_keep_their_types_and_products_run_in_half(shipped: Bundle, role: Role) -> None:
    data = shipped.file(role).read_bytes()
    before, after = onnx.load_from_string(data), onnx.load_from_string(to_fp16(data))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    read = kinds(to_fp16(data))
    for kind in {"Conv", "LSTM"}.intersection(read):
        assert read[kind] == {HALF}
    assert read.get("Softmax", {FLOAT}) == {FLOAT}
    assert read.get("ReduceMean", {FLOAT}) == {FLOAT}


def test_weights_stored_in_half_precision_come_out_as_they_were(shipped: Bundle) -> None:
    data = shipped.file("encoder").read_bytes()
    stored = {tensor.name: tensor for tensor in onnx.load_from_string(data).graph.initializer}
    cast = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(to_fp16(data)).graph.initializer
    }
    halves = [name for name, tensor in stored.items() if tensor.data_type == HALF]
    assert len(halves) > 20
    for name in halves:
        np.testing.assert_array_equal(
            cast[name.removesuffix("/half") + "/float16"], numpy_helper.to_array(stored[name])
        )


def test_half_answers_the_golden_clips_as_float_does(shipped: Bundle) -> None:
    encoder, head = (session(to_fp16(shipped.file(role).read_bytes())) for role in ("encoder", "head"))
    golden = shipped.golden()
    found = answers(encoder, head, list(golden.frames))
    assert np.abs(found - golden.probabilities).max() < 3e-3  # measured: 1.6e-3 and 1.2e-4


def test_int8_with_a_half_remainder_answers_the_golden_clips_as_int8_does(shipped: Bundle) -> None:
    int8, head = (shipped.file(role).read_bytes() for role in ("encoder.int8", "head"))
    golden = shipped.golden()
    found = answers(session(to_fp16(int8)), session(to_fp16(head)), list(golden.frames))
    assert np.abs(found - golden.probabilities).max() < shipped.manifest.golden.tolerance["int8"]
    # Measured: 6.3e-2 and 3.5e-3; another order of roundings alone flips as many (CONTRIBUTING).
    assert np.abs(found - answers(session(int8), session(head), list(golden.frames))).max() < 0.1


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "folder", "count"), [("imagenet", "imagenet_photos", 12), ("fight", "surveillance_fight", 2)]
)
def test_real_frames_get_the_same_class_in_half(data: Path, name: str, folder: str, count: int) -> None:
    bundle = open_bundle(next(path for path in find_bundles(()) if path.name == name))
    manifest = bundle.manifest
    dataset = Dataset.open(data / folder, labels=manifest.labels)
    chosen = dataset.split("test")[:: len(dataset.split("test")) // count][:count]
    clips = [dataset.load(sample, spec=manifest.input, sampling=manifest.sampling).frames for sample in chosen]
    encoder, int8, head = (bundle.file(role).read_bytes() for role in ROLES)
    wanted = answers(session(encoder), session(head), clips)
    half = answers(session(to_fp16(encoder)), session(to_fp16(head)), clips)
    assert np.abs(half - wanted).max() < 1e-2  # the largest of 200 photos and 55 clips: 4.9e-3 and 7e-4
    assert (half.argmax(axis=1) == wanted.argmax(axis=1)).all()
    whole = answers(session(int8), session(head), clips)
    mixed = answers(session(to_fp16(int8)), session(to_fp16(head)), clips)
    assert np.abs(mixed - whole).max(axis=1).mean() < 4e-2  # 1.5e-2 and 5.5e-3
    assert (mixed.argmax(axis=1) == whole.argmax(axis=1)).sum() >= count - 1


def test_the_same_graph_gives_the_same_bytes(shipped: Bundle) -> None:
    data = shipped.file("encoder.int8").read_bytes()
    assert to_fp16(data) == to_fp16(data)
