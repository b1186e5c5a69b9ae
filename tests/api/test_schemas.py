"""How much of its positions an answer lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.api.schemas import MAX_ROWS, ImageClassified, Place, image_answer
from service.engine.base import EngineInfo
from service.errors import InvalidParameter
from service.media.frames import Clip, ImageInfo
from service.media.limits import Limits
from service.media.workers import DecodePool
from service.predictor import Answer, Predictor
from tests.clip_bundle import LABELS, SIDE, make_clip_bundle


@pytest.fixture
def model(tmp_path: Path) -> Predictor:
    """Nothing runs here: what it would have said is made up below."""
    bundle = make_clip_bundle(tmp_path / "motion", positions="places")
    return Predictor(bundle, replicas=(), decoders=DecodePool(1, limits=Limits(), timeout_s=1))


def answered(model: Predictor, places: int, *, top_k: int | None) -> ImageClassified:
    rows = np.random.default_rng(0).random((places, len(LABELS)), np.float32)
    clip = Clip(np.zeros((1, SIDE, SIDE, 3), np.uint8), (0,), (0.0,), ImageInfo(SIDE, SIDE, "PNG", 1))
    info = EngineInfo("onnxruntime", "fp32", "fp32", "cpu", 1, ("clip",))
    answer = Answer(clip, rows.mean(axis=0), None, None, rows, False, info, 1, {})
    return image_answer(answer, model, top_k=top_k, request_id="1", timings={})


def test_where_nobody_counted_there_are_as_many_classes_as_there_is_room_for(model: Predictor) -> None:
    for places, classes in ((4, 5), (2000, 5), (2001, 4), (MAX_ROWS, 1)):
        found = answered(model, places, top_k=None).positions
        assert found is not None
        assert [len(found), len(found[0].predictions)] == [places, classes]
        assert all(isinstance(each, Place) for each in found)
        assert found[-1].position == places - 1


def test_more_than_there_is_room_for_is_refused_where_it_was_asked_for(model: Predictor) -> None:
    with pytest.raises(InvalidParameter, match=r"2500 positions of 5 classes are 12500 rows, .* lower top_k to 4"):
        answered(model, 2500, top_k=0)
    found = answered(model, 2500, top_k=4).positions
    assert found is not None
    assert len(found[0].predictions) == 4


def test_positions_beyond_all_room_are_left_out_and_the_answer_says_so(model: Predictor) -> None:
    answer = answered(model, MAX_ROWS + 1, top_k=1)
    assert answer.positions is None
    assert answer.warnings == ["its 10001 positions are left out: 10000 rows are allowed in one answer"]
    assert answer.predictions
